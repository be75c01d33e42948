import { type CheckedEntry, MAX_ENTRY_UNITS, parseQuantity, UsageEntry } from '@tally/contracts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type RecordInput, type Scales, scaleReader } from './entry.ts';
import { printGroup } from './group.ts';
import { createMerger } from './merge.ts';

const NOON = Date.parse('2026-11-22T12:00:00Z');

const SCALES = { minutes: 3, nanos: 9 };

function merger(merge = true, scales: Scales = SCALES) {
  let ids = 0;
  return createMerger({ merge, scaleOf: scaleReader(scales), newId: () => `id-${ids++}`, admit: () => undefined });
}

const amount = fc.oneof(
  fc.integer({ min: 0, max: 1000 }),
  fc.integer({ min: 0, max: 1e15 }),
  fc.bigInt({ min: 0n, max: 10n ** 15n }),
  fc.bigInt({ min: 0n, max: 10n ** 15n }).map(String),
);
const cost = fc
  .tuple(fc.integer({ min: 0, max: 999_999 }), fc.string({ unit: fc.constantFrom(...'0123456789'), maxLength: 9 }))
  .map(([whole, fraction]) => (fraction === '' ? String(whole) : `${whole}.${fraction}`));
const minutes = fc
  .tuple(fc.integer({ min: 0, max: 1e12 - 1 }), fc.integer({ min: 0, max: 999 }))
  .map(([whole, thousandths]) => `${whole}.${String(thousandths).padStart(3, '0')}`);
const nanos = fc.oneof(fc.constantFrom('0.1', '0.000000001', '999999.999999999'), fc.integer({ min: 0, max: 1e6 }));
const few = (...names: string[]) => fc.constantFrom(undefined, '', 'unknown', ...names);

const entry: fc.Arbitrary<RecordInput> = fc.record({
  merchantId: fc.constantFrom('m1', 'm2'),
  time: fc.integer({ min: 0, max: 3_000_000 }).map((ms) => NOON + ms),
  metrics: fc.record({ prompt_tokens: amount, cost, images: amount, minutes, nanos }, { requiredKeys: [] }),
  userId: few('u1', 'u2'),
  apiKey: few('k'),
  model: few('gpt', 'claude', 'g', 'pt'),
  provider: few('p', 'tp'),
  status: fc.constantFrom(undefined, 'success', 'failure'),
  count: fc.constantFrom(undefined, 1, 7, 1e15),
  properties: fc.constantFrom<RecordInput['properties'][]>(
    undefined,
    {},
    { a: 1, b: 'x' },
    { b: 'x', a: 1 },
    { a: '1' },
  ),
});

/** Sums by everything that must not be mixed, in the contract's terms. */
function sums(entries: readonly CheckedEntry[]): Map<string, bigint> {
  const result = new Map<string, bigint>();
  for (const { merchantId, time, metrics, userId, apiKey, model, provider, status, count, properties } of entries) {
    const known = [userId, apiKey, model, provider].map((name) => (name === 'unknown' ? '' : (name ?? '')));
    const bucket = Math.floor(Date.parse(time!) / 900_000);
    const listed = Object.entries(properties ?? {}).sort();
    const key = JSON.stringify([merchantId, bucket, ...known, status ?? 'success', listed]);
    const add = (type: string, units: bigint) =>
      result.set(`${key} ${type}`, (result.get(`${key} ${type}`) ?? 0n) + units);
    add('calls', BigInt(count ?? 1));
    for (const [type, text] of Object.entries(metrics)) {
      const [whole, fraction = ''] = text.split('.');
      add(type, BigInt(whole!) * 10n ** 9n + BigInt(fraction.padEnd(9, '0')));
    }
  }
  return result;
}

const asSent = (input: RecordInput): CheckedEntry =>
  ({
    ...input,
    id: 'x',
    time: new Date(input.time!).toISOString(),
    metrics: Object.fromEntries(Object.entries(input.metrics).map(([type, value]) => [type, String(value)])),
  }) as CheckedEntry;

