import { fileURLToPath } from 'node:url';
import { freshDatabase } from '@tally/testkit';
import { loadModule, parseSync } from 'libpg-query';
import pg from 'pg';
import { beforeAll, expect, test, vi } from 'vitest';
import { COLOCATED, DISTRIBUTED, DISTRIBUTION_COLUMN, REFERENCE } from './distribution.ts';
import type { MeterRow } from './entities/meter.ts';
import { openDb } from './open-db.ts';
import { statementsIn } from './run-sql.ts';
import { migrate } from './schema.ts';

/** Views whose rows are those of distributed tables, with their merchant. */
const VIEWS = ['usage_counted_events', 'usage_counted_adjustments', 'usage_pending', 'usage_priced_events'];
const SPREAD = new Set<string>([...DISTRIBUTED, ...VIEWS]);

/**
 * Statements on all nodes, with the reason. All others name the merchant, or may (`$1 is null or merchant_id =
 * any($1)`).
 */
const ON_ALL_NODES: Readonly<Record<string, readonly string[]>> = {
  'A slice of flushes has many merchants; each node finds their events by flush in an index.': [
    'count-budgets',
    'derive',
    'derive-periods',
  ],
  'A whole day, once: when it is archived, closed or rolled up.': [
    'archive-day',
    'close-day',
    'day-is-needed',
    'forget-identities',
    'meters/history-merchants',
    'next-to-roll-up',
    'next-quarter-month',
  ],
  'All merchants by nature, hourly or by hand: lists of merchants, gauges, the platform.': [
    'count-merchant-usage',
    'merchants-between',
    'merchants-between-nodes',
    'meter-merchants',
    'meter-merchants-nodes',
    'meters/journal-days',
    'period-drift',
    'rebuild-days',
    'rebuild/platform-daily',
    'rebuild/platform-users',
    'rollup-period',
  ],
  'Only the days of imported documents, seldom any.': ['schema/imported-days-view'],
  'Once for each new budget, which may be for all merchants.': ['first-budget-spend'],
  'The condition is a level above: the planner pulls the subquery up.': ['rebuild/yearly'],
};

/**
 * Tables with a merchant that stay on the coordinator: marks, versions and registries, a few rows for each merchant.
 */
const LOCAL_WITH_MERCHANT = [
  'api_keys',
  'budgets',
  'custom_metric_definitions',
  'custom_metric_values',
  'daily_metrics',
  'directory_entries',
  'erased_users',
  'litellm_calls',
  'meter_checks',
  'meter_marks',
  'meter_overflows',
  'meters',
  'metrics_stale_periods',
  'monthly_metrics',
  'prices',
  'realtime_metrics_cache',
  'source_rejections',
  'usage_changes',
  'usage_checks',
  'usage_conflicts',
  'usage_dead_letters',
  'usage_overflows',
  'usage_rollup_rows',
  'usage_stale_totals',
  'usage_touched_days',
  'weekly_metrics',
];

type Node = { [key: string]: unknown };
/**
 * How a reference to a distributed table finds its rows: by merchant, by merchant where one is given, or on all nodes.
 */
type Routing = 'merchant' | 'optional' | 'all';

beforeAll(() => loadModule());

/** Returns how each reference of a statement to a distributed table is routed, as `table: routing`. */
function routingsOf(text: string): string[] {
  const found: string[] = [];
  for (const { stmt } of (parseSync(text) as { stmts: { stmt: Node }[] }).stmts) visit(stmt, found);
  return found;
}

function visit(node: unknown, found: string[]): void {
  if (Array.isArray(node)) for (const each of node) visit(each, found);
  if (typeof node !== 'object' || node === null || Array.isArray(node)) return;
  for (const [kind, value] of Object.entries(node as Node)) {
    // The arms of a union stand in it without a name of their own.
    const isArm = (kind === 'larg' || kind === 'rarg') && 'limitOption' in (value as Node);
    if (kind === 'SelectStmt' || isArm) level(value as Node, found);
    else if (kind === 'UpdateStmt' || kind === 'DeleteStmt') level(value as Node, found, true);
    else if (kind === 'InsertStmt') insert(value as Node, found);
    visit(value, found);
  }
}

