import { setTimeout as wait } from 'node:timers/promises';
import {
  addDays,
  countDays,
  DAY_MS,
  type Day,
  dayOf,
  formatCost,
  isTallyError,
  type LitellmPull,
  MINUTE_MS,
  parseQuantity,
  startOfDay,
  TallyError,
} from '@tally/contracts';
import type { DaySums, LitellmStore, Pull, PullLane } from '@tally/db';
import { type Loop, startLoop } from '@tally/service';
import { type Call, fromSpendLog, type Rules } from './call.ts';
import type { LitellmClient } from './client.ts';
import { add, callsOf, differ, readDailySums, readSums, type Sums, textOf, zero } from './daily.ts';
import type { LitellmMetrics } from './metrics.ts';
import type { Recorder } from './record.ts';
import { createWindows } from './window.ts';

export type PullerOptions = {
  client: LitellmClient;
  store: LitellmStore;
  recorder: Recorder;
  rules: Rules;
  /** What LiteLLM's daily sums are for: nothing, a check of what was pulled, or the days that no call is known of. */
  daily: 'off' | 'check' | 'fill';
  /** How long after its start a call may still appear in LiteLLM's logs. */
  lateMs: number;
  metrics: LitellmMetrics;
  now: () => number;
  onError(error: unknown): void;
};

export type Puller = {
  /**
   * Pulls the calls that started on these days; without a range what is new since the last scheduled pull. Resolves when
   * the pull has ended, or with what it has so far after `answerWithinMs`. SOURCE_BUSY while another one runs anywhere.
   */
  pull(range: { startDate: Day; endDate: Day } | undefined, answerWithinMs?: number): Promise<Pull>;
  /** Pulls what is new, whole days that have settled, and checks them; nothing where another process does. */
  tick(): Promise<void>;
  /** Goes on with what a process that died has left; nothing where another process pulls. */
  recover(): Promise<void>;
  schedule(intervalMs: number): Loop;
  /** Ends the pull that runs here; it goes on at the next start. */
  stop(): Promise<void>;
};

/** What LiteLLM writes within this time after now is left for the next pull: rows appear in batches. */
const LAG_MS = MINUTE_MS;
/** A scheduled pull begins this much before the end of the last: most calls that were late are found at once. */
const OVERLAP_MS = 10 * MINUTE_MS;
/** Days that are looked back on for whole pulls and checks. */
const LOOK_BACK_DAYS = 7;
const MAX_RANGE_DAYS = 400;
const MAX_REJECTIONS_KEPT = 20;
const KEPT_DAYS = 400;