describe('merging', () => {
  test('names the field and the rule of a wrong amount', () => {
    const cost = { cost: 0.1 } as never;
    const money = 'Expected USD from 0 to 1,000,000 as a decimal string with at most 9 decimals, such as "0.0023"';
    expect(merger().record({ merchantId: 'm', metrics: cost }, NOON)?.message).toBe(`metrics.cost: ${money}`);
    expect(merger().track({ merchantId: 'm', metricType: 'cost', by: 1 }, NOON)?.message).toBe(`by: ${money}`);
    const whole = 'Expected a whole number from 0 to 10^15';
    const declare =
      'For fractions create a meter with metricType images and scale 2 or more, and give createTally that scale, such as scales: { images: 2 }';
    const metrics = { images: '0.25' };
    expect(merger().record({ merchantId: 'm', metrics }, NOON)?.message).toBe(`metrics.images: ${whole}. ${declare}`);
    expect(merger().track({ merchantId: 'm', metricType: 'images', by: -1 }, NOON)?.message).toBe(`by: ${whole}`);
    const scaled = 'Expected 0 to 10^12 as a decimal string with at most 3 decimals, the scale of minutes';
    for (const by of ['0.1234', 0.5, '1000000000000.001'])
      expect(merger().track({ merchantId: 'm', metricType: 'minutes', by }, NOON)?.message).toBe(`by: ${scaled}`);
  });

  test('rejects scales that no meter can have', () => {
    for (const [scales, problem] of [
      [{ minutes: 10 }, 'scales.minutes: Expected a whole number from 0 to 9, not 10'],
      [{ minutes: '3' as never }, 'scales.minutes: Expected a whole number from 0 to 9, not 3'],
      [{ Minutes: 3 }, 'scales: Minutes is not a metric type'],
      [{ cost: 2 }, 'scales.cost: it is always 9'],
    ] as const)
      expect(() => scaleReader(scales)).toThrow(problem);
    expect(scaleReader({ cost: 9, requests: 0 })('cost')).toBe(9);
  });

  test('conserves every sum exactly, whatever the order of the records', () => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 30 }), fc.infiniteStream(fc.nat()), (entries, order) => {
        const turned = [...entries].sort(() => (order.next().value! % 3) - 1);
        for (const inputs of [entries, turned]) {
          const open = merger();
          for (const input of inputs) expect(open.record(input, NOON)).toBeUndefined();
          const groups = open.take();
          const sent = groups.map((group) => UsageEntry.parse(JSON.parse(printGroup(group))));
          expect(sums(sent)).toEqual(sums(entries.map(asSent)));
          expect(groups.reduce((sum, { records }) => sum + records, 0)).toBe(entries.length);
          expect(new Set(sent.map(({ id }) => id)).size).toBe(sent.length);
        }
      }),
      { numRuns: 40 },
    );
  });

  test('sends one entry per group while no limit is passed', () => {
    const open = merger();
    for (let each = 0; each < 10_000; each++) {
      open.record({ merchantId: 'm', model: `model-${each % 5}`, metrics: { prompt_tokens: 2 } }, NOON);
    }
    expect(open.take().map(({ calls, sums: [tokens] }) => [calls, tokens])).toEqual(Array(5).fill([2000, 4000]));
  });

  test('begins a new entry where a sum would pass the limit of one', () => {
    const open = merger();
    for (let each = 0; each < 3; each++) open.record({ merchantId: 'm', metrics: { tokens: 6e14 } }, NOON);
    expect(open.take().map(({ sums: [tokens] }) => tokens)).toEqual([6e14, 6e14, 6e14]);
  });

  test('leaves entries with an id of their own, and all with merge: false, as they are', () => {
    const open = merger();
    open.record({ id: 'a', merchantId: 'm', metrics: {} }, NOON);
    open.record({ id: 'b', merchantId: 'm', metrics: {} }, NOON);
    expect(open.take().map(({ id }) => id)).toEqual(['a', 'b']);
    const single = merger(false);
    single.record({ merchantId: 'm', metrics: {} }, NOON);
    single.record({ merchantId: 'm', metrics: {} }, NOON);
    expect(single.take().map(({ calls }) => calls)).toEqual([1, 1]);
  });

  test('a closed group never grows', () => {
    const open = merger();
    open.record({ merchantId: 'm', metrics: { tokens: 1 } }, NOON);
    const [first] = open.take();
    open.record({ merchantId: 'm', metrics: { tokens: 5 } }, NOON);
    expect([first!.sums, open.take()[0]!.sums]).toEqual([[1], [5]]);
  });

  test('a part taken leaves the others open', () => {
    const open = merger();
    for (const userId of ['a', 'b', 'c', 'a', 'b'])
      open.record({ merchantId: 'm', userId, metrics: { tokens: 1 } }, NOON);
    const [a] = open.take(1);
    for (const userId of ['a', 'b']) open.record({ merchantId: 'm', userId, metrics: { tokens: 1 } }, NOON);
    const rest = open.take().map(({ userId, sums: [tokens] }) => [userId, tokens]);
    expect([a!.sums, rest]).toEqual([
      [2],
      [
        ['b', 3],
        ['c', 1],
        ['a', 1],
      ],
    ]);
    expect([open.size, open.bytes]).toEqual([0, 0]);
  });

  test('sums the calls of a counter apart from entries', () => {
    const open = merger();
    for (let each = 0; each < 1000; each++) open.track({ merchantId: 'm', metricType: 'queries', by: 3 }, NOON);
    open.record({ merchantId: 'm', metrics: { queries: 1 } }, NOON);
    open.track({ merchantId: 'm', metricType: 'queries', by: 0 }, NOON);
    const [counter, plain] = open.take();
    expect(JSON.parse(printGroup(counter!))).toEqual({
      id: 'id-0',
      merchantId: 'm',
      metricType: 'queries',
      by: '3000',
      time: '2026-11-22T12:00:00.000Z',
    });
    expect(plain!.kind).toBe('record');
  });

  test('counts one for a counter with a scale that names no amount', () => {
    const open = merger();
    open.track({ merchantId: 'm', metricType: 'minutes' }, NOON);
    open.track({ merchantId: 'm', metricType: 'minutes', by: '0.125' }, NOON);
    open.track({ merchantId: 'm', metricType: 'minutes', by: 2n }, NOON);
    expect(JSON.parse(printGroup(open.take()[0]!))).toMatchObject({ by: '3.125' });
  });
});

