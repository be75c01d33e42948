import { type BudgetMeter, type JournalLine, migrate } from '@tally/db';
import { type FreshStore, freshDatabase } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { amountOf } from '../src/budgets/registry.ts';

let database: FreshStore;
let sql: pg.Client;

beforeAll(async () => {
  database = await freshDatabase(migrate);
  sql = new pg.Client({ connectionString: database.url });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await database.drop();
});

const digits = (maxLength: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 1, maxLength }).map(String);
const property = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.tuple(fc.integer(), fc.integer({ min: -20, max: 12 })).map(([whole, power]) => Number(`${whole}e${power}`)),
  fc.boolean(),
  fc.tuple(fc.constantFrom('', '-', '+', ' '), digits(17), fc.option(digits(32))).map(([sign, whole, fraction]) => {
    return `${sign}${whole}${fraction === null ? '' : `.${fraction}`}`;
  }),
  fc.constantFrom('', 'eu', 'unknown', 'NaN', 'Infinity', '1e3', '.5', '5.', '1\n', '٣', '1_000', '0x10', '-0.0', -0),
);
const amount = fc.bigInt(0n, 10n ** 15n).map(String);
const name = fc.constantFrom('', 'eu', 'unknown', 'aws');
const optional = <T>(of: fc.Arbitrary<T>) => fc.option(of, { nil: undefined });

const line = fc
  .record({
    user_id: optional(name),
    provider: optional(name),
    failed: optional(fc.constant(true as const)),
    requests: optional(amount),
    failed_requests: optional(amount),
    prompt_tokens: optional(amount),
    completion_tokens: optional(amount),
    cost: optional(amount),
    metrics: optional(fc.dictionary(fc.constantFrom('size', 'gpu_hours'), amount)),
    properties: optional(fc.dictionary(fc.constantFrom('size', 'region', 'event_type'), property)),
  })
  .map((fields) => ({ merchant_id: 'm', date: '2026-11-26', id: 'e', time: 0, ...fields }) as JournalLine);

const wanted = fc.array(fc.constantFrom('eu', 'unknown', 'aws', 'success', 'true', '5'), { minLength: 1 });
const meter = fc.record({
  key: fc.constant('k'),
  unit: fc.constant(null),
  scale: fc.nat(9),
  aggregation: fc.constantFrom('SUM' as const, 'SUM' as const, 'COUNT' as const),
  counted: fc.oneof(
    fc.constantFrom('requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'cost'),
    fc.constantFrom('size', 'property:size', 'property:size', 'property:size', 'property:size'),
  ),
  eventType: fc.option(fc.constantFrom('eu', '5', 'true'), { freq: 4 }),
  filters: fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    { weight: 1, arbitrary: fc.dictionary(fc.constantFrom('user', 'provider', 'status', 'property:region'), wanted) },
  ),
});

/** The amount of the transaction that counts a line: at most what Redis can hold, and 0 where no amount is found. */
async function countedByPostgres(cases: readonly (readonly [JournalLine, BudgetMeter])[]): Promise<bigint[]> {
  const { rows } = await sql.query<{ units: string }>(
    `select greatest(least(coalesce(budget_meter_units(
       meter,
       coalesce((line ->> 'requests')::bigint, 0), coalesce((line ->> 'failed_requests')::bigint, 0),
       coalesce((line ->> 'prompt_tokens')::bigint, 0), coalesce((line ->> 'completion_tokens')::bigint, 0),
       coalesce((line ->> 'cost')::bigint, 0), line -> 'metrics', line -> 'properties',
       jsonb_build_object('user', line ->> 'user_id', 'provider', line ->> 'provider',
         'status', case when (line ->> 'failed')::boolean then 'failure' else 'success' end)
     ), 0), 4e18), -4e18)::text as units
     from unnest($1::jsonb[], $2::jsonb[]) with ordinality as given (line, meter, place) order by place`,
    [cases.map(([line]) => JSON.stringify(line)), cases.map(([, meter]) => JSON.stringify(meter))],
  );
  return rows.map(({ units }) => BigInt(units));
}

test('an event has the same amount in the notes of a budget and in the transaction that counts it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(line, meter), { minLength: 100, maxLength: 200 }), async (drawn) => {
      const cases = drawn.map(([line, { counted, ...of }]) => {
        const isProperty = counted.startsWith('property:');
        const metricType = isProperty ? null : counted;
        return [line, { ...of, metricType, valueProperty: isProperty ? counted : null } as BudgetMeter] as const;
      });
      const noted = cases.map(([line, meter]) => amountOf(line, { measure: 'meter', meter }));
      expect(noted).toEqual(await countedByPostgres(cases));
    }),
    { numRuns: 20 },
  );
});
