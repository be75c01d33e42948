import type { EngineClient } from '@tally/contracts/client';
import type { Db } from '@tally/db';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Engine, prepareStores, type Stores } from '../../test/start.ts';

const RANGE = { startDate: '2026-03-01', endDate: '2026-03-31' };
/** The host's licenses: purchased and used seats, by account. */
const LICENSES = {
  name: 'licenses',
  view: 'app.licenses',
  columns: [
    { name: 'plan', type: 'text' },
    { name: 'seats', type: 'number', unit: 'seats' },
    { name: 'usedSeats', type: 'integer' },
    { name: 'price', type: 'numeric', unit: 'USD' },
    { name: 'renewed', type: 'boolean' },
    { name: 'day', type: 'date' },
    { name: 'changed', type: 'timestamp' },
  ],
  merchantColumn: 'account',
  dateColumn: 'day',
};

let stores: Stores;
let db: Db;
let client: pg.Client;
let engine: EngineClient;
let as: Engine['as'];

beforeAll(async () => {
  stores = await prepareStores();
  ({ db, client } = stores);
  ({ engine, as } = await stores.start());
  await client.query(`
    create schema app;
    create table app.license_rows (account varchar, plan text, seats int, used int, price float8, renewed boolean, day date,
      changed timestamp, "odd "" name;--" text);
    insert into app.license_rows values
      ('a', 'pro', 10, 5, 0.1, true, '2026-03-01', '2026-03-01 23:59:59', 'x'),
      ('a', 'free', 30, 3, 0.2, false, '2026-03-31', '2026-04-01 00:00:00', 'x'),
      ('b', 'pro', 100, 1, 7, true, '2026-03-15', '2026-03-15 00:00:00', 'x'),
      ('a', 'pro', 1000, 0, 7, true, '2026-04-01', '2026-03-31 00:00:00', 'x');
    create view app.licenses as
      select account, plan, seats, used as "usedSeats", price, renewed, day, changed, "odd "" name;--" from app.license_rows;
    create view app.hidden as select * from app.license_rows;
    create view public.secrets as select hash, now()::date as day from api_keys;
    grant usage on schema app to tally_reader;
    grant select on app.licenses to tally_reader`);
  await engine.custom.sources.register.mutate(LICENSES);
});

afterAll(() => stores.close());

const compute = (calculationFormula: string, more: object = {}, custom = engine.custom) =>
  custom.test.mutate({
    ...{ metricType: 'RATIO', dataSource: 'licenses', calculationFormula, ...RANGE },
    ...more,
  } as Parameters<typeof engine.custom.test.mutate>[0]);
const refusedWith = (code: string, message?: string) => ({
  data: { code },
  ...(message && { message: expect.stringContaining(message) }),
});
const analystOf = async (merchantId?: string) =>
  as((await db.keys.create({ name: 'x', role: 'analyst', ...(merchantId && { merchantId }) })).key).custom;

test('a registered view is listed, and registering the same again changes nothing', async () => {
  const again = await engine.custom.sources.register.mutate(LICENSES);
  const { rows } = await engine.custom.sources.list.query();
  expect(rows).toEqual([again]);
  expect(again).toMatchObject({ ...LICENSES, columns: expect.any(Array), createdAt: expect.any(String) });
  expect(again.columns.map((each) => [each.name, each.type, each.unit])).toEqual([
    ['plan', 'text', undefined],
    ['seats', 'number', 'seats'],
    ['usedSeats', 'number', undefined],
    ['price', 'number', 'USD'],
    ['renewed', 'boolean', undefined],
    ['day', 'date', undefined],
    ['changed', 'time', undefined],
  ]);
  await expect(engine.custom.sources.register.mutate({ ...LICENSES, dateColumn: 'changed' })).rejects.toMatchObject(
    refusedWith('CONFLICT'),
  );
});