describe('checking', () => {
  const odd = fc.oneof(
    fc.constantFrom(
      '',
      '0',
      '01',
      '-1',
      '1.5',
      '1e3',
      ' 1',
      '+1',
      '1000000000000000',
      '1000000000000001',
      'x',
      '9'.repeat(19),
    ),
    fc.constantFrom('0.1', '0.1234567891', '.5', '5.', '1000000', '1000000.000000001', '999999.999999999'),
    fc.constantFrom<unknown>(1.5, -1, Number.NaN, Number.POSITIVE_INFINITY, null, true, {}, [], 1e15, 1e15 + 2),
    fc.string({ maxLength: 8 }),
  );
  const name = fc.oneof(
    fc.constantFrom(
      'm',
      'a.b:c-d_e',
      'a b',
      '',
      'é',
      'x'.repeat(64),
      'x'.repeat(65),
      'a\nb',
      '\ud800',
      'x'.repeat(257),
    ),
    fc.string({ unit: 'binary', maxLength: 5 }),
  );
  const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined, freq: 2 });

  test('takes exactly the entries that the contract takes', () => {
    const reserved = new Set(['requests', 'failed_requests', 'total_tokens']);
    const scale = fc.integer({ min: 0, max: 9 });
    const scales = fc.record({ prompt_tokens: scale, a1_: scale }, { requiredKeys: [] });
    const strange = fc.record({
      merchantId: fc.oneof({ weight: 3, arbitrary: fc.constant('m') }, { weight: 1, arbitrary: name }),
      id: maybe(name),
      time: maybe(
        fc.constantFrom('2026-11-22T10:00:00Z', '2026-02-30T10:00:00Z', '2026-11-22', '0999-01-01T00:00:00Z'),
      ),
      metrics: fc.dictionary(fc.constantFrom('cost', 'prompt_tokens', 'Bad', 'requests', 'a1_'), odd, { maxKeys: 3 }),
      userId: maybe(name),
      model: maybe(name),
      status: maybe(fc.constantFrom('success', 'failure', 'ok')),
      count: maybe(fc.constantFrom(0, 1, 2.5, 1e15, 1e16)),
      properties: maybe(fc.dictionary(name, fc.oneof(name, fc.double(), fc.boolean()), { maxKeys: 3 })),
    });
    fc.assert(
      fc.property(strange, scales, (input, known) => {
        const isOfScale = (type: string, amount: unknown) => {
          const units = parseQuantity(type, String(amount), (name) => known[name as keyof typeof known] ?? 0);
          return units !== undefined && units <= MAX_ENTRY_UNITS;
        };
        // Unlike the contract, the client accepts whole numbers beyond 2^53, refuses numbers for money, and knows the
        // scales.
        const metrics = Object.fromEntries(
          Object.entries(input.metrics).map(([type, value]) => [type, Number.isInteger(value) ? String(value) : value]),
        );
        const expected =
          typeof input.metrics.cost !== 'number' &&
          UsageEntry.safeParse({ ...input, id: input.id ?? 'x', metrics }).success &&
          input.id?.trim() !== '' &&
          Object.entries(metrics).every(([type, amount]) => !reserved.has(type) && isOfScale(type, amount));
        expect(merger(true, known).record(input as never, NOON) === undefined).toBe(expected);
      }),
      { numRuns: 300 },
    );
  });

  test.each(['None', 'null', 'undefined', 'NaN', 'nan', 'unknown', '[object Object]', ' ', '   ', ' None '])(
    'refuses the id %j, which stands for a missing value',
    (id) => {
      const refused = { ok: false, code: 'INVALID_ENTRY', message: expect.stringMatching(/^id: .*leave id out/) };
      expect(merger().record({ id, merchantId: 'm', metrics: {} }, NOON)).toEqual(refused);
      expect(merger().track({ id, merchantId: 'm', metricType: 'a' }, NOON)).toEqual(refused);
      expect(merger().record({ id: `${id}-1`, merchantId: 'm', metrics: {} }, NOON)).toBeUndefined();
    },
  );

  test.each([['(other)'], ['a\u200bb'], ['é'.repeat(256)], ['x'.repeat(257)]])(
    'refuses the dimension %j, as the contract does',
    (model) => {
      const entry = { id: 'x', merchantId: 'm', metrics: {}, model };
      expect(UsageEntry.safeParse(entry).success).toBe(false);
      expect(merger().record(entry, NOON)).toMatchObject({ code: 'INVALID_ENTRY' });
    },
  );

  test('counts nothing of an entry it refuses', () => {
    const open = merger();
    open.record({ merchantId: 'm', metrics: { a: 1, b: 1 } }, NOON);
    expect(open.record({ merchantId: 'm', metrics: { a: 1, b: -1 } }, NOON)?.code).toBe('INVALID_ENTRY');
    expect(open.record({ merchantId: 'm', metrics: { a: 1, requests: 1 } }, NOON)?.code).toBe('RESERVED_METRIC');
    expect(open.take()[0]).toMatchObject({ sums: [1, 1], types: ['a', 'b'], calls: 1 });
  });

  test('refuses a field it does not know, rather than not counting it', () => {
    expect(merger().record({ merchantId: 'm', metrics: {}, cost: '1' } as never, NOON)?.message).toMatch(/^cost: /);
  });
});
