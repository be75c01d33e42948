import type { Day, MetricCost, MetricFields, MetricVisibility } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { type MetricQuery, writeMetricQuery } from './metric-query.ts';
import { DateText, Moment } from './rows.ts';

/** Who looks: what decides whether a definition is visible and whose it is. */
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
  /** The planner's cost of a question, which is not run. */
  plan(query: MetricQuery, timeoutMs: number): Promise<number>;
  /**
   * Computes a question in a read-only transaction, as the reader role where the server has it, with the rows of its
   * merchant alone in sight and under a timeout.
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
  /** A definition that the viewer may see, in its newest or an older version. */
  find(viewer: Viewer, id: string, version?: number): Promise<StoredMetric | undefined>;
  list(
    viewer: Viewer,
    page: { search?: string | undefined; limit: number; after?: string | undefined },
  ): Promise<StoredMetric[]>;
  versions(id: string): Promise<{ version: number; definition: MetricFields; createdBy: string; createdAt: string }[]>;
  remove(id: string): Promise<void>;
  /** Keeps a value in place of the one computed before for the same version, period and merchant, and counts the use. */
  keep(id: string, value: MetricValue): Promise<void>;
  values(id: string, merchantId: string | null, limit: number): Promise<(MetricValue & { calculatedAt: string })[]>;
  audit(entry: AuditEntry): Promise<void>;
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
  metric.removed_at is null
  and (
    metric.visibility = 'PUBLIC'
    or ($4::boolean and ($2::text = '' or metric.merchant_id = $2))
    or metric.owner_id = $1
    or (metric.merchant_id = $2 and (
      metric.visibility = 'ORGANIZATION'
      or (metric.visibility = 'TEAM' and metric.team_id = $3::text)
    ))
  )`;

/** Custom metrics: their definitions, versions, values and audit trail, and the one way to compute a formula. */
export function createCustomStore(dataSource: DataSource): CustomStore {
  let hasRole: boolean | undefined;

  async function reading<T>(
    { merchantId }: MetricQuery,
    timeoutMs: number,
    work: (query: (text: string, values: unknown[]) => Promise<unknown[]>) => Promise<T>,
  ): Promise<T> {
    const runner = dataSource.createQueryRunner();
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
        const [row] = await run(`explain (format json) ${text}`, values);
        return PlanRow.parse(row)['QUERY PLAN'][0]!.Plan['Total Cost'];
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

    async find(viewer, id, version) {
      const [row] = await dataSource.query(
        `select ${COLUMNS}
         from custom_metric_definitions as metric
         join custom_metric_versions as version
           on version.definition_id = metric.id and version.version = coalesce($6::int, metric.version)
         where metric.id = $5 and ${VISIBLE}`,
        [...who(viewer), id, version ?? null],
      );
      return row === undefined ? undefined : MetricRow.parse(row);
    },

    async list(viewer, { search, limit, after }) {
      const rows = (await dataSource.query(
        `select ${COLUMNS}
         from custom_metric_definitions as metric
         join custom_metric_versions as version
           on version.definition_id = metric.id and version.version = metric.version
         where ${VISIBLE}
           and ($5::text is null or position(lower($5) in lower(metric.name)) > 0)
           and ($6::uuid is null or metric.id > $6)
         order by metric.id
         limit $7`,
        [...who(viewer), search ?? null, after ?? null, limit],
      )) as unknown[];
      return rows.map((row) => MetricRow.parse(row));
    },

    async versions(id) {
      const rows = (await dataSource.query(
        `select version, definition, created_by, created_at from custom_metric_versions
         where definition_id = $1 order by version desc`,
        [id],
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

const who = ({ id, merchantId, teamId, all }: Viewer) => [id, merchantId ?? '', teamId, all];

const ClosedRow = z.object({ first: DateText.nullable(), last: DateText.nullable() });
const PlanRow = z.object({ 'QUERY PLAN': z.array(z.object({ Plan: z.object({ 'Total Cost': z.number() }) })).min(1) });
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
