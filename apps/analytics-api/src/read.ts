import {
  addDays,
  analytics,
  type BreakdownBy,
  countDays,
  type DayRange,
  dayOf,
  type Filters,
  formatCost,
  formatQuantity,
  type GroupBy,
  type Grouping,
  type Interval,
  monthOf,
  type PlanPart,
  QUARTER_HOUR_MS,
  type SortBy,
  TallyError,
} from '@tally/contracts';
import type { Db, Position, Sums } from '@tally/db';
import { decodeCursor, encodeCursor, type FairQueue, groupBy as grouped } from '@tally/service';
import { z } from 'zod';
import { type Cache, finished } from './cache.ts';
import { assertRange, periodBefore } from './dates.ts';
import { covering, type Documents, type Imported, kindsOf } from './documents.ts';
import type { Fallback } from './fallback.ts';
import type { Freshness } from './fresh.ts';
import { assertKnown, type KnownOn, knownOn, laterThan } from './known-on.ts';
import type { Labels } from './labels.ts';
import { add, measuresOf, NOTHING, ofTexts, textsOf, tokensOf, unknownOf } from './measures.ts';
import { bounded, knownRows, type Needs, needsOf, planOf, planSeries, typicalRows } from './plan.ts';
import { trendOf } from './trend.ts';
import { type Period, periodsOf } from './zone.ts';

/** The cached part of an answer: everything that does not belong to one call. */
const OF_A_CALL = { coverage: true, plan: true } as const;
const BreakdownSent = analytics.analytics.breakdown.output.omit(OF_A_CALL);
const SummarySent = analytics.analytics.summary.output.omit(OF_A_CALL);
const SeriesSent = analytics.analytics.timeseries.output.omit(OF_A_CALL);
type BreakdownAnswer = z.infer<typeof analytics.analytics.breakdown.output>;
type SummaryAnswer = z.infer<typeof analytics.analytics.summary.output>;
export type SeriesAnswer = z.infer<typeof analytics.analytics.timeseries.output>;

type Explain = { explain?: boolean | undefined };

export type BreakdownQuestion = Filters &
  Explain &
  KnownOn & {
    by: BreakdownBy;
    sortBy: SortBy;
    order: 'asc' | 'desc';
    limit: number;
    cursor?: string | undefined;
  };

/** The groups to read: those of a question after a position. */
type Page = Omit<BreakdownQuestion, 'cursor' | 'explain'> & { after: Position | undefined };

export type SeriesQuestion = Filters &
  Explain & { interval: Interval; timeZone: string; groupBy?: Grouping | undefined };

export type ReadOptions = {
  db: Pick<Db, 'usage' | 'metricTypes'>;
  freshness: Freshness;
  cache: Cache;
  documents: Documents;
  labels: Labels;
  fallback: Fallback;
  /** The queue of queries that are never cached. */
  queue: FairQueue;
  maxDays: number;
  /** Rows that a query may read, as estimated by its plan. */
  maxRows: number;
  now: () => number;
};

const TOP_USERS = 5;
const TOP_MODELS = 10;
/** The limit of rows in a grouped series. */
const MAX_SERIES_ROWS = 100_000;
const MAX_OPTIONS = 10_000;