/** One level of a query: its own tables and the conditions on them; what is nested in it is visited by itself. */
function level(query: Node, found: string[], changes = false): void {
  const tables = new Map<string, string>();
  const conditions: { quals: unknown; left: ReadonlySet<string> }[] = [];
  const shared: Node[] = [];
  const nameOf = ({ RangeVar: table }: Node) => table as { relname: string; alias?: { aliasname: string } } | undefined;
  const isSpread = (side: Node) => nameOf(side) === undefined || SPREAD.has(nameOf(side)!.relname);
  const from = (item: Node) => {
    if (item.RangeVar) {
      const { relname, alias } = item.RangeVar as { relname: string; alias?: { aliasname: string } };
      tables.set(alias?.aliasname ?? relname, relname);
    }
    if (item.JoinExpr) {
      const { jointype, larg, rarg, quals, usingClause } = item.JoinExpr as {
        jointype: string;
        larg: Node;
        rarg: Node;
        quals?: Node;
        usingClause?: { String: { sval: string } }[];
      };
      from(larg);
      // The condition of an outer join chooses no rows of its left side.
      const left = new Set(jointype === 'JOIN_INNER' ? [] : tables.keys());
      from(rarg);
      if (quals) conditions.push({ quals, left });
      // `using (merchant_id)` with rows that name their merchant, such as those of a CTE.
      const isShared = usingClause?.some(({ String: { sval } }) => sval === DISTRIBUTION_COLUMN);
      if (isShared && jointype === 'JOIN_INNER' && [larg, rarg].some((side) => !isSpread(side)))
        shared.push(larg, rarg);
    }
  };
  if (changes) from({ RangeVar: query.relation } as Node);
  for (const item of (query.fromClause ?? query.usingClause ?? []) as Node[]) from(item);
  if (query.whereClause) conditions.push({ quals: query.whereClause, left: new Set() });
  const spread = [...tables].filter(([, table]) => SPREAD.has(table));
  if (spread.length === 0) return;

  const bound = new Map<string, Routing>(spread.map(([alias]) => [alias, 'all']));
  const equal: [string, string][] = [];
  const aliasOf = (node: unknown): string | undefined => {
    const fields = (node as { ColumnRef?: { fields: { String?: { sval: string } }[] } }).ColumnRef?.fields;
    const names = fields?.map((field) => field.String?.sval);
    if (names?.at(-1) !== DISTRIBUTION_COLUMN) return undefined;
    return names.length === 1 ? spread[0]![0] : names[0];
  };
  const bind = (alias: string, routing: Routing) => {
    if (unbound.has(alias)) return;
    if (bound.get(alias) === 'all' || (bound.has(alias) && routing === 'merchant')) bound.set(alias, routing);
  };
  let unbound: ReadonlySet<string> = new Set();
  const condition = (node: unknown, routing: Routing): void => {
    const { BoolExpr: bool, A_Expr: expr } = node as {
      BoolExpr?: { boolop: string; args: unknown[] };
      A_Expr?: { kind: string; name: { String: { sval: string } }[]; lexpr: unknown; rexpr: unknown };
    };
    const { SubLink: sub } = node as { SubLink?: { subLinkType: string; testexpr?: unknown } };
    if (bool?.boolop === 'AND_EXPR') for (const each of bool.args) condition(each, routing);
    // `$1 is null or merchant_id = any($1)`: by merchant wherever one is asked for.
    if (bool?.boolop === 'OR_EXPR' && bool.args.some((each) => (each as Node).NullTest))
      for (const each of bool.args) condition(each, 'optional');
    if (sub?.subLinkType === 'ANY_SUBLINK')
      for (const each of itemsOf(sub.testexpr)) {
        const alias = aliasOf(each);
        if (alias !== undefined) bind(alias, routing);
      }
    if (expr === undefined || !['AEXPR_OP', 'AEXPR_OP_ANY', 'AEXPR_IN'].includes(expr.kind)) return;
    if (expr.name[0]?.String.sval !== '=') return;
    const [left, right] = [itemsOf(expr.lexpr), itemsOf(expr.rexpr)];
    for (const [index, each] of left.entries()) {
      const [one, other] = [aliasOf(each), aliasOf(right[index])];
      if (one !== undefined && other !== undefined && bound.has(one) && bound.has(other)) equal.push([one, other]);
      else if (one !== undefined && bound.has(one)) bind(one, routing);
      else if (other !== undefined && bound.has(other)) bind(other, routing);
    }
  };
  for (const { quals, left } of conditions) {
    unbound = left;
    condition(quals, 'merchant');
  }
  unbound = new Set();
  for (const side of shared) {
    const table = nameOf(side);
    if (table) bind(table.alias?.aliasname ?? table.relname, 'merchant');
  }
  // What equals a merchant that is known is known.
  for (const _ of equal)
    for (const [one, other] of equal) {
      bind(one, bound.get(other)!);
      bind(other, bound.get(one)!);
    }
  for (const [alias, table] of spread) found.push(`${table}: ${bound.get(alias)}`);
}

