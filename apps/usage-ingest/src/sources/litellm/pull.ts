import { setTimeout as wait } from 'node:timers/promises';
import {
  addDays,
  DAY_MS,
  type Day,
  type DayRange,
  dayOf,
  formatCost,
  isTallyError,
  type LitellmPull,
  MINUTE_MS,
  parseQuantity,
  startOfDay,
  TallyError,
} from '@tally/contracts';
import type { DaySums, LitellmStore, Pull, PullLock } from '@tally/db';
import { type Loop, startLoop } from '@tally/service';
import { assertRange } from '../../ranges.ts';
import { type Call, fromSpendLog, type Rules } from './call.ts';
import type { LitellmClient } from './client.ts';
import { add, differ, entriesOf, readDailySums, readSums, type Sums, textOf, zero } from './daily.ts';
import type { LitellmMetrics } from './metrics.ts';
import type { Names } from './names.ts';
import { isCall, type Recorder, type Report } from './record.ts';
import { createWindows } from './window.ts';

export type PullerOptions = {
  client: LitellmClient;
  store: LitellmStore;
  recorder: Recorder;
  names: Names;
  rules: Rules;
  /** How LiteLLM's daily sums are used: not at all, to check pulled days, or to fill days without known calls. */
  daily: 'off' | 'check' | 'fill';
  /** How long after its start a call can still appear in LiteLLM's logs. */
  lateMs: number;
  metrics: LitellmMetrics;
  now: () => number;
  onError(error: unknown): void;
};

export type Puller = {
  /**
   * Pulls the calls that started on these days; without a range, what is new since the last scheduled pull. Resolves at
   * the end of the pull, or with its progress after `answerWithinMs`. Throws SOURCE_BUSY while another pull runs
   * anywhere.
   */
  pull(range: { startDate: Day; endDate: Day } | undefined, answerWithinMs?: number): Promise<Pull>;
  /** Pulls what is new, pulls complete days again, and checks them. Does nothing while another process pulls. */
  tick(): Promise<void>;
  /** Continues the pull of a process that died. Does nothing while another process pulls. */
  recover(): Promise<void>;
  schedule(intervalMs: number): Loop;
  /** Ends the pull of this process; it continues at the next start. */
  stop(): Promise<void>;
};

/** Calls of this last period are left to the next pull: LiteLLM writes rows in batches. */
const LAG_MS = MINUTE_MS;
/** A scheduled pull begins this long before the end of the last one, to find most late calls at once. */
const OVERLAP_MS = 10 * MINUTE_MS;
/** How many past days are pulled as a whole and checked. */
const LOOK_BACK_DAYS = 7;
const MAX_RANGE_DAYS = 400;
const MAX_REJECTIONS_KEPT = 20;
const KEPT_DAYS = 400;

