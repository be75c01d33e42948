import { UsageEntry } from '@tally/contracts';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isPlainEntry } from './plain-entry.ts';

const mostly = <T>(good: readonly T[], odd: fc.Arbitrary<unknown>) =>
  fc.oneof({ weight: 12, arbitrary: fc.constantFrom<unknown>(...good) }, { weight: 1, arbitrary: odd });

const text = mostly(
  ['acme', 'gpt-4o'],
  fc.oneof(fc.constantFrom('', 'é', '\u0000', '\ud800', '(other)', 'x'.repeat(257)), fc.string()),
);
const amount = mostly(
  ['0', '12', '100'],
  fc.oneof(
    fc.constantFrom<unknown>('1000000000000000', '1000000000000001', '1.5', '-1', '01', '0.0023', 5, '0.0000000001'),
    fc.string(),
  ),
);
const type = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom('cost', 'prompt_tokens', 'queries') },
  fc.constantFrom('requests', 'Bad', '__proto__', ''),
);
const metrics = mostly<unknown>(
  [{ prompt_tokens: '374', cost: '0.0023' }],
  fc.oneof(fc.dictionary(type, amount), fc.anything()),
);
const entry = fc.record(
  {
    id: mostly(['r-1'], fc.oneof(fc.constantFrom('null', 'NaN', ' ', 'unknown', '[object Object]'), text)),
    merchantId: mostly(['acme'], fc.constantFrom('a'.repeat(65), 'a b')),
    time: mostly(
      ['2026-11-22T10:00:00Z'],
      fc.oneof(fc.constantFrom('2026-02-30T10:00:00Z', '1000-01-01T00:00:00+14:00', '2026-11-22'), fc.string()),
    ),
    metrics: fc.oneof(metrics, fc.dictionary(type, amount)),
    userId: text,
    model: fc.oneof({ weight: 5, arbitrary: text }, fc.anything()),
    status: mostly(['success', 'failure'], fc.constant('maybe')),
    count: fc.constantFrom(1, 0, '3'),
    properties: mostly<unknown>(
      [{ region: 'eu-west-1', attempt: 2, stream: true }],
      fc.oneof(
        fc.dictionary(
          fc.oneof(
            fc.constantFrom('region', '__proto__', 'constructor', 'é', 'a b', ' a'),
            fc.string({ maxLength: 70 }),
          ),
          fc.oneof(fc.string(), fc.boolean(), fc.double(), fc.constantFrom('x'.repeat(513), null, Number.NaN)),
          { maxKeys: 18 },
        ),
        fc.anything(),
      ),
    ),
    colour: text,
  },
  { requiredKeys: ['id', 'merchantId', 'metrics'] },
);

test('accepts only plain entries that the schema accepts', () => {
  let plain = 0;
  fc.assert(
    fc.property(fc.oneof(entry, fc.anything()), (value) => {
      if (!isPlainEntry(value)) return;
      plain++;
      const parsed = UsageEntry.safeParse(value);
      expect(parsed.success && parsed.data).toEqual(value);
    }),
    { numRuns: 20_000 },
  );
  expect(plain).toBeGreaterThan(40);
});

test('the usual entry is plainly one', () => {
  const metrics = { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' };
  const usual = {
    id: 'r-1',
    merchantId: 'acme',
    time: '2026-11-22T10:00:00.5Z',
    userId: 'ada',
    model: 'gpt-4o',
    status: 'failure',
    metrics,
    properties: { region: 'eu-west-1', attempt: 2, stream: true },
  };
  expect(isPlainEntry(usual)).toBe(true);
});
