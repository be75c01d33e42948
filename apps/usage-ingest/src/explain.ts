import { type Day, type Explanation, formatQuantity, isMeasure, TallyError, type Units } from '@tally/contracts';
import type { DayPart, Db, Explained, Adjustment as Recorded } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import { presentAdjustment } from './adjust.ts';
import type { Scales } from './meters/registry.ts';
import { presentLine, typesOf } from './recent.ts';

export type ExplainQuestion = {
  merchantId: string;
  date?: Day | undefined;
  startDate: Day;
  endDate: Day;
  metricType: string;
  userIds?: readonly string[] | undefined;
  models?: readonly string[] | undefined;
  providers?: readonly string[] | undefined;
  apiKeys?: readonly string[] | undefined;
  limit: number;
  cursor?: string | undefined;
};

/**
 * Returns the parts of a number: its days, flushes, adjustments and events. Throws JOURNAL_DROPPED for a closed `date`,
 * NOT_FOUND for what was never recorded, GRAIN_NOT_KEPT for a metric type that is no measure with filters on closed
 * days, and TOO_MANY_ROWS.
 */
export type Explain = (question: ExplainQuestion) => Promise<Explanation>;

type Sources = {
  db: Pick<Db, 'events' | 'corrections' | 'partitions' | 'usage'>;
  scales: Scales;
  /** Flushes pending events of these merchants, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
};

/** The number of flushes and adjustments listed; all of them are counted. */
const NAMED = 100;
/** Events that the explanation of a range may read. */
const MAX_ENTRIES = 5_000_000;
/** Metric types that an error names. */
const LISTED_TYPES = 20;

/** The parts of the first page that later pages repeat. */
const Head = z.strictObject({
  value: z.string(),
  complete: z.boolean(),
  entryCount: z.string(),
  callCount: z.string(),
  flushCount: z.number(),
  adjustmentCount: z.number(),
  agrees: z.boolean().nullable(),
  keptFrom: z.string().nullable(),
});
const Place = z.tuple([z.iso.date(), z.string(), z.string().transform(parseHead)]);

export function createExplain({ db, scales, flushSoon }: Sources): Explain {
  /** The figures, days, flushes and adjustments of a number. */
  async function first(number: Explained, { date, metricType }: ExplainQuestion) {
    const { merchantId, startDate, endDate, metricTypes } = number;
    // Pending events belong to the number. If they could not be flushed, the number of Postgres is explained.
    const complete = await flushSoon([merchantId]);
    const { keptFrom, ...known } = await db.events.recorded(merchantId, metricTypes);
    if (complete) await assertRecorded(merchantId, metricType, known);
    if (date === undefined) await assertReadable(merchantId, startDate, endDate);

    const days = (await db.events.daysOf(number)).map((day) => valued(day, number));
    const scaleOf = await scales([metricType]);
    const format = (units: Units) => formatQuantity(metricType, units, scaleOf);
    const total = (of: (day: (typeof days)[number]) => bigint) => days.reduce((sum, day) => sum + of(day), 0n);
    const value = format(total((day) => day.value));
    if (date !== undefined && (await db.partitions.isClosed(date))) {
      throw new TallyError('JOURNAL_DROPPED', `The entries of ${date} are past the retention; their sum is kept.`, {
        details: { value },
      });
    }
    const [flushes, adjustments] = await Promise.all([
      db.events.flushesOf(number, NAMED),
      db.corrections.adjustments(number, NAMED),
    ]);
    const compared = days.flatMap(({ agrees }) => (agrees === null ? [] : [agrees]));
    const head: z.infer<typeof Head> = {
      value,
      complete,
      entryCount: total((day) => day.entries).toString(),
      callCount: total((day) => day.calls).toString(),
      flushCount: flushes.count,
      adjustmentCount: adjustments.count,
      agrees: compared.length === 0 ? null : compared.every(Boolean),
      keptFrom,
    };
    const lists = {
      byDay: days.map((day) => ({
        date: day.date,
        value: format(day.value),
        adjusted: format(day.adjustmentAmount),
        entryCount: day.entries.toString(),
        callCount: day.calls.toString(),
        kept: !day.isClosed,
        agrees: day.agrees,
      })),
      flushes: flushes.newest.map((part) => ({
        ...part,
        entries: part.entries.toString(),
        calls: part.calls.toString(),
        value: format(part.value),
      })),
      adjustments: await presentAll(adjustments.newest),
    };
    return { head, lists };
  }

  async function presentAll(adjustments: readonly Recorded[]) {
    const scaleOf = await scales(adjustments.flatMap(({ amounts }) => [...amounts.keys()]));
    return adjustments.map((each) => presentAdjustment(each, scaleOf));
  }

  async function assertRecorded(
    merchantId: string,
    metricType: string,
    { hasMetric, hasAny }: { hasMetric: boolean; hasAny: boolean },
  ): Promise<void> {
    if (!hasAny)
      throw new TallyError(
        'NOT_FOUND',
        `Nothing was ever recorded for the merchant "${merchantId}". Check the spelling.`,
      );
    // A merchant without a failure has 0 failed requests.
    if (hasMetric || isMeasure(metricType) || metricType === 'total_tokens') return;
    const types = await db.events.metricTypesOf(merchantId, LISTED_TYPES);
    throw new TallyError(
      'NOT_FOUND',
      `The metric "${metricType}" was never recorded for ${merchantId}. Recorded were: ${types.join(', ')}.`,
    );
  }

  /** Throws TOO_MANY_ROWS before the parts are read. Days with few requests have few events: most need no count. */
  async function assertReadable(merchantId: string, startDate: Day, endDate: Day): Promise<void> {
    const scope = { merchantIds: [merchantId], startDate, endDate, metricTypes: ['requests'] };
    const requests = (await db.usage.merchantUsage(scope)).reduce((sum, row) => sum + row.metric_value, 0n);
    if (requests <= MAX_ENTRIES) return;
    if ((await db.events.countUpTo(MAX_ENTRIES + 1, { merchantId, startDate, endDate })) <= MAX_ENTRIES) return;
    throw new TallyError(
      'TOO_MANY_ROWS',
      `These days have over ${MAX_ENTRIES} events, the most that are explained at once. Ask for fewer days.`,
      { details: { maxEvents: MAX_ENTRIES.toString() } },
    );
  }

  return async ({ limit, cursor, ...asked }) => {
    const { merchantId, startDate, endDate, metricType, date, ...filters } = asked;
    const metricTypes = metricType === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [metricType];
    const number = { merchantId, startDate, endDate, metricTypes, ...filters };
    const [afterDate, afterId, repeated] =
      cursor === undefined ? [startDate, '', undefined] : decodeCursor(cursor, asked, Place);
    const { head, lists } = repeated
      ? { head: repeated, lists: { byDay: [], flushes: [], adjustments: [] } }
      : await first(number, { ...asked, limit });
    const entries = await db.events.entriesOf(number, { after: { date: afterDate, id: afterId }, limit });
    const scaleOf = await scales(typesOf(entries));
    const last = entries.length === limit ? entries.at(-1) : undefined;
    return {
      merchantId,
      ...(date !== undefined && { date }),
      startDate,
      endDate,
      metricType,
      ...head,
      ...lists,
      entries: entries.map((line) => presentLine(line, true, scaleOf)),
      nextCursor: last ? encodeCursor([last.date, last.id, JSON.stringify(head)], asked) : null,
    };
  };
}

/** Returns the number of a day, and whether its parts add up to the stored one. */
function valued(day: DayPart, { metricTypes, userIds, apiKeys, models, providers }: Explained) {
  const counted = day.eventAmount + day.adjustmentAmount;
  const stored = day.storedAmount;
  const isFiltered = [userIds, apiKeys, models, providers].some((names) => names && names.length > 0);
  if (!isFiltered) return { ...day, value: stored, agrees: counted + (day.closedAmount ?? 0n) === stored };
  const areMeasures = metricTypes.every(isMeasure);
  if (!day.isClosed) return { ...day, value: counted, agrees: areMeasures ? day.rolledAmount === stored : null };
  if (areMeasures) return { ...day, value: stored, agrees: null };
  throw new TallyError(
    'GRAIN_NOT_KEPT',
    `The entries of ${day.date} are past the retention: of ${metricTypes[0]} only the sum of the merchant is kept.`,
    { details: { ask: ['days from `keptFrom` on', 'the same without filters'] } },
  );
}

function parseHead(text: string, context: z.RefinementCtx): z.infer<typeof Head> {
  try {
    return Head.parse(JSON.parse(text));
  } catch {
    context.addIssue('no head');
    return z.NEVER;
  }
}