/** Pulls from one LiteLLM, one pull at a time over all processes. */
export function createPuller(options: PullerOptions): Puller {
  const { client, store, recorder, names, rules, metrics, now } = options;
  const stopping = new AbortController();
  const underWay = new Set<Promise<unknown>>();

  function track<T>(work: Promise<T>): Promise<T> {
    const tracked = work.finally(() => underWay.delete(tracked));
    underWay.add(tracked);
    return tracked;
  }

  /** Runs a pull to its end; stores its progress after each window. */
  async function work(lock: PullLock, begun: Pull): Promise<Pull> {
    const pull = { ...begun, rejections: [...begun.rejections] };
    const end = Date.parse(pull.end);
    const windows = createWindows(client, stopping.signal);
    let sums = pull.daySums && { date: pull.daySums.date, ...readSums(pull.daySums) };
    try {
      for (let at = Date.parse(pull.position); at < end; ) {
        const day = dayOf(at);
        if (at === startOfDay(day)) sums = { date: day, ...zero() };
        const window = await windows.read(at, Math.min(end, startOfDay(addDays(day, 1))));
        const reports = window.rows.map((row) => reportOf(row, rules));
        if (sums) for (const report of reports) if (isCall(report)) add(sums, sumsOf(report));
        const { accepted, duplicates, rejected } = await recorder.recordPulled(reports);
        pull.accepted += accepted;
        pull.duplicates += duplicates;
        pull.calls += window.rows.length;
        pull.missing += window.missing;
        metrics.missing(window.missing);
        reject(pull, rejected);
        at = window.end;
        pull.position = new Date(at).toISOString();
        const whole = sums?.date === day && at === startOfDay(addDays(day, 1)) ? sums : undefined;
        if (whole && at + options.lateMs <= now()) await noteSeen(day, whole);
        if (dayOf(at) !== day) sums = null;
        pull.daySums = sums && { date: sums.date, ...textOf(sums) };
        await lock.advance(pull.id, pull);
      }
    } catch (error) {
      // Stopped: it stays RUNNING, and the next process that pulls continues it.
      if (stopping.signal.aborted) throw new TallyError('UNAVAILABLE', 'The service is stopping.', { cause: error });
      metrics.pullFailed();
      await lock.finish(pull.id, reasonOf(error));
      throw error;
    }
    const done = await lock.finish(pull.id, null);
    metrics.pulled(now());
    return done;
  }

  /** Stores the sums of a day that was pulled as a whole, so that it is checked again. */
  async function noteSeen(date: Day, sums: Sums): Promise<void> {
    await store.noteDay(date, { seen: textOf(sums), reported: null, differs: null, error: null });
  }

  /** Compares a complete day with its daily sums; returns false if those cannot be read. */
  async function check(date: Day, seen: DaySums): Promise<boolean> {
    try {
      const daily = await readDailySums(client, date, stopping.signal);
      const reported = textOf(daily.total);
      const silent = Object.values(seen).every((amount) => amount === '0');
      // A day is counted by its calls or by its sums, whichever came first.
      const entries = entriesOf(date, daily, rules);
      await names.learn(entries.flatMap((each) => each.names));
      const fill = options.daily === 'fill' && silent && reported.requests !== '0' && (await recorder.tellBySums(date));
      const { rejected } = fill ? await recorder.recordSums(entries) : { rejected: [] };
      const error = rejected[0] ? `${rejected.length} sums were rejected: ${rejected[0].message}` : null;
      // Stored last: a process that dies before this repeats it, which adds nothing.
      await store.noteDay(date, { reported, differs: differ(seen, reported), error });
      return true;
    } catch (error) {
      if (stopping.signal.aborted) throw error;
      options.onError(error);
      await store.noteDay(date, { error: reasonOf(error).message });
      return false;
    }
  }

  async function settleDays(lock: PullLock): Promise<void> {
    const scheduled = await store.scheduled();
    if (!scheduled) return;
    const last = dayOf(now() - options.lateMs - DAY_MS);
    const first = [addDays(last, -LOOK_BACK_DAYS + 1), dayOf(scheduled.from)].sort().at(-1)!;
    const known = new Map((await store.days(first, last)).map((day) => [day.date, day]));
    for (let date = first; date <= last; date = addDays(date, 1)) {
      if (known.get(date)?.seen) continue;
      await work(lock, await lock.begin({ kind: 'day', start: startOfDay(date), end: startOfDay(addDays(date, 1)) }));
    }
  }

  /** Checks the days that were pulled as a whole and whose daily sums are unknown. */
  async function checkDays(from: Day, to: Day): Promise<void> {
    if (options.daily === 'off') return;
    for (const { date, seen, reported } of await store.days(from, to)) {
      if (seen && !reported && !(await check(date, seen))) return;
    }
  }

  async function showDays(): Promise<void> {
    const today = dayOf(now());
    const days = await store.days(addDays(today, -31), today);
    metrics.differingDays(days.filter(({ differs, toldBy }) => differs === true && toldBy !== 'sums').length);
  }

  async function begin(lock: PullLock, range: { startDate: Day; endDate: Day } | undefined): Promise<Pull> {
    const until = Math.floor((now() - LAG_MS) / 1000) * 1000;
    if (range) {
      const end = Math.min(startOfDay(addDays(range.endDate, 1)), until);
      return lock.begin({ kind: 'hand', start: startOfDay(range.startDate), end });
    }
    const scheduled = await store.scheduled();
    const start = scheduled ? scheduled.to - OVERLAP_MS : startOfDay(addDays(dayOf(now()), -1));
    return lock.begin({ kind: 'schedule', start: Math.min(start, until), end: until });
  }

  /** Finishes pulls left over, runs one pull, then checks the days that it completed. */
  async function run(lock: PullLock, range: { startDate: Day; endDate: Day } | undefined, begun: (pull: Pull) => void) {
    await finishOthers(lock);
    const pull = await begin(lock, range);
    begun(pull);
    const done = await work(lock, pull);
    await checkDays(dayOf(Date.parse(done.start)), dayOf(Date.parse(done.end)));
    await showDays();
    return done;
  }

  async function finishOthers(lock: PullLock): Promise<void> {
    for (let left = await lock.unfinished(); left; left = await lock.unfinished()) await work(lock, left);
  }

  return {
    async pull(range, answerWithinMs = 20_000) {
      if (range) {
        assertPullRange(range);
        assertBegun(range, now());
      }
      const lock = await store.lock();
      if (!lock) throw new TallyError('SOURCE_BUSY', 'A pull from LiteLLM is running.');
      let pull: Pull | undefined;
      const running = track(
        run(lock, range, (begun) => {
          pull = begun;
        }).finally(() => lock.release()),
      );
      running.catch(options.onError);
      const timer = new AbortController();
      const soFar = wait(answerWithinMs, undefined, { signal: timer.signal }).then(async () => {
        const pulls = await store.pulls(20);
        return pulls.find((each) => each.id === pull?.id) ?? pulls[0]!;
      });
      soFar.catch(() => {});
      return Promise.race([running, soFar]).finally(() => timer.abort());
    },

    async tick() {
      // The gauge must be correct also if another process pulls.
      const completed = await store.lastCompleted();
      if (completed !== null) metrics.pulled(completed);
      const lock = await store.lock();
      if (!lock) return;
      try {
        await run(lock, undefined, () => {});
        await settleDays(lock);
        const today = dayOf(now());
        await checkDays(addDays(today, -LOOK_BACK_DAYS - 1), today);
        await showDays();
        await store.prune(addDays(dayOf(now()), -KEPT_DAYS));
      } finally {
        await lock.release();
      }
    },

    async recover() {
      // Holding the lock only to look would refuse pulls requested right after a start.
      if (!(await store.pulls(20)).some(({ status }) => status === 'RUNNING')) return;
      const lock = await store.lock();
      if (lock) await track(finishOthers(lock).finally(() => lock.release()));
    },

    schedule(intervalMs) {
      return startLoop(intervalMs, () => track(this.tick()), options.onError);
    },

    async stop() {
      stopping.abort();
      await Promise.allSettled(underWay);
    },
  };
}

