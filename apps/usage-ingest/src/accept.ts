import {
  addDays,
  type Day,
  dayOf,
  isTallyError,
  MAX_SUM_UNITS,
  type RecordResult,
  type RecordWarning,
  type Rejection,
  TallyError,
  type UsageEntry,
} from '@tally/contracts';
import {
  type DimensionColumn,
  dayClosed,
  type FlushSource,
  type FoldedLine,
  isRefusal,
  type Journal,
  type JournalLine,
  NO_PRICE,
  StaleRegistryError,
} from '@tally/db';
import { activeRequest, recordStep } from '@tally/service';
import { type BatchToCheck, type CheckedLine, CONFLICT, checkBatch } from './check.ts';
import type { Counters } from './counters/counters.ts';
import { LIVE_DAYS } from './counters/keys.ts';
import type { FaultPoint } from './faults.ts';
import { flushKey } from './flush/drain.ts';
import { type Registry, type RegistryReader, whileStale } from './meters/registry.ts';
import { type PriceList, priced } from './prices/price-list.ts';

export type AcceptOptions = {
  counters: Counters;
  journal: Pick<Journal, 'predictFolded'> & {
    /** Appends a batch in a turn of the caller. */
    append(callerId: string, batch: Parameters<Journal['append']>[0]): ReturnType<Journal['append']>;
  };
  /** Days for which the journal keeps events; older ones need `backfill`. */
  retentionDays: number;
  registry: RegistryReader;
  /** The price list; undefined while it is unknown. */
  priceList: () => PriceList | undefined;
  now: () => number;
  /** Returns true while Redis is above its high-water mark: events then go directly to Postgres. */
  isFull: () => boolean;
  /** Called when a store could not take a batch, which the other store then gets. */
  onFallback(error: unknown): void;
  /** Called with the number of events not counted because another event has their id. */
  onConflicts(count: number): void;
  /** Called with the events whose values rollups count under `(other)`. */
  onFolded(folded: readonly FoldedLine[]): void;
  /** Called with events that Redis has accepted and Postgres does not show yet. */
  onAccepted(lines: readonly JournalLine[]): void;
  /** Runs a write of events of these merchants, of days that Redis keeps, directly to Postgres. */
  writeDirectly<T>(merchantIds: ReadonlySet<string>, write: () => Promise<T>): Promise<T>;
  fault: FaultPoint;
};

export type Accept = {
  /** Stores a batch durably before it answers. Throws UNAVAILABLE if a store failed: send the same batch again. */
  record(batch: BatchToRecord): Promise<Accepted>;
  /** Stores plain counters of a caller. Makes their lines by a registry, and again if that is stale. */
  store(callerId: string, linesOf: (registry: Registry) => readonly CheckedLine[]): Promise<Accepted>;
};

export type BatchToRecord = BatchToCheck & {
  /** Who sends it: callers take turns at Postgres. */
  callerId: string;
  /** Called with the valid events before they are stored; `onAccepted` is then not called with them. */
  beforeStore?(lines: readonly CheckedLine[]): Promise<void>;
};

/** The result of a batch; `repeats` and `rejected` name events by their index, all others are accepted. */
export type Accepted = { accepted: number; repeats: number[]; rejected: Rejection[]; warnings: RecordWarning[] };

/** The registry that lines were made by, whether `onAccepted` is skipped for them, and who sent them. */
type StoreOptions = { version: number; isNoted: boolean; callerId: string };

/** `stale`: events to check again, since the registry of meters has changed. */
type Stored = Accepted & { stale: CheckedLine[] };

/** Presents the result of a batch as `usage.record` answers it. */
export const presentAccepted = ({ repeats, ...rest }: Accepted): RecordResult => ({
  ...rest,
  duplicates: repeats.length,
});

