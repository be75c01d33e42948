import {
  countDays,
  type Day,
  type Drained,
  isDay,
  isTallyError,
  type MetricCost,
  type MetricDefinition,
  type MetricFields,
  type MetricResult,
  parseSignedQuantity,
  Quantity,
  type RollupGrain,
  TallyError,
} from '@tally/contracts';
import {
  BUILT_IN_SOURCES,
  type Db,
  type MetricQuery,
  type SourceShape,
  type StoredMetric,
  sqlState,
  type Viewer,
} from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import type { Drain } from '../fresh.ts';
import { loadParser, methodOf, parseFormula } from './formula.ts';
import type { Sources } from './sources.ts';
import type { Turns } from './turns.ts';

export type CustomOptions = {
  db: Pick<Db, 'custom' | 'rollups'>;
  sources: Pick<Sources, 'shapeFor'>;
  /** Limits how many formulas run at once. */
  turns: Turns;
  drain: Drain;
  now: () => number;
  limits: {
    /** Planner costs from which a formula is medium, high, and rejected. */
    medium: number;
    high: number;
    refused: number;
    timeoutMs: number;
    /** The limit of groups in one answer. */
    maxRows: number;
    maxDays: number;
  };
  /** Called when a computation ends, with `ok` or the code of the error. */
  onComputed?(outcome: string, durationMs: number): void;
};

/** A definition, and the merchant whose usage it is computed over; null: all merchants. */
type Question = Omit<MetricFields, 'name' | 'visibility'> & { startDate: Day; endDate: Day; merchantId: string | null };

/** A metric, and the range and merchant to compute it over; null: all merchants. */
type Asked = { id: string; startDate: Day; endDate: Day; merchantId: string | null };

const PERIODS = { 1: 'DAILY', 7: 'WEEKLY' } as const;
const TIMED_OUT = '57014';
const WRONG_DATA = /^22/;
const TOO_LARGE = /^54/;
/** A missing table, column or schema, a type that no longer fits, a revoked right. */
const GONE = new Set(['42P01', '42703', '3F000', '42846', '42883', '42804', '42501']);

