import { createHash } from 'node:crypto';
import {
  addDays,
  type analytics,
  type Bill,
  countDays,
  type Day,
  dayOf,
  ERRORS,
  type ErrorCode,
  eachDay,
  formatCost,
  MAX_BILL_DAYS,
  MAX_COMPARED_DAYS,
  parseQuantity,
  TallyError,
  TOKEN_CLASSES,
  type Units,
} from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { BillDay, BillLine, Db, KnownBill, NewBill } from '@tally/db';
import { type Caller, decodeCursor, encodeCursor, textOfReady } from '@tally/service';
import { z } from 'zod';
import { assertRange } from '../dates.ts';
import type { Read, SeriesAnswer } from '../read.ts';
import { type Compared, compare, type OurDay, present, sumsOf } from './compare.ts';
import { type ReadExport, readExport } from './read-export.ts';

type Input<Name extends keyof typeof analytics.bills> = z.output<(typeof analytics.bills)[Name]['input']>;
type Answer<Name extends keyof typeof analytics.bills> = z.input<(typeof analytics.bills)[Name]['output']>;

export type Bills = ReturnType<typeof createBills>;

/** Places of an export that an answer names. */
const MAX_PLACES = 100;
/** Lines of bills that one comparison reads. */
const MAX_LINES = 100_000;
const TOKENS: ReadonlySet<string> = new Set(TOKEN_CLASSES);
const Place = z.tuple([z.string().regex(/^\d{1,9}$/)]);
const BillPlace = z.tuple([z.string().regex(/^\d{1,18}$/)]);

