import type { Day, MetricCost, MetricFields, MetricVisibility } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { priceOf } from './metric-price.ts';
import { type MetricQuery, writeCount, writeMetricQuery } from './metric-query.ts';
import { DateText, Moment } from './rows.ts';
import { runSql } from './run-sql.ts';

/** The caller: decides which definitions are visible, and whose they are. */
export type Viewer = { id: string; merchantId: string | null; teamId: string | null; all: boolean };

export type StoredMetric = {
  id: string;
  version: number;
  ownerId: string;
  /** '' is the platform. */
  merchantId: string;
  teamId: string | null;
  visibility: MetricVisibility;
  fields: MetricFields;
  uses: number;
  lastUsedAt: string | null;
  createdAt: string;
  updatedAt: string;
};

export type MetricAnswer = {
  value: string | null;
  rows: { dimensions: Record<string, string>; value: string | null }[];
  /** There were more rows than were asked for. */
  cut: boolean;
};

export type MetricValue = {
  version: number;
  merchantId: string;
  periodType: 'DAILY' | 'WEEKLY' | 'MONTHLY' | 'CUSTOM';
  startDate: Day;
  endDate: Day;
  value: string | null;
  rows: MetricAnswer['rows'];
  cost: MetricCost;
  durationMs: number;
  calculatedBy: string;
};

export type AuditEntry = {
  definitionId: string | null;
  version: number | null;
  action: string;
  callerId: string;
  callerMerchantId: string | null;
  outcome: string;
  details: Record<string, unknown>;
};

export type CustomStore = {
  /** Returns the price of a formula in the planner's units, without running it. */
  plan(query: MetricQuery, timeoutMs: number): Promise<number>;
  /**
   * Computes a formula in a read-only transaction, as the reader role where the server has it, with only the rows of its
   * merchant visible, under a timeout.
   */
  compute(query: MetricQuery, timeoutMs: number): Promise<MetricAnswer>;
  /** The first and last day of a range whose entries, of a merchant or of anybody, were dropped from the journal. */
  closedDays(
    merchantId: string | null,
    range: { startDate: Day; endDate: Day },
  ): Promise<{ first: Day; last: Day } | undefined>;
  create(metric: { merchantId: string; ownerId: string; fields: MetricFields }): Promise<StoredMetric>;
  /** Adds a version after `version`; undefined where another one came first. */
  update(id: string, version: number, fields: MetricFields, by: string): Promise<StoredMetric | undefined>;
  /** Returns a definition that the viewer may see, in its newest or an older version, with `removed` also a removed one. */
  find(
    viewer: Viewer,
    id: string,
    which?: { version?: number | undefined; removed?: boolean },
  ): Promise<StoredMetric | undefined>;
  list(
    viewer: Viewer,
    page: { search?: string | undefined; limit: number; after?: string | undefined },
  ): Promise<StoredMetric[]>;
  /** Versions of a definition, newest first, below `before`. */
  versions(
    id: string,
    page: { limit: number; before?: string | undefined },
  ): Promise<{ version: number; definition: MetricFields; createdBy: string; createdAt: string }[]>;
  remove(id: string): Promise<void>;
  /** Keeps a value in place of the one computed before for the same version, period and merchant, and counts the use. */
  keep(id: string, value: MetricValue): Promise<void>;
  values(id: string, merchantId: string | null, limit: number): Promise<(MetricValue & { calculatedAt: string })[]>;
  audit(entry: AuditEntry): Promise<void>;
  /** Removes audited steps from before this day, and values of metrics removed before it; returns how many rows. */
  prune(before: Day): Promise<number>;
  audited(
    id: string,
    page: {
      limit: number;
      before?: string | undefined /** Steps of others, and about others, are left out. */;
      merchantId: string | null;
    },
  ): Promise<(Omit<AuditEntry, 'definitionId' | 'callerMerchantId'> & { id: string; at: string })[]>;
};

const ROLE = 'tally_reader';

const COLUMNS = `
  metric.id, version.version, metric.owner_id, metric.merchant_id, metric.team_id, metric.visibility, version.definition,
  metric.uses, metric.last_used_at, metric.created_at, metric.updated_at`;

/** $1 caller   $2 its merchant, '' for none   $3 its team   $4 sees everything (of its merchant where it is bound) */
const VISIBLE = `
  (
    metric.visibility = 'PUBLIC'
    or ($4::boolean and ($2::text = '' or metric.merchant_id = $2))
    or metric.owner_id = $1
    or (metric.merchant_id = $2 and (
      metric.visibility = 'ORGANIZATION'
      or (metric.visibility = 'TEAM' and metric.team_id = $3::text)
    ))
  )`;

