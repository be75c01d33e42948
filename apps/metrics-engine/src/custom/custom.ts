import {
  countDays,
  type Day,
  isDay,
  isTallyError,
  type MetricCost,
  type MetricDefinition,
  type MetricFields,
  type MetricResult,
  parseSignedQuantity,
  TallyError,
} from '@tally/contracts';
import { type Db, type MetricQuery, SOURCE_COLUMNS, type StoredMetric, sqlState, type Viewer } from '@tally/db';
import { loadParser, methodOf, parseFormula } from './formula.ts';

export type CustomOptions = {
  db: Pick<Db, 'custom'>;
  limits: {
    /** Planner costs from which a question is medium, high, and refused. */
    medium: number;
    high: number;
    refused: number;
    timeoutMs: number;
    /** Groups of one answer. */
    maxRows: number;
    maxDays: number;
  };
  /** Told how each computation ended: `ok`, or the code of the error. */
  onComputed?(outcome: string, durationMs: number): void;
};

/** Whose usage is computed over; null: everybody's. */
type Question = Omit<MetricFields, 'name' | 'visibility'> & { startDate: Day; endDate: Day; merchantId: string | null };

const PERIODS = { 1: 'DAILY', 7: 'WEEKLY' } as const;
const TIMED_OUT = '57014';
const WRONG_DATA = /^22/;