/** Rows go to the node of their merchant, and a conflict is looked for there. */
function insert(statement: Node, found: string[]): void {
  const { relname } = statement.relation as { relname: string };
  if (!SPREAD.has(relname)) return;
  const names = ((statement.cols ?? []) as { ResTarget: { name: string } }[]).map(({ ResTarget }) => ResTarget.name);
  const conflict = statement.onConflictClause as
    | { infer?: { indexElems: { IndexElem: { name: string } }[] } }
    | undefined;
  const keys = conflict?.infer?.indexElems.map(({ IndexElem }) => IndexElem.name);
  const isRouted =
    names.includes(DISTRIBUTION_COLUMN) && (conflict === undefined || keys?.includes(DISTRIBUTION_COLUMN));
  found.push(`${relname}: ${isRouted ? 'merchant' : 'all'}`);
}

const itemsOf = (node: unknown): unknown[] =>
  (node as { RowExpr?: { args: unknown[] } } | undefined)?.RowExpr?.args ?? [node];

const isOnAllNodes = (text: string) => routingsOf(text).some((routing) => routing.endsWith(': all'));

test('each statement file runs on the node of its merchant, or is listed with the reason why not', () => {
  const files = statementsIn(fileURLToPath(new URL('../sql/', import.meta.url)));
  const onAll = [...files].filter(([, text]) => isOnAllNodes(text)).map(([name]) => name);
  expect(onAll.sort()).toEqual(Object.values(ON_ALL_NODES).flat().sort());
});