/**
 * Custom metrics: their definitions, versions, values and audit trail, and the one way to compute a formula. Formulas run
 * on connections of their own, so that nothing else waits for one.
 */
export function createCustomStore(dataSource: DataSource, formulas: DataSource): CustomStore {
  let hasRole: boolean | undefined;

  async function reading<T>(
    { merchantId }: MetricQuery,
    timeoutMs: number,
    work: (query: (text: string, values: unknown[]) => Promise<unknown[]>) => Promise<T>,
  ): Promise<T> {
    const runner = formulas.createQueryRunner();
    await runner.connect();
    try {
      await runner.query('begin read only');
      hasRole ??=
        (
          await runner.query(
            `select exists (
            select from pg_roles where rolname = $1 and pg_has_role(current_user, oid, 'member')) as found`,
            [ROLE],
          )
        )[0].found === true;
      await runner.query(
        `select set_config('tally.merchant_id', $1, true), set_config('statement_timeout', $2, true),
        set_config('jit', 'off', true)`,
        [merchantId ?? '*', String(timeoutMs)],
      );
      if (hasRole) await runner.query(`set local role ${ROLE}`);
      return await work((text, values) => runner.query(text, values));
    } finally {
      await runner.query('rollback').catch(() => {});
      await runner.release();
    }
  }

  return {
    plan: (query, timeoutMs) =>
      reading(query, timeoutMs, async (run) => {
        const { text, values } = writeMetricQuery(query);
        const [row] = await run(`explain (format json, verbose) ${text}`, values);
        const [{ Plan: plan }] = PlanRow.parse(row)['QUERY PLAN'];
        const nodes = nodesOf(plan);
        const [{ stale }] = StatisticsRow.parse(await run(STATISTICS, [schemasOf(nodes), tablesOf(nodes)]));
        let rows = Math.max(...nodes.map((node) => node['Plan Rows']));
        if (stale) {
          const count = writeCount(query, MAX_COUNTED);
          const [counted] = CountRow.parse(await run(count.text, count.values));
          rows = Math.max(rows, counted.rows);
        }
        const planned = stale ? 0 : nodes.filter((node) => node['Node Type'].includes('Sort')).length;
        return priceOf(query, { planCost: plan['Total Cost'], rows, planned });
      }),

    compute: (query, timeoutMs) =>
      reading(query, timeoutMs, async (run) => {
        const { text, values } = writeMetricQuery(query);
        const [first, ...rest] = (await run(text, values)).map((row) => AnswerRow.parse(row));
        return {
          value: first?.value ?? null,
          rows: rest.slice(0, query.maxRows).map((row) => ({
            dimensions: Object.fromEntries(query.dimensions.map((name, index) => [name, String(row[`d${index}`])])),
            value: row.value,
          })),
          cut: rest.length > query.maxRows,
        };
      }),

    async closedDays(merchantId, { startDate, endDate }) {
      const [row] = await dataSource.query(
        merchantId === null
          ? `select min(date) as first, max(date) as last from usage_closed_days
             where date between $1 and $2 and entries > 0`
          : `select min(date) as first, max(date) as last from usage_journal_closings
             where date between $1 and $2 and merchant_id = $3`,
        merchantId === null ? [startDate, endDate] : [startDate, endDate, merchantId],
      );
      const { first, last } = ClosedRow.parse(row);
      return first === null || last === null ? undefined : { first, last };
    },

    async create({ merchantId, ownerId, fields }) {
      const [row] = await dataSource.query(
        `with metric as (
           insert into custom_metric_definitions (merchant_id, owner_id, team_id, visibility, name, version)
           values ($1, $2, $3, $4, $5, 1) returning *),
         version as (
           insert into custom_metric_versions (definition_id, version, definition, created_by)
           select id, 1, $6::jsonb, $2 from metric returning *)
         select ${COLUMNS} from metric cross join version`,
        [merchantId, ownerId, fields.teamId ?? null, fields.visibility, fields.name, JSON.stringify(fields)],
      );
      return MetricRow.parse(row);
    },

    async update(id, before, fields, by) {
      const [row] = await dataSource.query(
        `with metric as (
           update custom_metric_definitions
           set version = version + 1, team_id = $3, visibility = $4, name = $5, updated_at = now()
           where id = $1 and version = $2 and removed_at is null returning *),
         version as (
           insert into custom_metric_versions (definition_id, version, definition, created_by)
           select id, version, $6::jsonb, $7 from metric returning *)
         select ${COLUMNS} from metric cross join version`,
        [id, before, fields.teamId ?? null, fields.visibility, fields.name, JSON.stringify(fields), by],
      );
      return row === undefined ? undefined : MetricRow.parse(row);
    },

    async find(viewer, id, { version, removed = false } = {}) {
      const [row] = await dataSource.query(
        `select ${COLUMNS}
         from custom_metric_definitions as metric
         join custom_metric_versions as version
           on version.definition_id = metric.id and version.version = coalesce($6::int, metric.version)
         where metric.id = $5 and ($7::boolean or metric.removed_at is null) and ${VISIBLE}`,
        [...who(viewer), id, version ?? null, removed],
      );
      return row === undefined ? undefined : MetricRow.parse(row);
    },

    async list(viewer, { search, limit, after }) {
      const rows = (await dataSource.query(
        `select ${COLUMNS}
         from custom_metric_definitions as metric
         join custom_metric_versions as version
           on version.definition_id = metric.id and version.version = metric.version
         where metric.removed_at is null and ${VISIBLE}
           and ($5::text is null or position(lower($5) in lower(metric.name)) > 0)
           and ($6::uuid is null or metric.id > $6)
         order by metric.id
         limit $7`,
        [...who(viewer), search ?? null, after ?? null, limit],
      )) as unknown[];
      return rows.map((row) => MetricRow.parse(row));
    },

    async versions(id, { limit, before }) {
      const rows = (await dataSource.query(
        `select version, definition, created_by, created_at from custom_metric_versions
         where definition_id = $1 and ($2::bigint is null or version < $2)
         order by version desc
         limit $3`,
        [id, before ?? null, limit],
      )) as unknown[];
      return rows.map((row) => VersionRow.parse(row));
    },

    async remove(id) {
      await dataSource.query(`update custom_metric_definitions set removed_at = now() where id = $1`, [id]);
    },

    async keep(id, value) {
      await dataSource.query(
        `with used as (
           update custom_metric_definitions set uses = uses + 1, last_used_at = now() where id = $1)
         insert into custom_metric_values (definition_id, version, merchant_id, period_type, period_start, period_end,
           value, rows, cost, duration_ms, calculated_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (definition_id, version, merchant_id, period_start, period_end) do update set
           period_type = excluded.period_type, value = excluded.value, rows = excluded.rows, cost = excluded.cost,
           duration_ms = excluded.duration_ms, calculated_by = excluded.calculated_by, calculated_at = now()`,
        [
          id,
          value.version,
          value.merchantId,
          value.periodType,
          value.startDate,
          value.endDate,
          value.value,
          JSON.stringify(value.rows),
          value.cost,
          value.durationMs,
          value.calculatedBy,
        ],
      );
    },

    async values(id, merchantId, limit) {
      const rows = (await dataSource.query(
        `select * from custom_metric_values
         where definition_id = $1 and ($2::text is null or merchant_id = $2)
         order by calculated_at desc, version desc, period_start desc
         limit $3`,
        [id, merchantId, limit],
      )) as unknown[];
      return rows.map((row) => ValueRow.parse(row));
    },

    async audit({ definitionId, version, action, callerId, callerMerchantId, outcome, details }) {
      await dataSource.query(
        `insert into custom_metric_audit (definition_id, version, action, caller_id, caller_merchant_id, outcome, details)
         values ($1, $2, $3, $4, $5, $6, $7)`,
        [definitionId, version, action, callerId, callerMerchantId, outcome, JSON.stringify(details)],
      );
    },

    async prune(before) {
      const Row = z.object({ removed: z.string().transform(Number) });
      for (let all = 0; ; ) {
        const [row] = await runSql(dataSource, 'prune-custom', [before, PRUNED_AT_ONCE], Row);
        if (row!.removed === 0) return all;
        all += row!.removed;
      }
    },

    async audited(id, { limit, before, merchantId }) {
      const rows = (await dataSource.query(
        `select id, at, version, action, caller_id, outcome, details
         from custom_metric_audit
         where definition_id = $1 and ($2::bigint is null or id < $2)
           and ($4::text is null or (
             coalesce(caller_merchant_id, $4) = $4 and coalesce(details ->> 'merchantId', $4) = $4))
         order by id desc
         limit $3`,
        [id, before ?? null, limit, merchantId],
      )) as unknown[];
      return rows.map((row) => AuditRow.parse(row));
    },
  };
}