/** Accepts events: checks each, drops repeats, stores the rest in Redis, or in Postgres while Redis cannot take it. */
export function createAccept(options: AcceptOptions): Accept {
  const { counters, journal, now, fault } = options;

  /** Stores what Redis can count; `left` must be written to Postgres. */
  async function throughRedis(
    entries: readonly CheckedLine[],
    version: number,
    isNoted: boolean,
  ): Promise<Stored & { left: CheckedLine[] }> {
    await fault('record.before-redis');
    const refusals = await counters.record(
      entries.map(({ line }) => line),
      version,
      new Set(entries.flatMap(({ line, isContested }) => (isContested ? [line] : []))),
    );
    const result = { ...none(), left: [] as CheckedLine[] };
    options.onConflicts(refusals.filter((refusal) => refusal === 'conflict').length);
    if (!isNoted) options.onAccepted(entries.flatMap(({ line }, at) => (refusals[at] === undefined ? [line] : [])));
    entries.forEach((entry, index) => {
      const refusal = refusals[index];
      if (refusal === undefined) {
        result.accepted++;
        const dimensions = journal.predictFolded(entry.line);
        if (dimensions.length > 0) result.warnings.push(overflowOf(entry, dimensions));
        if (entry.line.price === NO_PRICE) result.warnings.push(unpricedOf(entry));
      } else if (refusal === 'unusable') result.left.push(entry);
      else if (refusal === 'stale') result.stale.push(entry);
      else if (refusal === 'repeat') result.repeats.push(entry.index);
      else {
        const { code, message } = REJECTIONS[refusal];
        result.rejected.push(rejectionOf(entry, code, message));
      }
    });
    await fault('record.after-store');
    return result;
  }

  async function directly(
    entries: readonly CheckedLine[],
    source: FlushSource,
    how: Pick<StoreOptions, 'version' | 'callerId'>,
  ): Promise<Stored> {
    const lines = entries.map(({ line }) => line);
    const startedAt = Date.now();
    try {
      const { flushes, inserted, known, conflicts, folded } = await journal.append(how.callerId, {
        source,
        registryVersion: how.version,
        lines: lines.map((line) => ({ ...line, origin: 'direct' })),
      });
      for (const flush of flushes)
        recordStep(() => ({
          ...{ name: 'tally.flush', key: flushKey(flush), startedAt },
          requests: [activeRequest()],
          attributes: { 'tally.events': lines.length, 'tally.inserted': inserted },
        }));
      options.onConflicts(conflicts.length);
      const rejected = conflicts.map((position) => rejectionOf(entries[position]!, CONFLICT.code, CONFLICT.message));
      options.onFolded(folded);
      const warnings = [
        ...folded.map(({ position, dimensions }) => overflowOf(entries[position]!, dimensions)),
        ...entries.filter(({ line }, at) => line.price === NO_PRICE && !conflicts.includes(at)).map(unpricedOf),
      ];
      const repeats = known.map((position) => entries[position]!.index);
      return { accepted: inserted, repeats, rejected, warnings, stale: [] };
    } catch (error) {
      if (error instanceof StaleRegistryError) return { ...none(), stale: [...entries] };
      if (!isRefusal(error)) throw error;
      const closed = closedDaysOf(error);
      const ofClosed = entries.filter(({ line }) => closed.includes(line.date));
      if (ofClosed.length > 0) {
        const rejected = ofClosed.map((entry) => rejectionOf(entry, 'DAY_CLOSED', dayClosed(entry.line.date)));
        const others = entries.filter(({ line }) => !closed.includes(line.date));
        const stored = others.length === 0 ? none() : await directly(others, source, how);
        return both(stored, { ...none(), rejected });
      }
      const [entry] = entries;
      if (entries.length === 1) return { ...none(), rejected: [rejectionOf(entry!, ...reasonOf(error))] };
      // Halves the batch until refused lines are alone.
      const half = Math.ceil(entries.length / 2);
      const first = await directly(entries.slice(0, half), source, how);
      const second = await directly(entries.slice(half), source, how);
      return both(first, second);
    }
  }

  /** Stores events of days that Redis keeps: in Redis, or in Postgres while Redis is full or unavailable. */
  async function storeFresh(
    fresh: readonly CheckedLine[],
    how: StoreOptions,
    add: (part: Stored) => void,
  ): Promise<void> {
    const past = (lines: readonly CheckedLine[]) =>
      options.writeDirectly(new Set(lines.map(({ line }) => line.merchant_id)), () => directly(lines, 'direct', how));
    if (options.isFull()) {
      try {
        return add(await past(fresh));
      } catch (error) {
        // A full Redis may have room for it, if Postgres is unavailable.
        options.onFallback(error);
      }
    }
    let left = fresh;
    try {
      const stored = await throughRedis(fresh, how.version, how.isNoted);
      add(stored);
      left = stored.left;
    } catch (error) {
      // The journal recognises an event whichever path it took, so it may take a batch of which Redis has a part.
      options.onFallback(error);
    }
    if (left.length > 0) add(await past(left));
  }

  async function store(lines: readonly CheckedLine[], how: StoreOptions): Promise<Stored> {
    const today = dayOf(now());
    const hot = (day: Day) => day >= addDays(today, -LIVE_DAYS);
    const kept = (day: Day) => day >= addDays(today, -options.retentionDays);
    let result = none();
    const add = (part: Stored) => {
      result = both(result, part);
    };
    const fresh = lines.filter(({ line }) => hot(line.date));
    const direct = lines.filter(({ line }) => !hot(line.date) && kept(line.date));
    const backfill = lines.filter(({ line }) => !kept(line.date));
    if (fresh.length > 0) await storeFresh(fresh, how, add);
    if (direct.length > 0) add(await directly(direct, 'direct', how));
    if (backfill.length > 0) add(await directly(backfill, 'backfill', how));
    return result;
  }

  /** Checks and stores a batch by one registry. Returns stale events to be tried again. */
  async function recordBy(registry: Registry, batch: BatchToRecord): Promise<Accepted & { stale: number[] }> {
    const checked = await checkBatch(batch, { now: now(), retentionDays: options.retentionDays, registry });
    // A meter may have been created since this process loaded the registry.
    if (checked.byRegistry.length > 0 && (await options.registry.reload()).version !== registry.version)
      return { ...none(), stale: batch.entries.map((_, index) => index) };
    await fault('record.before-store');
    const list = options.priceList();
    const lines = list?.isEmpty
      ? checked.lines
      : checked.lines.map(({ index, line, ...more }) => ({
          index,
          ...more,
          line: hasCost(batch.entries[index]) ? line : priced(line, list, registry.scaleOf),
        }));
    await batch.beforeStore?.(lines);
    const stored = await store(lines, {
      version: registry.version,
      isNoted: batch.beforeStore !== undefined,
      callerId: batch.callerId,
    });
    const { accepted, repeats, rejected, warnings } = stored;
    const stale = stored.stale.map(({ index }) => index);
    const all = [...checked.rejected, ...rejected];
    for (const { index, of } of checked.repeats) {
      const refusal = rejected.find((each) => each.index === of);
      if (stale.includes(of)) stale.push(index);
      else if (refusal) all.push({ ...refusal, index });
      else repeats.push(index);
    }
    return { accepted, repeats, rejected: all, warnings, stale };
  }

  return {
    async store(callerId, linesOf) {
      let result = none() as Accepted;
      await whileStale(options.registry, async (registry) => {
        const { stale, ...stored } = await store(linesOf(registry), {
          version: registry.version,
          isNoted: false,
          callerId,
        });
        result = stored;
        return stale.length > 0;
      });
      return result;
    },
    async record(batch) {
      let result: Accepted = none();
      /** Returns the indexes of the events that are still to be stored. */
      let places = batch.entries.map((_, index) => index);
      // Noted before they are stored, events are noted once, even if they must be stored again.
      let isBefore = true;
      const beforeStore = batch.beforeStore && {
        async beforeStore(lines: readonly CheckedLine[]) {
          if (isBefore) await batch.beforeStore?.(lines);
          isBefore = false;
        },
      };
      try {
        await whileStale(options.registry, async (registry) => {
          const entries = places.map((place) => batch.entries[place]);
          const { stale, ...part } = await recordBy(registry, { ...batch, ...beforeStore, entries });
          const placed = <Each extends { index: number }>(each: Each): Each => ({
            ...each,
            index: places[each.index]!,
          });
          result = {
            accepted: result.accepted + part.accepted,
            repeats: [...result.repeats, ...part.repeats.map((index) => places[index]!)],
            rejected: [...result.rejected, ...part.rejected.map(placed)],
            warnings: [...result.warnings, ...part.warnings.map(placed)],
          };
          places = stale.map((index) => places[index]!).sort((a, b) => a - b);
          return places.length > 0;
        });
        const byPlace = (a: { index: number }, b: { index: number }) => a.index - b.index;
        return {
          accepted: result.accepted,
          repeats: result.repeats.sort((a, b) => a - b),
          rejected: result.rejected.sort(byPlace),
          warnings: result.warnings.sort(byPlace),
        };
      } catch (error) {
        if (isTallyError(error)) throw error;
        throw new TallyError('UNAVAILABLE', 'The batch could not be stored; send it again.', { cause: error });
      }
    },
  };
}

