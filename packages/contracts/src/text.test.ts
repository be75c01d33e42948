import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { analytics, Filters } from './analytics.ts';
import { engine } from './engine.ts';
import { Dimension, SentDimension, UsageEntry } from './entry.ts';
import { ingest } from './ingest.ts';
import { MeterDefinition } from './meters.ts';
import { RollupList } from './rollups.ts';
import { label, name, storable, text } from './text.ts';

const takes = (schema: { safeParse(value: string): { success: boolean } }, value: string) =>
  schema.safeParse(value).success;

describe('names', () => {
  test.each([
    ['a zero-width space', 'user\u200b1'],
    ['a bidirectional override', 'user\u202e1'],
    ['a byte order mark', '\ufeffuser'],
    ['a joiner', 'user\u200d1'],
    ['a control character', 'user\u00011'],
    ['a line separator', 'user\u20281'],
    ['an unassigned character', 'user\u0378'],
    ['half a surrogate pair', 'user\ud83d'],
  ])('a name with %s is refused', (_, value) => {
    expect(takes(name(100), value)).toBe(false);
  });

  test('names that look the same are the same', () => {
    expect(name(100).parse('Ame\u0301lie')).toBe('Am\u00e9lie');
    expect(SentDimension.parse('Ame\u0301lie')).toBe(SentDimension.parse('Am\u00e9lie'));
    expect(label(100).parse('  Ame\u0301lie ')).toBe('Am\u00e9lie');
  });

  test('labels keep the joiners that scripts and emoji need', () => {
    for (const value of ['می\u200cخواهم', '👩\u200d👩\u200d👧']) expect(label(100).parse(value)).toBe(value);
  });

  test('a name is stored within its limits, whatever NFC makes of it', () => {
    // U+0958 becomes two characters in NFC.
    expect(takes(name(100), '\u0958'.repeat(60))).toBe(false);
    expect(takes(label(100), '\u0958'.repeat(60))).toBe(false);
    expect(takes(SentDimension, 'é'.repeat(200))).toBe(true);
    expect(takes(SentDimension, 'é'.repeat(201))).toBe(false);
    expect(takes(SentDimension, 'x'.repeat(256))).toBe(true);
    expect(takes(SentDimension, 'x'.repeat(257))).toBe(false);
    expect(takes(SentDimension, '(other)')).toBe(false);
  });

  test('an accepted name is in NFC and can be queried', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (value) => {
        const sent = SentDimension.safeParse(value);
        if (!sent.success) return;
        expect(sent.data.normalize('NFC')).toBe(sent.data);
        expect(Dimension.parse(sent.data)).toBe(sent.data);
      }),
      { numRuns: 2_000 },
    );
  });
});

test('a filter finds a name in NFC and as it is written, so that rows from before NFC are found too', () => {
  const range = { startDate: '2026-01-01', endDate: '2026-01-01' };
  expect(Filters.parse({ ...range, userIds: ['e\u0301', 'b'] }).userIds).toEqual(['e\u0301', '\u00e9', 'b']);
  expect(Filters.parse(range).userIds).toBeUndefined();
});

test('text is of one line; only text of several lines has tabs and line ends, and neither has other controls', () => {
  for (const value of ['\t', '\n', '\r\n']) {
    expect(takes(text(10), value)).toBe(false);
    expect(takes(storable(10), value)).toBe(true);
  }
  for (const value of ['\u0000', '\u0001', '\u000b', '\u000c', '\u007f', '\u0085', '\udc00']) {
    expect(takes(text(10), value)).toBe(false);
    expect(takes(storable(10), value)).toBe(false);
  }
});

test('whatever names a stored value finds it in NFC', () => {
  const [sent, ...both] = ['e\u0301', 'e\u0301', '\u00e9'];
  const adjustment = { id: 'a', merchantId: 'acme', date: '2026-01-01', metrics: { cost: '1' }, reason: 'credit' };
  expect(ingest.usage.adjust.input.parse({ ...adjustment, dimensions: { userId: sent } })).toMatchObject({
    dimensions: { userId: '\u00e9' },
  });
  const meter = { key: 'calls', aggregation: 'COUNT', filters: { user: [sent], 'property:region': [sent] } };
  expect(MeterDefinition.parse(meter).filters).toEqual({ user: both, 'property:region': both });
  expect(analytics.directory.remove.input.parse({ kind: 'user', ids: [sent] }).ids).toEqual(both);
  const range = { startDate: '2026-01-01', endDate: '2026-01-01' };
  expect(RollupList.parse({ ...range, entityIds: [sent] }).entityIds).toEqual(both);
  const metric = { name: 'cost', metricType: 'SUM', dataSource: 'events', calculationFormula: 'cost' };
  const filters = { user_id: sent, model: [sent, 'b'], requests: 1, provider: 'openai' };
  const custom = { ...metric, visibility: 'PRIVATE', filters };
  expect(engine.custom.create.input.parse(custom).filters).toEqual({
    ...{ user_id: both, model: [...both, 'b'], requests: 1, provider: 'openai' },
  });
});

test('names of imported days are stored in NFC, and two of one form are refused', () => {
  const sums = { totalRequests: 1, totalTokens: 1, cost: 1 };
  const row = { ...sums, userId: 'e\u0301', apiKey: 'e\u0301', model: 'e\u0301', provider: 'e\u0301' };
  const parse = (byModel: object) =>
    analytics.days.import.input.safeParse({
      documents: [{ date: '2026-01-01', raw_data: [row], aggregated_by_model: byModel }],
    });
  expect(parse({ 'e\u0301|b': sums }).data?.documents[0]).toMatchObject({
    raw_data: [{ userId: '\u00e9', apiKey: '\u00e9', model: '\u00e9', provider: '\u00e9' }],
    aggregated_by_model: { '\u00e9|b': sums },
  });
  expect(parse({ 'e\u0301|b': sums, '\u00e9|b': sums }).success).toBe(false);
  const event = { id: 'a', merchantId: 'acme', metrics: { cost: '1' } };
  expect(UsageEntry.safeParse({ ...event, properties: { 'e\u0301': '1', '\u00e9': '2' } }).success).toBe(false);
});