const PRUNED_AT_ONCE = 10_000;

const who = ({ id, merchantId, teamId, all }: Viewer) => [id, merchantId ?? '', teamId, all];

const ClosedRow = z.object({ first: DateText.nullable(), last: DateText.nullable() });

type PlanNode = {
  'Node Type': string;
  'Total Cost': number;
  'Plan Rows': number;
  Schema?: string | undefined;
  'Relation Name'?: string | undefined;
  Plans?: PlanNode[] | undefined;
};
const PlanNode: z.ZodType<PlanNode> = z.object({
  'Node Type': z.string(),
  'Total Cost': z.number(),
  'Plan Rows': z.number(),
  Schema: z.string().optional(),
  'Relation Name': z.string().optional(),
  get Plans() {
    return z.array(PlanNode).optional();
  },
});
const PlanRow = z.object({ 'QUERY PLAN': z.tuple([z.object({ Plan: PlanNode })]) });
const nodesOf = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];
const schemasOf = (nodes: readonly PlanNode[]) => nodes.map((node) => node.Schema ?? null);
const tablesOf = (nodes: readonly PlanNode[]) => nodes.map((node) => node['Relation Name'] ?? null);

/** Whether a table was never analyzed, or has changed by half since. $1 schemas   $2 tables */
const STATISTICS = `
  select coalesce(bool_or(
    coalesce(pg_stat_get_last_analyze_time(class.oid), pg_stat_get_last_autoanalyze_time(class.oid)) is null
    or 2 * pg_stat_get_mod_since_analyze(class.oid) > class.reltuples), false) as stale
  from unnest($1::text[], $2::text[]) as read (schema, name)
  join pg_namespace as space on space.nspname = read.schema
  join pg_class as class on class.relnamespace = space.oid and class.relname = read.name`;