test('no statement asks its session for the last value of a sequence: that of a worker has none', () => {
  const files = statementsIn(fileURLToPath(new URL('../sql/', import.meta.url)));
  expect([...files].filter(([, text]) => /\b(currval|lastval)\(/.test(text)).map(([name]) => name)).toEqual([]);
});

test('each statement that the stores compose for one merchant runs on its node', { timeout: 300_000 }, async () => {
  const texts = await composed();
  expect(texts.filter((text) => /usage_(events|daily|monthly|yearly|quarter_hours)/.test(text)).length).toBeGreaterThan(
    60,
  );
  expect(texts.filter(isOnAllNodes)).toEqual([]);
});

test.each([
  ['select from usage_daily', 'all'],
  ['select from usage_daily where merchant_id = $1', 'merchant'],
  ['select from usage_daily where merchant_id = $1 or date = $2', 'all'],
  ['select from usage_daily where merchant_id > $1', 'all'],
  ['select from usage_daily where not merchant_id = $1', 'all'],
  ['select from usage_daily where $1::text[] is null or merchant_id = any($1)', 'optional'],
  ['select from usage_daily as d join lines on lines.user_id = d.user_id', 'all'],
  ['select from usage_daily as d join lines on lines.merchant_id = d.merchant_id', 'merchant'],
  ['select from usage_daily as d left join lines on lines.merchant_id = d.merchant_id', 'all'],
  ['select from lines join usage_daily using (merchant_id, date)', 'merchant'],
  ['select from lines join usage_daily using (date)', 'all'],
  ['select from (select from usage_daily) as d where merchant_id = $1', 'all'],
  ['select 1 union all select from usage_daily', 'all'],
  ['with d as (select from usage_daily) select from d where merchant_id = $1', 'all'],
  ['update usage_daily set cost = 0 where date = $1', 'all'],
  ['delete from usage_daily using lines where usage_daily.merchant_id = lines.merchant_id', 'merchant'],
  ['insert into usage_daily (date) values ($1)', 'all'],
  ['insert into usage_daily (merchant_id, date) values ($1, $2) on conflict (date) do nothing', 'all'],
  ['insert into usage_daily (merchant_id, date) values ($1, $2) on conflict (merchant_id) do nothing', 'merchant'],
])('the check itself: %s: %s', (text, routing) => {
  expect(routingsOf(text).map((each) => each.split(': ')[1])).toEqual([routing]);
});

test('tables that grow with events are distributed, and each of their keys has the merchant', async () => {
  const database = await freshDatabase(migrate);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { rows: tables } = await client.query(`
    select c.relname as name, bool_or(a.attname = '${DISTRIBUTION_COLUMN}') as merchant
    from pg_class c join pg_attribute a on a.attrelid = c.oid and attnum > 0 and not attisdropped
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
    group by 1 order by 1`);
  const withMerchant = tables.filter(({ merchant }) => merchant).map(({ name }) => name);
  const placed = [...DISTRIBUTED, ...REFERENCE.filter((name) => withMerchant.includes(name)), ...LOCAL_WITH_MERCHANT];
  expect(withMerchant, 'say where a new table is kept').toEqual(placed.sort());
  const { rows: problems } = await client.query(
    `select conrelid::regclass::text as table, conname as name from pg_constraint
     where conrelid = any($1::text[]::regclass[]) and (
       contype in ('p', 'u') and not exists (
         select from pg_attribute where attrelid = conrelid and attnum = any(conkey) and attname = $2)
       or contype = 'f')
     union all
     select tgrelid::regclass::text, tgname from pg_trigger where tgrelid = any($1::text[]::regclass[]) and not tgisinternal
     union all
     select attrelid::regclass::text, 'another collation than ' || first
     from jsonb_each($3) as kept (first, others)
     cross join jsonb_array_elements_text(others) as other (name)
     join pg_attribute on attrelid = other.name::regclass and attname = $2
     where attcollation <> (
       select attcollation from pg_attribute where attrelid = kept.first::regclass and attname = $2)
     union all
     select name, 'no primary key' from unnest($1::text[]) as name
     where not exists (select from pg_constraint where conrelid = name::regclass and contype = 'p')`,
    [DISTRIBUTED, DISTRIBUTION_COLUMN, JSON.stringify(COLOCATED)],
  );
  expect(problems, 'Citus cannot distribute such a table').toEqual([]);
  await client.end();
  await database.drop();
});

const METER: MeterRow = {
  ...{ id: 1, key: 'calls', merchantId: '', name: 'Calls', unit: null, scale: 0, version: 1, createdRun: '1' },
  ...{
    aggregation: 'SUM',
    metricType: 'calls',
    valueProperty: null,
    eventType: null,
    filters: {},
    dimensions: ['user'],
  },
  ...{ createdAt: new Date(0), createdBy: 'admin', updatedAt: new Date(0), historyFrom: null, removedAt: null },
  purged: false,
};

/** Every statement on distributed tables that the stores send where one merchant is asked for. */
async function composed(): Promise<string[]> {
  const database = await freshDatabase(migrate);
  const db = await openDb(database.url);
  const sent = vi.spyOn(pg.Client.prototype, 'query');
  const range = { startDate: '2026-10-15', endDate: '2026-11-26' };
  const merchantIds = ['acme'];
  const filters = { merchantIds, userIds: ['ada'], models: ['m'] };
  const DAILY = ['usage_events', 'usage_daily', 'usage_daily_models', 'usage_quarter_hours'] as const;
  const cubes = [...DAILY, 'usage_monthly', 'usage_monthly_models', 'usage_quarter_months', 'usage_yearly'] as const;
  const parts = (names: readonly (typeof cubes)[number][]) => names.map((cube) => ({ cube, ...range }));
  const starts = [Date.parse('2026-10-15T00:00:00Z'), Date.parse('2026-11-01T00:00:00Z')];
  const windows = { starts, end: Date.parse('2026-11-27T00:00:00Z'), limit: 10 };
  await db.usage.snapshot(async (reader) => {
    for (const cube of cubes) {
      const scope = {
        ...(/models|hours/.test(cube) ? { merchantIds, models: ['m'] } : filters),
        parts: parts([cube]),
      };
      const page = { sortBy: 'cost', order: 'desc', limit: 10 } as const;
      for (const by of ['model', 'merchant'] as const) await reader.breakdown({ ...scope, by, ...page });
      await reader.totals(scope);
      await reader.values({ ...scope, by: 'model', limit: 10 });
      await reader.keysByPeriod({ ...scope, by: 'model', limit: 10 });
      await reader.series({ ...scope, ...windows, by: 'model' });
      await reader.windows({ ...scope, ...windows, by: ['model'] });
      if (/models|hours/.test(cube)) continue;
      const pageAfter = { ...page, after: { value: '1', keys: ['a', 'b'] } };
      await reader.breakdown({ ...scope, by: ['user', 'team'], ...pageAfter });
      await reader.activeUsers(scope);
      const of = { users: scope.parts, models: scope.parts, days: parts(['usage_daily']) };
      await reader.overview({ ...scope, parts: of, limits: { users: 5, models: 5 } });
    }
    await reader.byDay({ ...filters, parts: parts(DAILY.slice(0, 2)) });
    await reader.daysWithoutEntries({ ...filters, ...range });
    await reader.merchantUsage({ merchantIds, ...range });
  });
  for await (const _ of db.usage.scan({ ...filters, parts: parts(['usage_daily']), by: 'user' }));
  for await (const _ of db.usage.scanEvents({ ...filters, ...range }));
  await db.meters.read(METER, { merchantIds, ...windows, groupBy: ['user'], filters: { user: ['ada'] } });
  const texts = sent.mock.calls.map(([query]) =>
    typeof query === 'string' ? query : ((query as { text?: string })?.text ?? ''),
  );
  sent.mockRestore();
  await db.close();
  await database.drop();
  return [...new Set(texts)].filter((text) => /\busage_|\bmeter_|merchant_usage/.test(text));
}
