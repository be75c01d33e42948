import type { Day, MetricCost, MetricFields, MetricVisibility } from '@tally/contracts';
import pg from 'pg';
import type { DataSource, FindOptionsWhere } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { CustomMetricEntity, type CustomMetricRow, CustomMetricVersionEntity } from '../entities/custom-metric.ts';
import { nodesOf, type PlanNode, PlanRow, remotePlansIn } from '../query-plan.ts';
import { DateText, Moment } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { IsNull, MoreThan, Raw } from '../typeorm.ts';
import { priceOf } from './metric-price.ts';
import { type HowToWrite, type MetricQuery, metricTypesIn, writeCount, writeMetricQuery } from './metric-query.ts';

/** The caller: decides which definitions are visible and who owns new ones. */
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
  /** True if there were more rows than the limit. */
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

/** Microseconds at which a value was computed, its version, merchant, first and last day. */
export type ValuePlace = [at: string, version: string, merchantId: string, startDate: string, endDate: string];

export type CustomStore = {
  /** Returns the price of a formula in the planner's units, without running it. */
  plan(query: MetricQuery, timeoutMs: number): Promise<number>;
  /**
   * Computes a formula under a timeout in a read-only transaction that sees only the rows of its merchant, as the
   * reader role if the server has it. On Citus, formulas over events and usage run as the owner.
   */
  compute(query: MetricQuery, timeoutMs: number): Promise<MetricAnswer>;
  /**
   * Returns the first and last day of the range whose events, of a merchant or of any, were dropped from the journal.
   */
  closedDays(
    merchantId: string | null,
    range: { startDate: Day; endDate: Day },
  ): Promise<{ first: Day; last: Day } | undefined>;
  create(metric: { merchantId: string; ownerId: string; fields: MetricFields }): Promise<StoredMetric>;
  /** Adds a version after `version`; undefined if another one came first. */
  update(id: string, version: number, fields: MetricFields, by: string): Promise<StoredMetric | undefined>;
  /**
   * Returns a definition that the viewer may see, in its newest or an older version; with `removed`, also a removed
   * one.
   */
  find(
    viewer: Viewer,
    id: string,
    which?: { version?: number | undefined; removed?: boolean },
  ): Promise<StoredMetric | undefined>;
  list(
    viewer: Viewer,
    page: { search?: string | undefined; limit: number; after?: string | undefined },
  ): Promise<StoredMetric[]>;
  /** Returns versions of a definition, newest first, below `before`. */
  versions(
    id: string,
    page: { limit: number; before?: string | undefined },
  ): Promise<{ version: number; definition: MetricFields; createdBy: string; createdAt: string }[]>;
  remove(id: string): Promise<void>;
  /** Stores a value, replacing that of the same version, period and merchant, and counts the use. */
  keep(id: string, value: MetricValue): Promise<void>;
  /** Returns a page of values, newest first, that come after `after`. */
  values(
    id: string,
    page: { merchantId: string | null; limit: number; after: ValuePlace | undefined },
  ): Promise<(MetricValue & { calculatedAt: string; place: ValuePlace })[]>;
  audit(entry: AuditEntry): Promise<void>;
  /** Removes audit steps from before this day, and values of metrics removed before it; returns the number of rows. */
  prune(before: Day): Promise<number>;
  audited(
    id: string,
    page: {
      limit: number;
      before?: string | undefined /** Steps by and about others are left out. */;
      merchantId: string | null;
    },
  ): Promise<(Omit<AuditEntry, 'definitionId' | 'callerMerchantId'> & { id: string; at: string })[]>;
};

const ROLE = 'tally_reader';

type Run = (text: string, values: unknown[]) => Promise<unknown[]>;

/** Conditions for the definitions that a viewer may see, as alternatives. */
const visibleTo = ({ id, merchantId, teamId, all }: Viewer): FindOptionsWhere<CustomMetricRow>[] => {
  const own = { merchantId: merchantId ?? '' };
  return [
    { visibility: 'PUBLIC' },
    { ownerId: id },
    { ...own, visibility: 'ORGANIZATION' },
    ...(teamId === null ? [] : [{ ...own, visibility: 'TEAM' as const, teamId }]),
    ...(all ? [merchantId === null ? {} : own] : []),
  ];
};

/**
 * Custom metrics: definitions, versions, values and audit trail, and the only way to compute a formula. Formulas run on
 * connections of their own, so that nothing else waits for one.
 */