const StatisticsRow = z.tuple([z.object({ stale: z.boolean() })]);
/** Rows counted at most: more would be too costly anyway. */
const MAX_COUNTED = 1_000_000;
const CountRow = z.tuple([z.object({ rows: z.string().transform(Number) })]);
const shortest = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text);
const Decimal = z.string().transform(shortest).nullable();
const AnswerRow = z.object({ value: Decimal }).catchall(z.unknown());
const Rows = z.array(z.object({ dimensions: z.record(z.string(), z.string()), value: z.string().nullable() }));

const Fields = z.custom<MetricFields>((value) => typeof value === 'object' && value !== null);

const MetricRow = z
  .object({
    id: z.string(),
    version: z.number(),
    owner_id: z.string(),
    merchant_id: z.string(),
    team_id: z.string().nullable(),
    visibility: z.enum(['PRIVATE', 'TEAM', 'ORGANIZATION', 'PUBLIC']),
    definition: Fields,
    uses: z.string().transform(Number),
    last_used_at: Moment.nullable(),
    created_at: Moment,
    updated_at: Moment,
  })
  .transform(
    (row): StoredMetric => ({
      id: row.id,
      version: row.version,
      ownerId: row.owner_id,
      merchantId: row.merchant_id,
      teamId: row.team_id,
      visibility: row.visibility,
      fields: row.definition,
      uses: row.uses,
      lastUsedAt: row.last_used_at,
      createdAt: row.created_at,
      updatedAt: row.updated_at,
    }),
  );

const VersionRow = z
  .object({ version: z.number(), definition: Fields, created_by: z.string(), created_at: Moment })
  .transform(({ version, definition, created_by, created_at }) => ({
    version,
    definition,
    createdBy: created_by,
    createdAt: created_at,
  }));

const ValueRow = z
  .object({
    version: z.number(),
    merchant_id: z.string(),
    period_type: z.enum(['DAILY', 'WEEKLY', 'MONTHLY', 'CUSTOM']),
    period_start: DateText,
    period_end: DateText,
    value: Decimal,
    rows: Rows,
    cost: z.enum(['low', 'medium', 'high']),
    duration_ms: z.number(),
    calculated_by: z.string(),
    calculated_at: Moment,
  })
  .transform((row) => ({
    version: row.version,
    merchantId: row.merchant_id,
    periodType: row.period_type,
    startDate: row.period_start,
    endDate: row.period_end,
    value: row.value,
    rows: row.rows,
    cost: row.cost,
    durationMs: row.duration_ms,
    calculatedBy: row.calculated_by,
    calculatedAt: row.calculated_at,
  }));

const AuditRow = z
  .object({
    id: z.string(),
    at: Moment,
    version: z.number().nullable(),
    action: z.string(),
    caller_id: z.string(),
    outcome: z.string(),
    details: z.record(z.string(), z.unknown()),
  })
  .transform(({ caller_id, ...row }) => ({ ...row, callerId: caller_id }));