/** Bills of providers: stores their exports and compares them with our usage. */
export function createBills({
  store,
  read,
  ingest,
  now,
}: {
  store: Db['bills'];
  read: Pick<Read, 'timeseries'>;
  ingest: Pick<IngestClient, 'prices'>;
  now: () => number;
}) {
  /** Our usage by day and model. Asking for it also flushes what is pending. */
  async function ourUsage(
    { startDate, endDate, merchantIds, provider, ourProviders }: Input<'compare'>,
    callerId: string,
  ) {
    const providers = ourProviders && ourProviders.length > 0 ? ourProviders : [provider];
    const series = await read.timeseries(
      { startDate, endDate, merchantIds, providers, interval: 'day', timeZone: 'UTC', groupBy: 'model' },
      callerId,
    );
    const text = textOfReady(series);
    const { points, coverage } = text === undefined ? series : (JSON.parse(text) as SeriesAnswer);
    const usage = points.flatMap(({ start, groups = [] }) =>
      groups.map(({ key, ...sums }): OurDay => {
        return {
          date: start.slice(0, 10),
          model: key,
          requests: BigInt(sums.requests),
          failedRequests: BigInt(sums.failedRequests),
          promptTokens: BigInt(sums.promptTokens),
          completionTokens: BigInt(sums.completionTokens),
          cost: usd(sums.cost),
        };
      }),
    );
    const { rows } = await classesOf({
      ...{ startDate, endDate, merchantIds },
      providers: providers.map((name) => (name === 'unknown' ? '' : name)),
    });
    return { usage, classes: rows.map((row) => ({ ...row, model: row.model || 'unknown' })), coverage };
  }

  async function classesOf(question: Parameters<IngestClient['prices']['classes']['query']>[0]) {
    try {
      return await ingest.prices.classes.query(question);
    } catch (cause) {
      const { data, message } = cause as { data?: { code?: string } | null; message: string };
      const code = data?.code ?? '';
      if (Object.hasOwn(ERRORS, code) && ERRORS[code as ErrorCode].status < 500)
        throw new TallyError(code as ErrorCode, message, { cause });
      throw new TallyError('UNAVAILABLE', 'usage-ingest did not answer what Tally priced by class.', {
        cause,
        details: { retryAfter: 1 },
      });
    }
  }

  return {
    async import(input: Input<'import'>, caller: Caller): Promise<Answer<'import'>> {
      const { provider, account, file, dryRun } = input;
      const found = await readExport(provider, file);
      const { period, unfinished } = periodOf(found, input, dayOf(now()));
      const lines = mergedLines(found.lines.filter(({ date }) => date >= period.startDate && date <= period.endDate));
      const bill: NewBill = {
        ...{ provider, account, kind: found.kind, format: found.format, ...period },
        lines: lines.reduce((all, line) => all + line.lines, 0),
        amount: found.kind === 'cost' ? (totalOf(lines.map(({ amount }) => amount)) ?? '0') : null,
        tokens: totalOf(lines.filter((line) => TOKENS.has(line.class)).map(({ quantity }) => quantity)),
        rounding: found.rounding.toString(),
        fileHash: createHash('sha256').update(file).digest('hex'),
        createdBy: caller.id,
      };
      const said = {
        ...{ dryRun, unfinished, hasMore: found.hasMore },
        rejected: found.rejected.slice(0, MAX_PLACES),
        rejectedLines: found.rejected.length,
        repeated: found.repeated.slice(0, MAX_PLACES),
        repeatedLines: found.repeated.length,
        missing: missingOf(period, found.days),
      };
      if (dryRun || found.rejected.length > 0) {
        const { replaces, same } = await store.overlapping(bill);
        const unsaved = { ...bill, id: '', createdAt: new Date(now()), daysInForce: 0 };
        const status = found.rejected.length > 0 ? 'rejected' : same === undefined ? 'read' : 'unchanged';
        const days = countDays(period.startDate, period.endDate);
        return { ...said, status, bill: { ...presentBill(unsaved), id: null, daysInForce: days }, replaces };
      }
      const { bill: saved, replaces, unchanged } = await store.add(bill, lines);
      return { ...said, status: unchanged ? 'unchanged' : 'imported', bill: presentBill(saved), replaces };
    },

    async list({ limit, cursor, ...question }: Input<'list'>): Promise<Answer<'list'>> {
      const [before] = cursor === undefined ? [] : decodeCursor(cursor, { bills: question }, BillPlace);
      const rows = await store.list({ provider: question.provider, before, limit });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows: rows.map(presentBill), nextCursor: last ? encodeCursor([last.id], { bills: question }) : null };
    },

    remove: async ({ id }: Input<'remove'>): Promise<Bill> => presentBill(await store.remove(id)),

    async compare(input: Input<'compare'>, callerId: string): Promise<Answer<'compare'>> {
      const { limit, cursor, ...question } = input;
      const { provider, account, startDate, endDate } = question;
      assertRange(question, MAX_COMPARED_DAYS);
      const [start = '0'] = cursor === undefined ? [] : decodeCursor(cursor, question, Place);
      const { days, lines } = await store.inForce({ provider, account, startDate, endDate }, MAX_LINES + 1);
      if (lines.length > MAX_LINES)
        throw new TallyError(
          'TOO_MANY_ROWS',
          `The bills have more than ${MAX_LINES} lines in this range; name fewer days.`,
        );
      const { usage, classes, coverage } = await ourUsage(input, callerId);
      const [withCosts, withUsage] = [coveredBy(days, 'cost'), coveredBy(days, 'usage')];
      const all = compare({ withCosts, withUsage, lines, usage, classes });
      const rows = ordered(filtered(all, question), question.sortBy);
      const from = Number(start);
      const more = from + limit < rows.length;
      const covered = new Set([...withCosts, ...withUsage]);
      return {
        rows: rows.slice(from, from + limit).map(present),
        total: rows.length,
        totals: sumsOf(rows),
        byReason: [...new Set(rows.map(({ reason }) => reason))]
          .sort()
          .map((reason) => ({ reason, ...sumsOf(rows.filter((row) => row.reason === reason)) })),
        days: { compared: covered.size, withCosts: withCosts.size, withUsage: withUsage.size },
        withoutBill: eachDay(startDate, endDate).filter((date) => !covered.has(date)),
        bills: [...new Set(days.map(({ bill_id }) => bill_id))].sort((a, b) => Number(a) - Number(b)),
        nextCursor: more ? encodeCursor([String(from + limit)], question) : null,
        complete: coverage.complete,
        asOf: coverage.asOf,
      };
    },
  };
}