test.each([
  ['utilisation by plan', 'SUM(usedSeats) / SUM(seats)', '0.06428571428571428571'],
  ['renewal rate', 'COUNT(*) FILTER (WHERE renewed) / COUNT(*)', '0.66666666666666666667'],
  ['a median', 'PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY seats)', '30'],
  ['prices that are doubles', 'SUM(price)', '7.3'],
  ['times', "COUNT(*) FILTER (WHERE changed >= '2026-04-01T00:00:00Z')", '1'],
  ['accounts', 'COUNT(*)', '3'],
])('a formula over it computes %s', async (_, formula, expected) => {
  expect((await compute(formula)).value).toBe(expected);
});

test('it can be grouped and filtered, and its definition saved and computed', async () => {
  const made = await engine.custom.create.mutate({
    name: 'Utilisation',
    ...{ metricType: 'SUM', dataSource: 'licenses', calculationFormula: 'seats', visibility: 'ORGANIZATION' },
    dimensions: ['plan'],
    filters: { renewed: true },
  });
  const result = await engine.custom.calculate.mutate({ id: made.id, ...RANGE });
  expect(result.rows).toEqual([{ dimensions: { plan: 'pro' }, value: '110' }]);
  expect(result.coverage).toMatchObject({ complete: true });
});

test('a filter is compared as what its column is', async () => {
  expect((await compute('COUNT(*)', { filters: { renewed: 'true', seats: ['10', 30] } })).value).toBe('1');
  for (const filters of [{ renewed: 'maybe' }, { seats: 'many' }, { day: '2026-02-30' }, { changed: '2026-03-01' }])
    await expect(compute('COUNT(*)', { filters })).rejects.toMatchObject(refusedWith('FORMULA_TYPE'));
});

test('days are selected by a column of times, both ends included', async () => {
  const source = { ...LICENSES, name: 'by_time', dateColumn: 'changed' };
  await engine.custom.sources.register.mutate(source);
  const { value } = await compute('COUNT(*)', { dataSource: 'by_time' });
  expect(value).toBe('3');
  const one = { dataSource: 'by_time', startDate: '2026-03-01', endDate: '2026-03-01' };
  expect((await compute('COUNT(*)', one)).value).toBe('1');
  await engine.custom.sources.remove.mutate({ name: 'by_time' });
});

test('a caller bound to a merchant computes over the rows of that merchant only', async () => {
  const bound = await analystOf('a');
  expect((await compute('SUM(seats)', {}, bound)).value).toBe('40');
  expect((await compute('SUM(seats)', { merchantId: 'b' })).value).toBe('100');
  await expect(compute('SUM(seats)', { merchantId: 'b' }, bound)).rejects.toMatchObject(
    refusedWith('MERCHANT_FORBIDDEN'),
  );
  await expect(compute("COUNT(*) FILTER (WHERE account = 'b')", {}, bound)).rejects.toMatchObject(
    refusedWith('FORMULA_FORBIDDEN'),
  );
});

test('a source without a merchant column is for callers bound to no merchant only', async () => {
  const { merchantColumn: _, ...platform } = { ...LICENSES, name: 'platform_only' };
  await engine.custom.sources.register.mutate(platform);
  const asked = { dataSource: 'platform_only' };
  expect((await compute('SUM(seats)', asked, await analystOf())).value).toBe('140');
  const bound = await analystOf('a');
  const refused = refusedWith('MERCHANT_FORBIDDEN');
  await expect(compute('SUM(seats)', asked, bound)).rejects.toMatchObject(refused);
  await expect(compute('SUM(seats)', { ...asked, merchantId: 'a' })).rejects.toMatchObject(refused);
  const definition = { name: 'n', metricType: 'SUM', calculationFormula: 'seats', visibility: 'PRIVATE' } as const;
  await expect(bound.create.mutate({ ...definition, ...asked })).rejects.toMatchObject(refused);
  const open = await engine.custom.create.mutate({ ...definition, ...asked, visibility: 'PUBLIC' });
  await expect(bound.calculate.mutate({ id: open.id, ...RANGE })).rejects.toMatchObject(refused);
});

test('names of columns stay names, whatever is in them', async () => {
  const odd = { ...LICENSES, name: 'odd', merchantColumn: 'odd " name;--' };
  await engine.custom.sources.register.mutate(odd);
  expect((await compute('COUNT(*)', { dataSource: 'odd', merchantId: 'x' })).value).toBe('3');
});