export function createCustomStore(dataSource: DataSource, formulas: DataSource): CustomStore {
  const metrics = dataSource.getRepository(CustomMetricEntity);
  const versions = dataSource.getRepository(CustomMetricVersionEntity);
  let hasRole: boolean | undefined;
  let isOnCitus: boolean | undefined;

  async function reading<T>(
    { merchantId, source, formula }: MetricQuery,
    timeoutMs: number,
    work: (run: Run, how: HowToWrite) => Promise<T>,
  ): Promise<T> {
    const runner = formulas.createQueryRunner();
    await runner.connect();
    try {
      await runner.query('begin read only');
      isOnCitus ??= await isDistributed(runner as Executor);
      hasRole ??= (await runner.query(sql('custom/has-reader'), [ROLE]))[0].found === true;
      const onNodes = isOnCitus && source.isDistributed;
      const merchant = merchantId ?? '*';
      await runner.query(sql('custom/prepare'), [merchant, String(timeoutMs)]);
      if (onNodes) {
        // The nodes know only what is set by a statement of its own, and have no rights of the reader on their shards.
        await runner.query(`set local citus.propagate_set_commands = 'local'`);
        await runner.query(`set local tally.merchant_id = ${pg.escapeLiteral(merchant)}`);
      } else if (hasRole) await runner.query(`set local role ${ROLE}`);
      const types = metricTypesIn(formula);
      const units = types.length === 0 ? [] : UnitRow.array().parse(await runner.query(sql('custom/units'), [types]));
      const unitOf = new Map(units.map(({ name, unit }) => [name, unit]));
      return await work((text, values) => runner.query(text, values), { units: unitOf, onNodes });
    } finally {
      await runner.query('rollback').catch(() => {});
      await runner.release();
    }
  }

  return {
    plan: (query, timeoutMs) =>
      reading(query, timeoutMs, async (run, how) => {
        if (how.onNodes) return priceOnNodes(query, run, how);
        const { text, values } = writeMetricQuery(query, how);
        const [row] = await run(`explain (format json, verbose) ${text}`, values);
        const [{ Plan: plan }] = PlanRow.parse(row)['QUERY PLAN'];
        const nodes = nodesOf(plan);
        const [{ stale }] = StatisticsRow.parse(
          await run(sql('custom/statistics'), [schemasOf(nodes), tablesOf(nodes)]),
        );
        let rows = Math.max(...nodes.map((node) => node['Plan Rows']));
        if (stale) rows = Math.max(rows, await countRows(query, run));
        const planned = stale ? 0 : nodes.filter((node) => node['Node Type'].includes('Sort')).length;
        return priceOf(query, { planCost: plan['Total Cost'], rows, planned });
      }),

    compute: (query, timeoutMs) =>
      reading(query, timeoutMs, async (run, how) => {
        const { text, values } = writeMetricQuery(query, how);
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
      const [row] =
        merchantId === null
          ? await runSql(dataSource, 'custom/closed-days', [startDate, endDate], ClosedRow)
          : await runSql(dataSource, 'custom/closed-days-of-merchant', [startDate, endDate, merchantId], ClosedRow);
      const { first, last } = row!;
      return first === null || last === null ? undefined : { first, last };
    },

    create: ({ merchantId, ownerId, fields }) =>
      dataSource.transaction(async (manager) => {
        const fresh = { merchantId, ownerId, ...columnsOf(fields), version: 1, lastUsedAt: null, removedAt: null };
        const row = await manager.save(CustomMetricEntity, fresh);
        await manager.insert(CustomMetricVersionEntity, versionOf(row.id, 1, fields, ownerId));
        return present(row, { version: 1, definition: fields });
      }),

    update: (id, before, fields, by) =>
      dataSource.transaction(async (manager) => {
        const version = before + 1;
        const { affected } = await manager.update(
          CustomMetricEntity,
          { id, version: before, removedAt: IsNull() },
          { ...columnsOf(fields), version, updatedAt: () => 'now()' },
        );
        if (affected !== 1) return undefined;
        await manager.insert(CustomMetricVersionEntity, versionOf(id, version, fields, by));
        return present(await manager.findOneByOrFail(CustomMetricEntity, { id }), { version, definition: fields });
      }),

    async find(viewer, id, { version, removed = false } = {}) {
      const which = { id, ...(!removed && { removedAt: IsNull() }) };
      const row = await metrics.findOneBy(visibleTo(viewer).map((visible) => ({ ...visible, ...which })));
      const found = row && (await versions.findOneBy({ definitionId: id, version: version ?? row.version }));
      return found ? present(row, found) : undefined;
    },

    async list(viewer, { search, limit, after }) {
      const which = {
        removedAt: IsNull(),
        ...(after !== undefined && { id: MoreThan(after) }),
        ...(search !== undefined && {
          name: Raw((name) => `position(lower(:search) in lower(${name})) > 0`, { search }),
        }),
      };
      const rows = await metrics.find({
        where: visibleTo(viewer).map((visible) => ({ ...visible, ...which })),
        order: { id: 'asc' },
        take: limit,
      });
      if (rows.length === 0) return [];
      const newest = await versions.findBy(rows.map(({ id, version }) => ({ definitionId: id, version })));
      const byId = new Map(newest.map((each) => [each.definitionId, each]));
      return rows.map((row) => present(row, byId.get(row.id)!));
    },

    async versions(id, { limit, before }) {
      const rows = await versions.find({
        where: {
          definitionId: id,
          ...(before !== undefined && { version: Raw((version) => `${version} < :before::bigint`, { before }) }),
        },
        order: { version: 'desc' },
        take: limit,
      });
      return rows.map(({ version, definition, createdBy, createdAt }) => ({
        version,
        definition,
        createdBy,
        createdAt: createdAt.toISOString(),
      }));
    },

    async remove(id) {
      await metrics.update({ id }, { removedAt: () => 'now()' });
    },

    async keep(id, value) {
      await dataSource.query(sql('custom/keep-value'), [
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
      ]);
    },

    values: (id, { merchantId, limit, after = [null, null, null, null, null] }) =>
      runSql(dataSource, 'custom/values', [id, merchantId, limit, ...after], ValueRow),

    async audit({ definitionId, version, action, callerId, callerMerchantId, outcome, details }) {
      const step = [definitionId, version, action, callerId, callerMerchantId, outcome, JSON.stringify(details)];
      await dataSource.query(sql('custom/add-audit'), step);
    },

    async prune(before) {
      const Row = z.object({ removed: z.string().transform(Number) });
      for (let all = 0; ; ) {
        const [row] = await runSql(dataSource, 'prune-custom', [before, PRUNED_AT_ONCE], Row);
        if (row!.removed === 0) return all;
        all += row!.removed;
      }
    },

    audited: (id, { limit, before, merchantId }) =>
      runSql(dataSource, 'custom/audited', [id, before ?? null, limit, merchantId], AuditRow),
  };
}

/** Returns the price of a formula that Citus runs on its nodes: its own plan costs 0, those of the nodes do not. */
async function priceOnNodes(query: MetricQuery, run: Run, how: HowToWrite): Promise<number> {
  await run('set local citus.explain_all_tasks = on', []);
  const { text, values } = writeMetricQuery({ ...query, dimensions: [] }, how);
  const plans = remotePlansIn(await run(`explain (format json) ${text}`, values));
  const sum = (of: (plan: PlanNode) => number) => plans.reduce((total, plan) => total + of(plan), 0);
  // With dimensions the rows are read once more.
  const times = query.dimensions.length > 0 ? 2 : 1;
  const planCost = times * sum((plan) => plan['Total Cost']);
  const planned = sum((plan) => Math.max(...nodesOf(plan).map((node) => node['Plan Rows'])));
  // Statistics of the nodes are not at hand. The rows of one merchant are counted; over all, the limit is of each node.
  const counted = query.merchantId === null ? 0 : await countRows(query, run);
  return priceOf(query, { planCost, rows: Math.max(planned, counted), planned: 0 });
}

/** Counts the rows that a formula reads, up to `MAX_COUNTED`. */
async function countRows(query: MetricQuery, run: Run): Promise<number> {
  const { text, values } = writeCount(query, MAX_COUNTED);
  const [{ rows }] = CountRow.parse(await run(text, values));
  return rows;
}

const PRUNED_AT_ONCE = 10_000;

const columnsOf = ({ teamId, visibility, name }: MetricFields) => ({ teamId: teamId ?? null, visibility, name });

const versionOf = (definitionId: string, version: number, definition: MetricFields, createdBy: string) => ({
  definitionId,
  version,
  definition: definition as object,
  createdBy,
});

const present = (
  { lastUsedAt, createdAt, updatedAt, removedAt: _, name: __, ...row }: CustomMetricRow,
  { version, definition }: { version: number; definition: MetricFields },
): StoredMetric => ({
  ...row,
  version,
  fields: definition,
  uses: Number(row.uses),
  lastUsedAt: lastUsedAt?.toISOString() ?? null,
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
});

const ClosedRow = z.object({ first: DateText.nullable(), last: DateText.nullable() });

const schemasOf = (nodes: readonly PlanNode[]) => nodes.map((node) => node.Schema ?? null);
const tablesOf = (nodes: readonly PlanNode[]) => nodes.map((node) => node['Relation Name'] ?? null);

const UnitRow = z.object({ name: z.string(), unit: z.string() });
const StatisticsRow = z.tuple([z.object({ stale: z.boolean() })]);
/** The largest number of rows counted: more would be too costly anyway. */
const MAX_COUNTED = 1_000_000;
const CountRow = z.tuple([z.object({ rows: z.string().transform(Number) })]);
const shortest = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text);
const Decimal = z.string().transform(shortest).nullable();
const AnswerRow = z.object({ value: Decimal }).catchall(z.unknown());
const Rows = z.array(z.object({ dimensions: z.record(z.string(), z.string()), value: z.string().nullable() }));

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
    at: z.string(),
  })
  .transform((row) => ({
    place: [row.at, String(row.version), row.merchant_id, row.period_start, row.period_end] as ValuePlace,
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