const usd = (text: string): Units => parseQuantity('cost', text.replace(/^-/, ''))! * (text.startsWith('-') ? -1n : 1n);

/** The sum of what is known; null if nothing is. */
const totalOf = (units: readonly (Units | null)[]): string | null => {
  const known = units.filter((each) => each !== null);
  return known.length === 0 ? null : known.reduce((all, each) => all + each, 0n).toString();
};

function missingOf({ startDate, endDate }: { startDate: Day; endDate: Day }, days: readonly Day[]): Day[] {
  const known = new Set(days);
  return eachDay(startDate, endDate).filter((date) => !known.has(date));
}

/** The days that an export covers, without those that are not over. */
function periodOf(
  { days, kind }: ReadExport,
  given: { startDate?: Day | undefined; endDate?: Day | undefined },
  today: Day,
): { period: { startDate: Day; endDate: Day }; unfinished: Day[] } {
  const [first, last] = [given.startDate ?? days[0], given.endDate ?? days.at(-1)];
  if (first === undefined || last === undefined)
    throw new TallyError('INVALID_INPUT', 'The export has no day: give startDate and endDate.');
  const outside = days.find((date) => date < first || date > last);
  if (outside !== undefined)
    throw new TallyError('INVALID_INPUT', `The export has ${kind} of ${outside}, outside of ${first} to ${last}.`);
  if (first >= today)
    throw new TallyError('INVALID_INPUT', `${first} is not over yet (UTC): import days that are over.`);
  const endDate = last < today ? last : addDays(today, -1);
  assertRange({ startDate: first, endDate }, MAX_BILL_DAYS);
  return { period: { startDate: first, endDate }, unfinished: days.filter((date) => date >= today) };
}

/** Sums lines of the same day, model and class. */
function mergedLines(lines: ReadExport['lines']): BillLine[] {
  const merged = new Map<string, BillLine>();
  for (const line of lines) {
    const key = JSON.stringify([line.date, line.model, line.class]);
    const known = merged.get(key);
    if (!known) merged.set(key, { ...line, lines: 1 });
    else {
      known.quantity = sum(known.quantity, line.quantity);
      known.amount = sum(known.amount, line.amount);
      known.lines++;
    }
  }
  return [...merged.values()];
}

const sum = (one: Units | null, other: Units | null): Units | null =>
  one === null || other === null ? null : one + other;

/** Days on which every account that has bills of this kind has one. */
function coveredBy(days: readonly BillDay[], kind: string): Set<Day> {
  const own = days.filter((day) => day.kind === kind);
  const accounts = new Set(own.map(({ account }) => account)).size;
  const counts = new Map<Day, number>();
  for (const { date } of own) counts.set(date, (counts.get(date) ?? 0) + 1);
  return new Set([...counts].filter(([, count]) => count === accounts).map(([date]) => date));
}

type RowFilters = Pick<Input<'compare'>, 'models' | 'classes' | 'reasons'>;

function filtered(rows: readonly Compared[], { models, classes, reasons }: RowFilters): Compared[] {
  const admits = <T>(wanted: readonly T[] | undefined, ...values: T[]) =>
    !wanted || wanted.length === 0 || values.some((value) => wanted.includes(value));
  return rows.filter(
    (row) =>
      admits(models, row.model, ...row.billModels, ...row.ourModels) &&
      admits(classes, row.class) &&
      admits(reasons, row.reason),
  );
}

function ordered(rows: Compared[], sortBy: 'day' | 'difference'): Compared[] {
  if (sortBy === 'day') return rows;
  const size = ({ bill, ours }: Compared) => {
    const difference = (bill.amount ?? 0n) - (ours.amount ?? 0n);
    return difference < 0n ? -difference : difference;
  };
  return [...rows].sort((a, b) => (size(a) < size(b) ? 1 : size(a) > size(b) ? -1 : 0));
}

const presentBill = ({ rounding: _, createdAt, amount, tokens, ...bill }: KnownBill): Bill => ({
  ...bill,
  amount: amount === null ? null : formatCost(BigInt(amount)),
  tokens,
  createdAt: createdAt.toISOString(),
});