test.each([
  ['a view that does not exist', { view: 'app.nothing' }, 'no view'],
  ['a table', { view: 'app.license_rows' }, 'no view'],
  ['a view of the database', { view: 'pg_catalog.pg_roles' }, 'no view'],
  ["a view of Tally's own", { view: 'tally_sources.events' }, 'no view'],
  ['a view that the reader may not read', { view: 'app.hidden' }, 'grant select on app.hidden to "tally_reader"'],
  ['a view of Tally’s own tables that nobody granted', { view: 'secrets' }, 'cannot be read'],
  ['SQL for a view', { view: 'app.licenses; drop table x' }, 'no view'],
  ['quotes in a view', { view: '"app"."licenses"' }, 'Expected `view` or `schema.view`'],
  ['a column that is none', { columns: [{ name: 'nothing', type: 'text' }] }, 'no column nothing'],
  ['a column of the system', { columns: [{ name: 'ctid', type: 'text' }] }, 'no column ctid'],
  ['a column of another type', { columns: [{ name: 'plan', type: 'number' }] }, 'plan is text, not number'],
  ['a type that is none', { columns: [{ name: 'plan', type: 'jsonb' }] }, 'Expected one of number, text'],
  [
    'two columns with one name',
    {
      columns: [
        { name: 'seats', type: 'number' },
        { name: 'SEATS', type: 'number' },
      ],
    },
    'same name',
  ],
  ['a merchant column that is none', { merchantColumn: 'nothing' }, 'no column nothing'],
  ['a merchant column that is no text', { merchantColumn: 'day' }, 'day is not text'],
  ['a date column that is no date', { dateColumn: 'plan' }, 'neither a date nor a timestamp'],
  ["a name of Tally's own", { name: 'events' }, "Tally's own"],
  ['SQL for a name', { name: 'x; drop table y' }, 'Expected the name of a data source'],
])('a source with %s is refused', async (_, more, message) => {
  const given = { ...LICENSES, name: 'refused', ...more };
  await expect(engine.custom.sources.register.mutate(given)).rejects.toMatchObject(
    refusedWith('INVALID_INPUT', message),
  );
});

test('a metric of a source that was removed, or whose view changed, is refused with a code', async () => {
  await client.query(`
    create view app.passing as select * from app.licenses;
    grant select on app.passing to tally_reader`);
  await engine.custom.sources.register.mutate({ ...LICENSES, name: 'passing', view: 'app.passing' });
  const asked = { dataSource: 'passing' };
  expect((await compute('SUM(seats)', asked)).value).toBe('140');
  await client.query('drop view app.passing');
  await expect(compute('SUM(seats)', asked)).rejects.toMatchObject(refusedWith('FORMULA_FAILED'));
  await engine.custom.sources.remove.mutate({ name: 'passing' });
  await expect(compute('SUM(seats)', asked)).rejects.toMatchObject(refusedWith('INVALID_INPUT', 'no data source'));
  await expect(engine.custom.sources.remove.mutate({ name: 'passing' })).rejects.toMatchObject(
    refusedWith('NOT_FOUND'),
  );
});

test('a sum that is no finite number is refused with a code', async () => {
  await client.query(`
    create view app.endless as select 'NaN'::float8 as value, '2026-03-01'::date as day;
    grant select on app.endless to tally_reader`);
  const columns = [{ name: 'value', type: 'number' }];
  await engine.custom.sources.register.mutate({ name: 'endless', view: 'app.endless', columns, dateColumn: 'day' });
  await expect(compute('SUM(value)', { dataSource: 'endless' })).rejects.toMatchObject(refusedWith('FORMULA_FAILED'));
});

test('only admins register, list and remove sources', async () => {
  for (const custom of [await analystOf(), await analystOf('a')])
    for (const ask of [
      () => custom.sources.register.mutate({ ...LICENSES, name: 'theirs' }),
      () => custom.sources.list.query(),
      () => custom.sources.remove.mutate({ name: 'licenses' }),
    ])
      await expect(ask()).rejects.toMatchObject(refusedWith('FORBIDDEN'));
});