/** Custom metrics: who may see, change and compute them, with an audit trail of every step. */
export function createCustom({
  db: { custom: store, rollups },
  sources,
  turns,
  drain,
  now,
  limits,
  onComputed = () => {},
}: CustomOptions) {
  async function understand(question: Question): Promise<MetricQuery> {
    await loadParser();
    const { dataSource, calculationFormula, dimensions = [], filters = {}, startDate, endDate } = question;
    const source = await sources.shapeFor(dataSource, question.merchantId);
    if (startDate > endDate)
      throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.');
    if (countDays(startDate, endDate) > limits.maxDays)
      throw new TallyError('DATE_RANGE_TOO_LARGE', `A metric covers at most ${limits.maxDays} days.`);
    return {
      source,
      ...checkFields({ source, dimensions, filters }),
      formula: parseFormula(calculationFormula, {
        source,
        method: question.aggregationMethod ?? methodOf(question.metricType),
      }),
      startDate,
      endDate,
      merchantId: question.merchantId,
      maxRows: limits.maxRows,
    };
  }

  const costOf = (planCost: number): MetricCost =>
    planCost >= limits.high ? 'high' : planCost >= limits.medium ? 'medium' : 'low';

  /** Rejects a range with partly dropped events: the rest would look like all. */
  async function assertKept({ source, startDate, endDate, merchantId }: MetricQuery): Promise<void> {
    if (!source.hasEvents) return;
    const gone = await store.closedDays(merchantId, { startDate, endDate });
    if (!gone) return;
    throw new TallyError(
      'JOURNAL_DROPPED',
      `The entries of ${gone.first} to ${gone.last} are past the retention; ask \`usage\`, which has their sums.`,
      { details: { startDate: gone.first, endDate: gone.last } },
    );
  }

  /** Flushes what the source reads, if that is quick, and returns how fresh it is. */
  async function cover({ source: { name }, startDate, endDate, merchantId }: MetricQuery): Promise<Drained> {
    if (name === 'events' || name === 'usage') return drain(merchantId);
    const asOf = new Date(now()).toISOString();
    const grain = GRAINS[name];
    if (grain && (await rollups.hasStale(grain, { startDate, endDate }))) return { complete: false, asOf: null };
    return { complete: true, asOf };
  }

  async function compute(viewer: Viewer, question: Question): Promise<MetricResult> {
    const started = performance.now();
    try {
      const result = await turns(viewer.id, {
        async prepare() {
          const query = await understand(question);
          return { query, coverage: await cover(query) };
        },
        work: ({ query, coverage }) => computed(query, coverage, started),
      });
      onComputed('ok', elapsed(started));
      return result;
    } catch (error) {
      onComputed(isTallyError(error) ? error.code : 'INTERNAL', elapsed(started));
      throw error;
    }
  }

  async function computed(query: MetricQuery, coverage: Drained, started: number): Promise<MetricResult> {
    await assertKept(query);
    const planCost = await withCodes(query, store.plan(query, limits.timeoutMs));
    if (planCost > limits.refused)
      throw new TallyError('FORMULA_TOO_COSTLY', `The plan costs ${planCost}; at most ${limits.refused} is run.`, {
        details: { planCost, limit: limits.refused },
      });
    const { value, rows, cut } = await withCodes(query, store.compute(query, limits.timeoutMs));
    // Again: a day may have been closed during the read.
    await assertKept(query);
    if (cut)
      throw new TallyError('FORMULA_TOO_COSTLY', `There are more than ${limits.maxRows} groups; filter them.`, {
        details: { maxRows: limits.maxRows },
      });
    if ([value, ...rows.map((row) => row.value)].some((each) => each !== null && !Quantity.safeParse(each).success))
      throw new TallyError('FORMULA_FAILED', 'The result is not a finite number.');
    return { value, rows, cost: costOf(planCost), planCost, durationMs: elapsed(started), coverage };
  }

  /** Runs a step and records it with its outcome in the audit trail. The step may add its subject. */
  async function audited<T>(
    viewer: Viewer,
    action: string,
    about: About,
    work: (about: About) => Promise<T>,
  ): Promise<T> {
    const note = (outcome: string, details: Record<string, unknown>) =>
      store.audit({
        definitionId: about.id ?? null,
        version: about.version ?? null,
        action,
        callerId: viewer.id,
        callerMerchantId: viewer.merchantId,
        outcome,
        details,
      });
    try {
      const result = await work(about);
      await note('ok', about.details ?? {});
      return result;
    } catch (error) {
      const outcome = isTallyError(error) ? error.code : 'INTERNAL';
      // Nothing was done, and a row per refusal would fill the trail.
      if (outcome === 'RATE_LIMITED') throw error;
      await note(outcome, { ...about.details, message: isTallyError(error) ? error.message : '' }).catch(() => {});
      throw error;
    }
  }

  async function visible(
    viewer: Viewer,
    id: string,
    which: { version?: number | undefined; removed?: boolean } = {},
  ): Promise<StoredMetric> {
    const { version } = which;
    const metric = await store.find(viewer, id, which);
    if (metric) return metric;
    throw new TallyError(
      'NOT_FOUND',
      `There is no metric ${id}${version === undefined ? '' : ` in version ${version}`}.`,
    );
  }

  async function owned(viewer: Viewer, id: string, which: { removed?: boolean } = {}): Promise<StoredMetric> {
    const metric = await visible(viewer, id, which);
    const administers = viewer.all && (viewer.merchantId === null || viewer.merchantId === metric.merchantId);
    if (metric.ownerId === viewer.id || administers) return metric;
    throw new TallyError('FORBIDDEN', 'Only the owner of a metric and admins may do this.');
  }

  /** Throws for any error in a definition that does not depend on the merchant. */
  async function check(fields: MetricFields, viewer: Viewer): Promise<MetricFields> {
    const team = fields.teamId ?? viewer.teamId ?? undefined;
    if (fields.visibility === 'TEAM' && team === undefined)
      throw new TallyError('INVALID_INPUT', 'teamId: a metric of a team needs one, and this key has none.');
    if (team !== undefined && !viewer.all && team !== viewer.teamId)
      throw new TallyError('FORBIDDEN', 'A metric can be shared only with the team of its owner.');
    if (fields.visibility === 'PUBLIC' && viewer.merchantId !== null)
      throw new TallyError('MERCHANT_FORBIDDEN', 'Only callers bound to no merchant can publish a metric (PUBLIC).');
    await understand({ ...fields, startDate: '2026-01-01', endDate: '2026-01-01', merchantId: viewer.merchantId });
    return team === undefined ? fields : { ...fields, teamId: team };
  }

  /** Computes a metric over a range and stores its value. */
  async function calculated(viewer: Viewer, metric: StoredMetric, range: Omit<Asked, 'id'>) {
    const result = await compute(viewer, { ...metric.fields, ...range });
    const { planCost: _, coverage: __, ...kept } = result;
    await store.keep(metric.id, {
      ...kept,
      version: metric.version,
      merchantId: scopeOf(range.merchantId),
      periodType: periodTypeOf(range),
      startDate: range.startDate,
      endDate: range.endDate,
      calculatedBy: viewer.id,
    });
    return { ...result, version: metric.version };
  }

  const scopeOf = (merchantId: string | null) => merchantId ?? '*';
  const formulaOf = (fields: { calculationFormula: string }) => ({ formula: fields.calculationFormula });

  return {
    create: (viewer: Viewer, merchantId: string | null, fields: MetricFields): Promise<MetricDefinition> =>
      audited(viewer, 'create', { details: formulaOf(fields) }, async (about) => {
        const checked = await check(fields, viewer);
        const metric = await store.create({ merchantId: merchantId ?? '', ownerId: viewer.id, fields: checked });
        Object.assign(about, { id: metric.id, version: metric.version });
        return presentTo(viewer, metric);
      }),

    async update(viewer: Viewer, id: string, changes: Partial<MetricFields>): Promise<MetricDefinition> {
      const metric = await owned(viewer, id);
      const fields = { ...metric.fields, ...changes };
      return audited(viewer, 'update', { id, version: metric.version + 1, details: formulaOf(fields) }, async () => {
        const updated = await store.update(id, metric.version, await check(fields, viewer), viewer.id);
        if (updated) return presentTo(viewer, updated);
        throw new TallyError('CONFLICT', 'Another caller changed this metric; read it again.');
      });
    },

    test: (viewer: Viewer, question: Question): Promise<MetricResult> =>
      audited(viewer, 'test', { details: formulaOf(question) }, async () => compute(viewer, question)),

    estimate: (viewer: Viewer, question: Question) =>
      audited(viewer, 'estimate', { details: formulaOf(question) }, async () => {
        const planCost = await turns(viewer.id, {
          prepare: () => understand(question),
          async work(query) {
            await assertKept(query);
            return withCodes(query, store.plan(query, limits.timeoutMs));
          },
        });
        return { cost: costOf(planCost), planCost, allowed: planCost <= limits.refused };
      }),

    async calculate(viewer: Viewer, { id, version, ...range }: Asked & { version?: number | undefined }) {
      const metric = await visible(viewer, id, { version });
      return audited(viewer, 'calculate', { id, version: metric.version, details: { ...range } }, () =>
        calculated(viewer, metric, range),
      );
    },

    /** Calculates for a check that repeats, without the audit trail: a step a minute would hide all others in it. */
    async measure(viewer: Viewer, { id, ...range }: Asked): Promise<string | null> {
      return (await calculated(viewer, await visible(viewer, id), range)).value;
    },

    get: async (viewer: Viewer, id: string, version?: number) =>
      presentTo(viewer, await visible(viewer, id, { version })),

    async list(viewer: Viewer, { limit, cursor, search }: Page & { search?: string | undefined }) {
      if (cursor !== undefined && !UUID.test(cursor)) throw foreignCursor();
      const rows = await store.list(viewer, { search, limit, after: cursor });
      return {
        rows: rows.map((row) => presentTo(viewer, row)),
        nextCursor: rows.length === limit ? rows.at(-1)!.id : null,
      };
    },

    async versions(viewer: Viewer, id: string, { limit, cursor }: Page) {
      const metric = await visible(viewer, id, { removed: true });
      const rows = await store.versions(id, { limit, before: numberIn(cursor) });
      return {
        rows: seesAll(viewer, metric)
          ? rows
          : rows.map(({ createdBy: _, ...row }) => ({ ...row, definition: outsideOf(row.definition) })),
        nextCursor: rows.length === limit ? String(rows.at(-1)!.version) : null,
      };
    },

    /** Values of the caller's or the named merchant; otherwise of all. */
    async values(
      viewer: Viewer,
      id: string,
      { merchantId = null, limit, cursor }: Page & { merchantId?: string | null },
    ) {
      await visible(viewer, id, { removed: true });
      const question = { id, merchantId };
      const after = cursor === undefined ? undefined : decodeCursor(cursor, question, ValuePlace);
      const rows = await store.values(id, { merchantId, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return {
        rows: rows.map(({ place: _, ...row }) => ({
          ...row,
          merchantId: row.merchantId === '*' ? null : row.merchantId,
        })),
        nextCursor: last ? encodeCursor(last.place, question) : null,
      };
    },

    async audit(viewer: Viewer, id: string, { limit, cursor }: Page) {
      await owned(viewer, id, { removed: true });
      const rows = await store.audited(id, { limit, before: numberIn(cursor), merchantId: viewer.merchantId });
      return {
        rows: rows.map(({ id: _, ...row }) => row),
        nextCursor: rows.length === limit ? rows.at(-1)!.id : null,
      };
    },

    async remove(viewer: Viewer, id: string) {
      const metric = await owned(viewer, id);
      return audited(viewer, 'remove', { id, version: metric.version }, async () => {
        await store.remove(id);
        return { id, removed: true as const };
      });
    },
  };
}

export type Custom = ReturnType<typeof createCustom>;

/** The definition that a step of the audit trail is about. */
type About = { id?: string; version?: number; details?: Record<string, unknown> };

const GRAINS: Readonly<Record<string, RollupGrain>> = {
  daily_metrics: 'daily',
  weekly_metrics: 'weekly',
  monthly_metrics: 'monthly',
};

type Page = { limit: number; cursor?: string | undefined };

const DayText = z.string().refine(isDay);
const ValuePlace = z.tuple([
  z.string().regex(/^\d{1,18}$/),
  z.string().regex(/^\d{1,9}$/),
  z.string(),
  DayText,
  DayText,
]);

const foreignCursor = () => new TallyError('INVALID_CURSOR', 'This cursor does not belong to this query.');

/** A cursor that is the number of the last row. */
function numberIn(cursor: string | undefined): string | undefined {
  if (cursor !== undefined && !/^\d{1,18}$/.test(cursor)) throw foreignCursor();
  return cursor;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

function checkFields({
  source,
  dimensions,
  filters,
}: {
  source: SourceShape;
  dimensions: readonly string[];
  filters: NonNullable<MetricFields['filters']>;
}): Pick<MetricQuery, 'dimensions' | 'filters'> {
  const { columns } = source;
  const typeOf = (column: string, place: string) => {
    const name = column.toLowerCase();
    if (Object.hasOwn(columns, name)) return columns[name]!.type;
    throw new TallyError('FORMULA_FORBIDDEN', `${place}: ${source.name} has no column ${column}.`, {
      details: { allowed: Object.keys(columns) },
    });
  };
  for (const column of dimensions) {
    const type = typeOf(column, 'dimensions');
    if (type !== 'text' && type !== 'date')
      throw new TallyError('FORMULA_TYPE', `dimensions: ${column} is a ${type}; group by a text or a date.`);
  }
  return {
    dimensions: [...new Set(dimensions.map((column) => column.toLowerCase()))],
    filters: Object.entries(filters).map(([column, given]) => {
      const type = typeOf(column, 'filters');
      const values = (Array.isArray(given) ? given : [given]).map(String);
      const wrong = values.find(
        (value) =>
          (type === 'date' && !isDay(value)) ||
          (type === 'number' && parseSignedQuantity('cost', value) === undefined) ||
          (type === 'boolean' && value !== 'true' && value !== 'false') ||
          type === 'time',
      );
      if (wrong !== undefined)
        throw new TallyError('FORMULA_TYPE', `filters.${column}: ${JSON.stringify(wrong)} is not a ${type}.`);
      return { column: column.toLowerCase(), type, values };
    }),
  };
}

/** Converts errors of Postgres during a computation to codes. */
async function withCodes<T>({ source }: MetricQuery, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    const state = sqlState(error);
    if (state === TIMED_OUT) throw new TallyError('QUERY_TIMEOUT', 'The metric took too long.', { cause: error });
    if (TOO_LARGE.test(state))
      throw new TallyError('FORMULA_TOO_COSTLY', 'The metric sorts or collects more values than fit.', {
        cause: error,
      });
    if (GONE.has(state) && !Object.hasOwn(BUILT_IN_SOURCES, source.name))
      throw new TallyError('FORMULA_FAILED', 'The view of this data source changed, or can no longer be read.', {
        cause: error,
      });
    if (WRONG_DATA.test(state))
      throw new TallyError('FORMULA_FAILED', 'A value exceeds the range of numbers.', { cause: error });
    throw error;
  }
}

function periodTypeOf({ startDate, endDate }: { startDate: Day; endDate: Day }) {
  const days = countDays(startDate, endDate);
  const month = startDate.slice(0, 7);
  const wholeMonth =
    startDate.endsWith('-01') && endDate.startsWith(month) && days >= 28 && !isDay(`${month}-${days + 1}`);
  return wholeMonth ? 'MONTHLY' : (PERIODS[days as keyof typeof PERIODS] ?? 'CUSTOM');
}

/**
 * Returns true if a viewer may see all of a definition: other merchants see neither owner nor parameters of a PUBLIC
 * one.
 */
const seesAll = (viewer: Viewer, metric: StoredMetric): boolean =>
  viewer.merchantId === null || viewer.merchantId === metric.merchantId || viewer.id === metric.ownerId;

const outsideOf = ({ name, description, metricType, dataSource, calculationFormula, visibility }: MetricFields) => ({
  ...{ name, metricType, dataSource, calculationFormula, visibility },
  ...(description !== undefined && { description }),
});

function presentTo(viewer: Viewer, metric: StoredMetric): MetricDefinition {
  const { fields, id, version, ownerId, merchantId, uses, lastUsedAt, createdAt, updatedAt } = metric;
  if (!seesAll(viewer, metric)) return { ...outsideOf(fields), id, version };
  return {
    ...fields,
    ...{ id, version, ownerId, uses, lastUsedAt, createdAt, updatedAt },
    merchantId: merchantId === '' ? null : merchantId,
  };
}

const elapsed = (started: number): number => Math.round((performance.now() - started) * 100) / 100;