const none = (): Stored => ({ accepted: 0, repeats: [], rejected: [], warnings: [], stale: [] });

const both = (one: Stored, other: Stored): Stored => ({
  accepted: one.accepted + other.accepted,
  repeats: [...one.repeats, ...other.repeats],
  rejected: [...one.rejected, ...other.rejected],
  warnings: [...one.warnings, ...other.warnings],
  stale: [...one.stale, ...other.stale],
});

const NAMES: Record<DimensionColumn, string> = {
  user_id: 'users',
  api_key: 'API keys',
  model: 'models',
  provider: 'providers',
};

function overflowOf({ index, line }: CheckedLine, dimensions: readonly DimensionColumn[]): RecordWarning {
  const names = dimensions.map((name) => NAMES[name]).join(', ');
  const message = `${line.merchant_id} has as many ${names} on ${line.date} as rollups may have; others are counted under (other).`;
  return { index, code: 'DIMENSION_OVERFLOW', message };
}

/** Returns true if the producer sent a cost, even 0: Tally then computes none. */
const hasCost = (entry: unknown) => (entry as UsageEntry).metrics.cost !== undefined;

function unpricedOf({ index, line: { provider, model } }: CheckedLine): RecordWarning {
  const name = `model ${model ?? 'unknown'} of provider ${provider ?? 'unknown'}`;
  return {
    index,
    code: 'UNKNOWN_PRICE',
    message: `No price is known for all tokens of ${name}; its cost is not counted.`,
  };
}

const REJECTIONS = {
  conflict: CONFLICT,
  types: {
    code: 'CARDINALITY_LIMIT',
    message: 'The merchant has as many distinct metric types on this day as a day may have.',
  },
  limit: { code: 'TOTAL_LIMIT', message: `A total of the day would pass ${MAX_SUM_UNITS} units.` },
};

function rejectionOf({ index, line }: CheckedLine, code: string, message: string): Rejection {
  return { index, id: line.id, code, message };
}

/** Returns the closed days that an append was refused for. */
function closedDaysOf(error: unknown): readonly Day[] {
  if (!isTallyError(error) || error.code !== 'DAY_CLOSED') return [];
  return (error.details as { days: Day[] }).days;
}

function reasonOf(error: unknown): [code: string, message: string] {
  if (isTallyError(error)) return [error.code, error.message];
  return ['INVALID_ENTRY', 'Postgres refuses this entry.'];
}