/** Answers queries over counted events. Each query names its caller, since callers take turns. */
export function createRead(options: ReadOptions) {
  const { db, freshness, cache, documents, labels, fallback, queue, maxDays, maxRows, now } = options;

  return {
    breakdown: fallback('breakdown', breakdown),
    summary: fallback('summary', summary),
    timeseries: fallback('timeseries', timeseries),
    filterOptions: fallback('filterOptions', filterOptions),
    merchantUsage: fallback('merchantUsage', merchantUsage),
  };

  async function breakdown({ cursor, explain, ...question }: BreakdownQuestion, callerId: string) {
    assertRange(question, maxDays);
    await assertKnown(question, question, { db, now });
    const { by, sortBy, order, limit, ...filters } = question;
    const paged = { by, sortBy, order, ...filters };
    const groupings = [by].flat();
    const after = cursor === undefined ? undefined : decodeCursor(cursor, paged, placeOf(sortBy, groupings.length));
    const coverage = knownOn(await freshness.cover(filters, groupings), question);
    const compute = async () => {
      const { rows, totals, total, imported, parts } = await readGroups({ ...question, after }, filters);
      const last = rows.length === limit ? rows.at(-1) : undefined;
      const sent = BreakdownSent.parse({
        rows: await labels.rows(by, rows, filters.merchantIds),
        totals: measuresOf(totals),
        total,
        nextCursor: last ? encodeCursor([last.sort_value, ...last.keys], paged) : null,
      });
      return { sent, more: { imported, parts, unknown: unknownOf(totals) } };
    };
    const query = { kind: 'breakdown', question: [question, after], scope: filters, callerId };
    const { text, more } = await cache.sent(query, compute);
    const { imported, parts, unknown } = more;
    return finished<BreakdownAnswer>(text, {
      coverage: covering(coverage, imported, unknown),
      ...planned(parts, explain),
    });
  }

  /** Reads a page of groups, with the plan of the groups. */
  async function readGroups(page: Page, filters: Filters & KnownOn) {
    const { by } = page;
    const groupings = [by].flat();
    // The providers of a model are listed beside its sums, so nothing is subtracted there.
    const needs: Needs = { ...needsOf(filters, ...groupings), days: false, sums: by !== 'model' };
    const [plan, imported] = await Promise.all([
      planner(filters, needs, filters).then((planOfRange) => planOfRange(filters)),
      // An imported snapshot has sums by one grouping.
      documents.within(filters, typeof by === 'string' ? kindsOf(filters, by) : undefined),
    ]);
    const later = laterThan(page, filters);
    const parts = [...plan, ...imported.parts, ...later];
    // Where groups need finer rollups than their totals, they are many.
    const whole = needsOf(filters);
    const areMany = !whole.entities && (needs.entities || needs.platform !== whole.platform);
    const totalsOf = () => planOf(filters, { ...whole, days: false, sums: true }, typicalRows(dayOf(now())));
    const isRanked = areMany && !groupings.includes('team') && imported.parts.length === 0;
    const totals = isRanked ? [...totalsOf(), ...later] : undefined;
    return { ...(await db.usage.breakdown({ ...page, parts, totals })), imported, parts };
  }

  async function summary({ explain, ...filters }: Filters & Explain & KnownOn, callerId: string) {
    assertRange(filters, maxDays);
    const before = periodBefore(filters);
    const scope = { ...filters, startDate: before.startDate };
    await assertKnown(filters, scope, { db, now });
    const coverage = knownOn(await freshness.cover(filters), filters);
    const query = { kind: 'summary', question: filters, scope, callerId };
    const { text, more } = await cache.sent(query, () => computeSummary(filters, before));
    const { unknown, plan, importedNow, importedBefore } = more;
    const covered = covering(covering(coverage, importedNow), importedBefore, unknown);
    return finished<SummaryAnswer>(text, { coverage: covered, ...planned(plan, explain) });
  }

  async function computeSummary(filters: Filters & KnownOn, before: DayRange) {
    const { plan, importedNow, importedBefore } = await planSummary(filters, before);
    const limits = { users: TOP_USERS, models: TOP_MODELS };
    const earlier = { ...filters, ...before };
    const [{ activeUsers, users, models, byDay }, past] = await Promise.all([
      db.usage.overview({ ...filters, parts: plan, limits }),
      // Concurrently on another connection: each period is of one moment, the two may differ. Cached by itself, since
      // the days before seldom change and those of this period do with every event.
      cache.through({ kind: 'before', question: earlier, scope: earlier }, () =>
        db.usage.snapshot(async (reader) => ({
          sums: textsOf(await reader.totals({ ...filters, parts: plan.before })),
          users: await reader.activeUsers({ ...filters, parts: plan.usersBefore }),
        })),
      ),
    ]);
    const then = { ...ofTexts(past.sums), users: past.users };
    const sums = byDay.reduce((whole, day) => add(whole, day), NOTHING);
    const [topUsers, topModels] = await Promise.all([
      labels.rows('user', users, filters.merchantIds),
      labels.rows('model', models, filters.merchantIds),
    ]);
    const { startDate, endDate } = filters;
    const sent = SummarySent.parse({
      period: { startDate, endDate, days: countDays(startDate, endDate) },
      totals: measuresOf(sums),
      activeUsers,
      byDay: byDay.map(({ date, ...day }) => ({ date, ...measuresOf(day) })),
      trends: trendsOf({ ...sums, users: activeUsers }, then),
      topUsers,
      topModels,
      comparedWith: before,
    });
    const unknown = unknownOf(add(sums, then));
    return { sent, more: { unknown, plan: Object.values(plan).flat(), importedNow, importedBefore } };
  }

  /** Plans the parts of a summary, of its period and of the one before. */
  async function planSummary(filters: Filters & KnownOn, before: DayRange) {
    const kinds = kindsOf(filters, 'user', 'model');
    const [importedNow, importedBefore] = await Promise.all([
      documents.within(filters, kinds),
      documents.within(before, kinds),
    ]);
    const needs = needsOf(filters);
    // A user of two merchants is two active users, so rollups of all merchants cannot count them.
    const planUsers = await planner(filters, { entities: true, days: false, sums: true }, before, filters);
    const planSums = await planner(filters, { ...needs, days: false, sums: true }, before, filters);
    const planModels = await planner(filters, { ...needsOf(filters, 'model'), days: false }, filters);
    const planDays = await planner(filters, { ...needs, days: true }, filters);
    const ofNow = [...importedNow.parts, ...laterThan(filters, filters)];
    const ofBefore = [...importedBefore.parts, ...laterThan(filters, before)];
    const plan = {
      users: [...planUsers(filters), ...ofNow],
      usersBefore: [...planUsers(before), ...ofBefore],
      before: [...planSums(before), ...ofBefore],
      models: [...planModels(filters), ...ofNow],
      days: [...planDays(filters), ...ofNow],
    };
    return { plan, importedNow, importedBefore };
  }

  async function timeseries(
    { explain, interval, timeZone, groupBy, ...filters }: SeriesQuestion,
    callerId: string,
  ): Promise<SeriesAnswer> {
    assertRange(filters, maxDays);
    const periods = periodsOf(filters, interval, timeZone);
    // A day that a zone skipped has no moments, so nothing can have been used on it.
    if (periods.length === 0) return { points: [], coverage: await freshness.cover(filters) };
    const starts = periods.map((period) => period.from);
    const end = periods.at(-1)!.to;
    const needs: Needs = { ...needsOf(filters, ...(groupBy ? [groupBy] : [])), days: interval !== 'month' };
    const plan = planSeries({ starts, end }, needs);
    const utc = { ...filters, startDate: dayOf(starts[0]!), endDate: dayOf(end - 1) };
    const coverage = await freshness.cover(utc, groupBy && [groupBy]);
    const rollup = plan[0]!.cube;
    if (rollup === 'usage_quarter_hours') assertQuarters([...starts, end], timeZone);
    if (rollup === 'usage_events') await assertEntries(utc);
    const withinDays = rollup === 'usage_quarter_hours' || rollup === 'usage_events';
    const compute = async () => {
      if (rollup === 'usage_daily') await planner(utc, { entities: true, days: true }, utc).then((each) => each(utc));
      if (groupBy && groupBy !== 'team' && interval === 'day' && !withinDays) await assertGroups(utc, groupBy);
      const imported = await documents.within(utc, withinDays ? undefined : kindsOf(filters, groupBy));
      const parts = [...plan, ...imported.parts];
      const slots = await readSlots({ ...filters, parts, by: groupBy }, periods);
      const unknown = unknownOf(slots.reduce((whole, { sums }) => add(whole, sums), NOTHING));
      return {
        sent: SeriesSent.parse({ points: pointsOf(periods, slots, groupBy) }),
        more: { imported, parts, unknown },
      };
    };
    const question = [filters, interval, timeZone, groupBy];
    const { text, more } = await cache.sent({ kind: 'timeseries', question, scope: utc, callerId }, compute);
    const { imported, parts, unknown } = more;
    return finished<SeriesAnswer>(text, {
      coverage: covering(coverage, imported, unknown),
      ...planned(parts, explain),
    });
  }

  /** Reads the sums of periods. Throws TOO_MANY_POINTS if they have too many groups. */
  async function readSlots(
    scope: Filters & { parts: PlanPart[]; by: Grouping | undefined },
    periods: readonly Period[],
  ): Promise<Slot[]> {
    const starts = periods.map((period) => period.from);
    const limit = scope.by ? MAX_SERIES_ROWS + 1 : periods.length;
    const rows = await db.usage.series({ ...scope, starts, end: periods.at(-1)!.to, limit });
    if (rows.length > MAX_SERIES_ROWS) throw tooManyGroups();
    return rows.map(({ slot, key, ...sums }) => ({ slot, key, sums }));
  }

  async function filterOptions(question: DayRange & { merchantIds?: string[] | undefined }, callerId: string) {
    assertRange(question, maxDays);
    const coverage = await freshness.cover(question);
    const { imported, ...answer } = await cache.through(
      { kind: 'filters', question, scope: question, callerId },
      async () => {
        const imported = await documents.within(question, kindsOf(question, 'user', 'model', 'provider'));
        return { ...(await optionsOf(question, imported)), imported };
      },
    );
    return {
      ...answer,
      coverage: imported.parts.length > 0 ? { ...coverage, complete: false } : covering(coverage, imported),
    };
  }

  /** Reads the values of every dimension, with their labels. */
  async function optionsOf(
    question: DayRange & { merchantIds?: string[] | undefined },
    { parts: importedParts }: Imported,
  ) {
    const { merchantIds } = question;
    const found = await db.usage.snapshot(async (reader) => {
      const values = (by: GroupBy) => {
        // An imported snapshot names neither merchants nor keys; the dimensions it names can be listed.
        const more = by === 'merchant' || by === 'apiKey' ? [] : importedParts;
        const parts = [...planOf(question, { ...needsOf({ merchantIds }, by), days: false }), ...more];
        return reader.values({ merchantIds, by, limit: MAX_OPTIONS + 1, parts });
      };
      return {
        models: await values('model'),
        providers: await values('provider'),
        merchants: await values('merchant'),
        users: await values('user'),
        apiKeys: await values('apiKey'),
      };
    });
    const keys = (by: 'providers' | 'merchants' | 'users' | 'apiKeys') =>
      found[by].slice(0, MAX_OPTIONS).map(({ key }) => key);
    const [user, apiKey, merchant] = await Promise.all([
      labels.of('user', keys('users'), merchantIds),
      labels.of('apiKey', keys('apiKeys'), merchantIds),
      labels.of('merchant', keys('merchants'), merchantIds),
    ]);
    return {
      models: found.models.slice(0, MAX_OPTIONS).map(({ key, providers = [] }) => ({ id: key, providers })),
      providers: keys('providers'),
      users: keys('users').map((id) => {
        const { label, details } = user(id);
        return { id, label, email: (details.email as string | null) ?? null };
      }),
      apiKeys: keys('apiKeys').map((id) => ({ id, label: apiKey(id).label })),
      merchants: keys('merchants').map((id) => ({ id, label: merchant(id).label })),
      truncated: Object.values(found).some((values) => values.length > MAX_OPTIONS),
    };
  }

  async function merchantUsage(
    question: { merchantId: string; startDate: string; endDate: string; metricTypes?: string[] | undefined },
    callerId: string,
  ) {
    assertRange(question, maxDays);
    const merchantIds = [question.merchantId];
    const coverage = await freshness.cover({ ...question, merchantIds });
    const imported = await documents.within(question, undefined);
    const rows = await queue(callerId, () => db.usage.merchantUsage({ ...question, merchantIds }));
    const scaleOf = await db.metricTypes.scales(rows.map(({ metric_type }) => metric_type));
    return {
      rows: rows.map(({ merchant_id, date, metric_type, metric_value }) => ({
        merchantId: merchant_id,
        date,
        metricType: metric_type,
        metricValue: formatQuantity(metric_type, metric_value, scaleOf),
      })),
      nextCursor: null,
      coverage: covering(coverage, imported),
    };
  }

  /** Returns how to plan sums of these ranges: by their number of rows, if the choice of rollups matters. */
  async function planner({ merchantIds }: Pick<Filters, 'merchantIds'>, needs: Needs, ...ranges: DayRange[]) {
    if (!needs.entities) return (range: DayRange) => planOf(range, needs, typicalRows(dayOf(now())));
    const rowsOf = knownRows(await db.usage.rows({ merchantIds, ranges, everyDay: needs.days }));
    return (range: DayRange) => bounded(planOf(range, needs, rowsOf), rowsOf, maxRows);
  }

  /** Throws TOO_MANY_POINTS if even the months of a range have too many keys: days have at least as many. */
  async function assertGroups({ startDate, endDate, ...filters }: Filters, by: GroupBy): Promise<void> {
    const [first, last] = [monthOf(startDate), monthOf(endDate)];
    const months = {
      startDate: first.startDate === startDate ? startDate : addDays(first.endDate, 1),
      endDate: last.endDate === endDate ? endDate : addDays(last.startDate, -1),
    };
    if (months.startDate > months.endDate) return;
    const cube = needsOf(filters, by).entities ? 'usage_monthly' : 'usage_monthly_models';
    const question = { ...filters, by, parts: [{ cube, ...months } as const], limit: MAX_SERIES_ROWS + 1 };
    if ((await db.usage.keysByPeriod(question)) > MAX_SERIES_ROWS) throw tooManyGroups();
  }

  async function assertEntries(filters: Filters): Promise<void> {
    const gap = await db.usage.daysWithoutEntries(filters);
    if (!gap) return;
    throw new TallyError(
      'GRAIN_NOT_KEPT',
      `The entries of ${gap.first} to ${gap.last} are no longer kept: users and api keys cannot be told apart within these days.`,
      {
        details: {
          firstDay: gap.first,
          lastDay: gap.last,
          ask: [
            'days, weeks or months in the time zone UTC',
            'any interval without userIds, apiKeys and without grouping by user or apiKey',
          ],
        },
      },
    );
  }
}