/** Presents a pull in the contract's form. */
export function presentPull({ daySums: _, ...pull }: Pull): LitellmPull {
  const [start, end, position] = [pull.start, pull.end, pull.position].map((time) => Date.parse(time));
  const percent = end! > start! ? Math.floor((100 * (position! - start!)) / (end! - start!)) : 100;
  return { ...pull, percent };
}

/** Presents sums in the contract's form. */
export const presentSums = (sums: DaySums | null) =>
  sums && {
    requests: sums.requests,
    failedRequests: sums.failed,
    promptTokens: sums.prompt_tokens,
    completionTokens: sums.completion_tokens,
    cost: formatCost(BigInt(sums.cost)),
  };

function sumsOf({ entry: { status, metrics } }: Call): Sums {
  return {
    requests: 1n,
    failed: status === 'failure' ? 1n : 0n,
    // LiteLLM's own sums, which these are compared with, have 0 for what a call does not report.
    prompt_tokens: BigInt(metrics.prompt_tokens ?? 0),
    completion_tokens: BigInt(metrics.completion_tokens ?? 0),
    cost: parseQuantity('cost', metrics.cost ?? '0')!,
  };
}

/** Reads a row as a call; an unreadable one rejects only itself. */
function reportOf(row: unknown, rules: Rules): Report {
  try {
    return fromSpendLog(row, rules);
  } catch (error) {
    if (!isTallyError(error)) throw error;
    const id = (row as { request_id?: unknown } | null)?.request_id;
    return { refused: error, id: typeof id === 'string' ? id : null };
  }
}

function reject(pull: Pull, rejected: readonly Pull['rejections'][number][]): void {
  pull.rejected += rejected.length;
  for (const { id, code, message } of rejected.slice(0, MAX_REJECTIONS_KEPT - pull.rejections.length))
    pull.rejections.push({ id, code, message: message.slice(0, 500) });
}

function reasonOf(error: unknown): { code: string; message: string } {
  if (isTallyError(error)) return { code: error.code, message: error.message };
  return { code: 'INTERNAL', message: 'An unexpected error; see the log of usage-ingest.' };
}

/** Throws INVALID_DATE_ORDER or DATE_RANGE_TOO_LARGE. */
export const assertPullRange = (range: DayRange): void => assertRange(range, MAX_RANGE_DAYS);

function assertBegun({ startDate }: { startDate: Day }, now: number): void {
  if (startDate > dayOf(now - LAG_MS))
    throw new TallyError('INVALID_INPUT', '`startDate` is in the future: there is nothing to pull yet.');
}