/** Custom metrics: who may see, change and compute them, and every step in the audit trail. */
export function createCustom({ db: { custom: store }, limits, onComputed = () => {} }: CustomOptions) {
  async function understand(question: Question): Promise<MetricQuery> {
    await loadParser();
    const { dataSource: source, calculationFormula, dimensions = [], filters = {}, startDate, endDate } = question;
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

  /** Refuses where entries of the range are gone: what is left of them would pass for all. */
  async function assertKept({ source, startDate, endDate, merchantId }: MetricQuery): Promise<void> {
    if (source !== 'events') return;
    const gone = await store.closedDays(merchantId, { startDate, endDate });
    if (!gone) return;
    throw new TallyError(
      'JOURNAL_DROPPED',
      `The entries of ${gone.first} to ${gone.last} are past the retention; ask \`usage\`, which has their sums.`,
      { details: { startDate: gone.first, endDate: gone.last } },
    );
  }

  async function compute(query: MetricQuery): Promise<MetricResult> {
    const started = performance.now();
    try {
      const result = await computed(query, started);
      onComputed('ok', elapsed(started));
      return result;
    } catch (error) {
      onComputed(isTallyError(error) ? error.code : 'INTERNAL', elapsed(started));
      throw error;
    }
  }

  async function computed(query: MetricQuery, started: number): Promise<MetricResult> {
    await assertKept(query);
    const planCost = await said(store.plan(query, limits.timeoutMs));
    if (planCost > limits.refused)
      throw new TallyError('FORMULA_TOO_COSTLY', `The plan costs ${planCost}; at most ${limits.refused} is run.`, {
        details: { planCost, limit: limits.refused },
      });
    const { value, rows, cut } = await said(store.compute(query, limits.timeoutMs));
    // Once more: a day may have been closed while it was read.
    await assertKept(query);
    if (cut)
      throw new TallyError('FORMULA_TOO_COSTLY', `There are more than ${limits.maxRows} groups; filter them.`, {
        details: { maxRows: limits.maxRows },
      });
    return { value, rows, cost: costOf(planCost), planCost, durationMs: elapsed(started) };
  }

  /** Runs a step and notes it in the audit trail, how it ended too. */
  async function audited<T>(
    viewer: Viewer,
    action: string,
    about: { id?: string; version?: number; details?: Record<string, unknown> },
    work: () => Promise<T>,
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
      const result = await work();
      await note('ok', about.details ?? {});
      return result;
    } catch (error) {
      const outcome = isTallyError(error) ? error.code : 'INTERNAL';
      await note(outcome, { ...about.details, message: isTallyError(error) ? error.message : '' }).catch(() => {});
      throw error;
    }
  }

  async function visible(viewer: Viewer, id: string, version?: number): Promise<StoredMetric> {
    const metric = await store.find(viewer, id, version);
    if (metric) return metric;
    throw new TallyError(
      'NOT_FOUND',
      `There is no metric ${id}${version === undefined ? '' : ` in version ${version}`}.`,
    );
  }

  async function owned(viewer: Viewer, id: string): Promise<StoredMetric> {
    const metric = await visible(viewer, id);
    const administers = viewer.all && (viewer.merchantId === null || viewer.merchantId === metric.merchantId);
    if (metric.ownerId === viewer.id || administers) return metric;
    throw new TallyError('FORBIDDEN', 'Only the owner of a metric and admins may do this.');
  }

  /** All that can be wrong with a definition, whatever it is computed over. */
  async function check(fields: MetricFields, viewer: Viewer): Promise<MetricFields> {
    const team = fields.teamId ?? viewer.teamId ?? undefined;
    if (fields.visibility === 'TEAM' && team === undefined)
      throw new TallyError('INVALID_INPUT', 'teamId: a metric of a team needs one, and this key has none.');
    if (team !== undefined && !viewer.all && team !== viewer.teamId)
      throw new TallyError('FORBIDDEN', 'A metric can be shared with the own team only.');
    await understand({ ...fields, startDate: '2026-01-01', endDate: '2026-01-01', merchantId: viewer.merchantId });
    return team === undefined ? fields : { ...fields, teamId: team };
  }

  const scopeOf = (merchantId: string | null) => merchantId ?? '*';
  const formulaOf = (fields: { calculationFormula: string }) => ({ formula: fields.calculationFormula });

  return {
    create: (viewer: Viewer, merchantId: string | null, fields: MetricFields): Promise<MetricDefinition> =>
      audited(viewer, 'create', { details: formulaOf(fields) }, async () => {
        const checked = await check(fields, viewer);
        const metric = await store.create({ merchantId: merchantId ?? '', ownerId: viewer.id, fields: checked });
        return present(metric);
      }),

    async update(viewer: Viewer, id: string, changes: Partial<MetricFields>): Promise<MetricDefinition> {
      const metric = await owned(viewer, id);
      const fields = { ...metric.fields, ...changes };
      return audited(viewer, 'update', { id, version: metric.version + 1, details: formulaOf(fields) }, async () => {
        const updated = await store.update(id, metric.version, await check(fields, viewer), viewer.id);
        if (updated) return present(updated);
        throw new TallyError('CONFLICT', 'Someone else has changed this metric meanwhile; look at it again.');
      });
    },

    test: (viewer: Viewer, question: Question): Promise<MetricResult> =>
      audited(viewer, 'test', { details: formulaOf(question) }, async () => compute(await understand(question))),

    estimate: (viewer: Viewer, question: Question) =>
      audited(viewer, 'estimate', { details: formulaOf(question) }, async () => {
        const query = await understand(question);
        await assertKept(query);
        const planCost = await said(store.plan(query, limits.timeoutMs));
        return { cost: costOf(planCost), planCost, allowed: planCost <= limits.refused };
      }),

    async calculate(
      viewer: Viewer,
      {
        id,
        version,
        ...range
      }: { id: string; version?: number | undefined; startDate: Day; endDate: Day; merchantId: string | null },
    ) {
      const metric = await visible(viewer, id, version);
      const details = { ...range };
      return audited(viewer, 'calculate', { id, version: metric.version, details }, async () => {
        const result = await compute(await understand({ ...metric.fields, ...range }));
        const { planCost: _, ...kept } = result;
        await store.keep(id, {
          ...kept,
          version: metric.version,
          merchantId: scopeOf(range.merchantId),
          periodType: periodTypeOf(range),
          startDate: range.startDate,
          endDate: range.endDate,
          calculatedBy: viewer.id,
        });
        return { ...result, version: metric.version };
      });
    },

    get: async (viewer: Viewer, id: string, version?: number) => present(await visible(viewer, id, version)),

    async list(
      viewer: Viewer,
      { limit, cursor, search }: { limit: number; cursor?: string | undefined; search?: string | undefined },
    ) {
      if (cursor !== undefined && !UUID.test(cursor))
        throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
      const rows = await store.list(viewer, { search, limit, after: cursor });
      return { rows: rows.map(present), nextCursor: rows.length === limit ? rows.at(-1)!.id : null };
    },

    async versions(viewer: Viewer, id: string) {
      await visible(viewer, id);
      return { rows: await store.versions(id), nextCursor: null };
    },

    /** Values of the merchant that the caller is bound to, or names; all of them for others. */
    async values(viewer: Viewer, id: string, merchantId: string | null, limit: number) {
      await visible(viewer, id);
      const rows = await store.values(id, merchantId, limit);
      return {
        rows: rows.map((row) => ({ ...row, merchantId: row.merchantId === '*' ? null : row.merchantId })),
        nextCursor: null,
      };
    },

    async audit(viewer: Viewer, id: string, { limit, cursor }: { limit: number; cursor?: string | undefined }) {
      await owned(viewer, id);
      if (cursor !== undefined && !/^\d{1,18}$/.test(cursor))
        throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
      const rows = await store.audited(id, { limit, before: cursor, merchantId: viewer.merchantId });
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

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

function checkFields({
  source,
  dimensions,
  filters,
}: {
  source: MetricQuery['source'];
  dimensions: readonly string[];
  filters: NonNullable<MetricFields['filters']>;
}): Pick<MetricQuery, 'dimensions' | 'filters'> {
  const columns = SOURCE_COLUMNS[source];
  const typeOf = (column: string, place: string) => {
    if (Object.hasOwn(columns, column)) return columns[column]!;
    throw new TallyError('FORMULA_FORBIDDEN', `${place}: ${source} has no column ${column}.`, {
      details: { allowed: Object.keys(columns) },
    });
  };
  for (const column of dimensions) {
    const type = typeOf(column, 'dimensions');
    if (type !== 'text' && type !== 'date')
      throw new TallyError('FORMULA_TYPE', `dimensions: ${column} is a ${type}; group by a text or a date.`);
  }
  return {
    dimensions: [...new Set(dimensions)],
    filters: Object.entries(filters).map(([column, given]) => {
      const type = typeOf(column, 'filters');
      const values = (Array.isArray(given) ? given : [given]).map(String);
      const wrong = values.find(
        (value) =>
          (type === 'date' && !isDay(value)) ||
          (type === 'number' && parseSignedQuantity('cost', value) === undefined) ||
          type === 'time',
      );
      if (wrong !== undefined)
        throw new TallyError(
          'FORMULA_TYPE',
          `filters.${column}: ${JSON.stringify(wrong)} is no ${type} to compare with.`,
        );
      return { column, type, values };
    }),
  };
}

/** What Postgres says while it computes, as a code. */
async function said<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    const state = sqlState(error);
    if (state === TIMED_OUT) throw new TallyError('QUERY_TIMEOUT', 'The metric took too long.', { cause: error });
    if (WRONG_DATA.test(state))
      throw new TallyError('FORMULA_FAILED', 'A value left the range of numbers.', { cause: error });
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

function present({ fields, id, version, ownerId, merchantId, ...metric }: StoredMetric): MetricDefinition {
  return {
    ...fields,
    id,
    version,
    ownerId,
    merchantId: merchantId === '' ? null : merchantId,
    uses: metric.uses,
    lastUsedAt: metric.lastUsedAt,
    createdAt: metric.createdAt,
    updatedAt: metric.updatedAt,
  };
}

const elapsed = (started: number): number => Math.round((performance.now() - started) * 100) / 100;