const tooManyGroups = () =>
  new TallyError('TOO_MANY_POINTS', `The series has more than ${MAX_SERIES_ROWS} groups in all.`, {
    details: { maxRows: MAX_SERIES_ROWS },
  });

/** The sort value of a row, and its keys. */
const placeOf = (sortBy: SortBy, keys: number) =>
  z
    .tuple([sortBy === 'key' ? z.string() : z.string().regex(/^-?\d{1,40}$/)], z.string())
    .refine((place) => place.length === 1 + keys)
    .transform(([value, ...keys]) => ({ value, keys }));

export type Read = ReturnType<typeof createRead>;

function planned(plan: PlanPart[], explain: boolean | undefined): { plan?: PlanPart[] } {
  return explain ? { plan } : {};
}

function trendsOf(now: Sums & { users: number }, then: Sums & { users: number }) {
  const whole = (units: bigint) => units.toString();
  return {
    requests: trendOf(now.requests, then.requests, whole),
    failedRequests: trendOf(now.failed_requests, then.failed_requests, whole),
    promptTokens: trendOf(now.prompt_tokens, then.prompt_tokens, whole),
    completionTokens: trendOf(now.completion_tokens, then.completion_tokens, whole),
    totalTokens: trendOf(tokensOf(now), tokensOf(then), whole),
    cost: trendOf(now.cost, then.cost, formatCost),
    activeUsers: trendOf(BigInt(now.users), BigInt(then.users), whole),
  };
}

/** Today's zones are whole quarter hours from UTC; some earlier ones were not. */
function assertQuarters(moments: readonly number[], timeZone: string): void {
  if (moments.every((at) => at % QUARTER_HOUR_MS === 0)) return;
  throw new TallyError('GRAIN_NOT_KEPT', `${timeZone} was not whole quarter hours from UTC at that time.`, {
    details: { ask: ['the time zone UTC'] },
  });
}

type Slot = { slot: number; key: string | null; sums: Sums };

function pointsOf(periods: readonly Period[], slots: readonly Slot[], groupBy: Grouping | undefined) {
  const bySlot = grouped(slots, ({ slot }) => slot);
  return periods.map(({ start, from, to }, index) => {
    const found = bySlot.get(index) ?? [];
    return {
      start: new Date(start).toISOString(),
      from: new Date(from).toISOString(),
      to: new Date(to).toISOString(),
      ...measuresOf(found.reduce((whole, { sums }) => add(whole, sums), NOTHING)),
      ...(groupBy && { groups: found.map(({ key, sums }) => ({ key: key ?? 'unknown', ...measuresOf(sums) })) }),
    };
  });
}