/** Pulls from one LiteLLM, one pull at a time however many processes there are. */
export function createPuller(options: PullerOptions): Puller {
  const { client, store, recorder, rules, metrics, now } = options;
  const stopping = new AbortController();
  const underWay = new Set<Promise<unknown>>();

  function track<T>(work: Promise<T>): Promise<T> {
    const tracked = work.finally(() => underWay.delete(tracked));
    underWay.add(tracked);
    return tracked;
  }

  /** Brings a pull to its end; notes after each window how far it came. */
  async function work(lane: PullLane, begun: Pull): Promise<Pull> {
    const pull = { ...begun, rejections: [...begun.rejections] };
    const end = Date.parse(pull.end);
    const windows = createWindows(client, stopping.signal);
    let sums = pull.daySums && { date: pull.daySums.date, ...readSums(pull.daySums) };
    try {
      for (let at = Date.parse(pull.position); at < end; ) {
        const day = dayOf(at);
        if (at === startOfDay(day)) sums = { date: day, ...zero() };
        const window = await windows.read(at, Math.min(end, startOfDay(addDays(day, 1))));
        const calls = await take(pull, window.rows, sums);
        const { accepted, duplicates, rejected } = await recorder.record(calls, { way: 'pull', backfill: true });
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
        await lane.advance(pull.id, pull);
      }
    } catch (error) {
      // Stopped: it stays RUNNING, and whoever pulls next goes on with it.
      if (stopping.signal.aborted) throw new TallyError('UNAVAILABLE', 'The service is stopping.', { cause: error });
      metrics.pullFailed();
      await lane.finish(pull.id, reasonOf(error));
      throw error;
    }
    const done = await lane.finish(pull.id, null);
    metrics.pulled(now());
    return done;
  }

  /** Reads rows as calls; what cannot be read is rejected by itself. */
  async function take(pull: Pull, rows: readonly unknown[], sums: Sums | null): Promise<Call[]> {
    const calls: Call[] = [];
    for (const row of rows) {
      try {
        const call = fromSpendLog(row, rules);
        calls.push(call);
        if (sums) add(sums, sumsOf(call));
      } catch (error) {
        if (!isTallyError(error)) throw error;
        metrics.unreadable('pull', 1);
        const id = (row as { request_id?: unknown } | null)?.request_id;
        reject(pull, [{ id: typeof id === 'string' ? id : null, code: error.code, message: error.message }]);
      }
    }
    return calls;
  }

  /** A day that was pulled whole is checked anew. */
  async function noteSeen(date: Day, sums: Sums): Promise<void> {
    await store.noteDay(date, { seen: textOf(sums), reported: null, differs: null, error: null });
  }

  /** Asks for the daily sums of a day whose calls have settled; false where they are not to be had. */
  async function check(date: Day, seen: DaySums): Promise<boolean> {
    try {
      const daily = await readDailySums(client, date, stopping.signal);
      const reported = textOf(daily.total);
      const silent = Object.values(seen).every((amount) => amount === '0');
      // Whoever is first to tell of a day tells it alone: pushed calls, pulled ones, or these sums.
      const fill = options.daily === 'fill' && silent && reported.requests !== '0' && (await recorder.tellBySums(date));
      const { rejected } = fill
        ? await recorder.record(callsOf(date, daily, rules), { way: 'daily', backfill: true })
        : { rejected: [] };
      const error = rejected[0] ? `${rejected.length} sums were rejected: ${rejected[0].message}` : null;
      // Noted last: a process that dies before does it all again, which adds nothing.
      await store.noteDay(date, { reported, differs: differ(seen, reported), error });
      return true;
    } catch (error) {
      if (stopping.signal.aborted) throw error;
      options.onError(error);
      await store.noteDay(date, { error: reasonOf(error).message });
      return false;
    }
  }

  async function settleDays(lane: PullLane): Promise<void> {
    const scheduled = await store.scheduled();
    if (!scheduled) return;
    const last = dayOf(now() - options.lateMs - DAY_MS);
    const first = [addDays(last, -LOOK_BACK_DAYS + 1), dayOf(scheduled.from)].sort().at(-1)!;
    const known = new Map((await store.days(first, last)).map((day) => [day.date, day]));
    for (let date = first; date <= last; date = addDays(date, 1)) {
      if (known.get(date)?.seen) continue;
      await work(lane, await lane.begin({ kind: 'day', start: startOfDay(date), end: startOfDay(addDays(date, 1)) }));
    }
  }

  /** Checks the days that were pulled whole and whose daily sums are not known. */
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

  async function begin(lane: PullLane, range: { startDate: Day; endDate: Day } | undefined): Promise<Pull> {
    const until = Math.floor((now() - LAG_MS) / 1000) * 1000;
    if (range) {
      const end = Math.min(startOfDay(addDays(range.endDate, 1)), until);
      return lane.begin({ kind: 'hand', start: startOfDay(range.startDate), end });
    }
    const scheduled = await store.scheduled();
    const start = scheduled ? scheduled.to - OVERLAP_MS : startOfDay(addDays(dayOf(now()), -1));
    return lane.begin({ kind: 'schedule', start: Math.min(start, until), end: until });
  }

  /** One pull, after what was left unfinished; then the days that it completed are checked. */
  async function run(lane: PullLane, range: { startDate: Day; endDate: Day } | undefined, begun: (pull: Pull) => void) {
    await finishOthers(lane);
    const pull = await begin(lane, range);
    begun(pull);
    const done = await work(lane, pull);
    await checkDays(dayOf(Date.parse(done.start)), dayOf(Date.parse(done.end)));
    await showDays();
    return done;
  }

  async function finishOthers(lane: PullLane): Promise<void> {
    for (let left = await lane.unfinished(); left; left = await lane.unfinished()) await work(lane, left);
  }

  return {
    async pull(range, answerWithinMs = 20_000) {
      if (range) {
        assertPullRange(range);
        assertBegun(range, now());
      }
      const lane = await store.lane();
      if (!lane) throw new TallyError('SOURCE_BUSY', 'A pull from LiteLLM is running.');
      let pull: Pull | undefined;
      const running = track(
        run(lane, range, (begun) => {
          pull = begun;
        }).finally(() => lane.release()),
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
      // Also where another process pulls, the gauge is true.
      const completed = await store.lastCompleted();
      if (completed !== null) metrics.pulled(completed);
      const lane = await store.lane();
      if (!lane) return;
      try {
        await run(lane, undefined, () => {});
        await settleDays(lane);
        const today = dayOf(now());
        await checkDays(addDays(today, -LOOK_BACK_DAYS - 1), today);
        await showDays();
        await store.prune(addDays(dayOf(now()), -KEPT_DAYS));
      } finally {
        await lane.release();
      }
    },

    async recover() {
      const lane = await store.lane();
      if (lane) await track(finishOthers(lane).finally(() => lane.release()));
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

/** What a person sees of a pull. */
export function presentPull({ daySums: _, ...pull }: Pull): LitellmPull {
  const [start, end, position] = [pull.start, pull.end, pull.position].map((time) => Date.parse(time));
  const percent = end! > start! ? Math.floor((100 * (position! - start!)) / (end! - start!)) : 100;
  return { ...pull, percent };
}

/** What a person sees of sums. */
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
    prompt_tokens: BigInt(metrics.prompt_tokens!),
    completion_tokens: BigInt(metrics.completion_tokens!),
    cost: parseQuantity('cost', metrics.cost!)!,
  };
}

function reject(pull: Pull, rejected: readonly Pull['rejections'][number][]): void {
  pull.rejected += rejected.length;
  for (const { id, code, message } of rejected.slice(0, MAX_REJECTIONS_KEPT - pull.rejections.length))
    pull.rejections.push({ id, code, message: message.slice(0, 500) });
}

function reasonOf(error: unknown): { code: string; message: string } {
  if (isTallyError(error)) return { code: error.code, message: error.message };
  return { code: 'INTERNAL', message: 'Something went wrong here; the log says what.' };
}

/** INVALID_DATE_ORDER and DATE_RANGE_TOO_LARGE as everywhere. */
export function assertPullRange({ startDate, endDate }: { startDate: Day; endDate: Day }): void {
  if (startDate > endDate) throw new TallyError('INVALID_DATE_ORDER', 'startDate is after endDate.');
  const days = countDays(startDate, endDate);
  if (days > MAX_RANGE_DAYS)
    throw new TallyError('DATE_RANGE_TOO_LARGE', `${days} days; at most ${MAX_RANGE_DAYS} at once.`);
}

function assertBegun({ startDate }: { startDate: Day }, now: number): void {
  if (startDate > dayOf(now - LAG_MS))
    throw new TallyError('INVALID_INPUT', 'startDate is ahead: nothing to pull yet.');
}
