import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { createGather, createTurnGather } from '../counters/gather.ts';
import { lua } from '../counters/lua.ts';

/** An amount in one period of a budget. Amounts are units, as text. */
export type SlotAmount = { slot: string; amount: string };

export type Request = {
  id: string;
  lifetimeMs: number;
  /** Distinguishes requests with the same id. */
  digest: string;
  /** `limit` undefined: a soft budget. */
  parts: readonly (SlotAmount & { limit: string | undefined })[];
};

export type Verdict = 'refused' | 'allowed' | 'conflict' | 'full' | 'unknown';

export type Decided = { verdict: Verdict; expiresAt: number; parts: { used: bigint; refuses: boolean }[] };

/** What an event adds, by an identity that the journal can look up. */
export type Noted = { identity: string; amounts: readonly SlotAmount[] };

export type Settlement = {
  /** The reservation to end. */
  id?: string;
  event?: Noted;
};

/**
 * `open`: the reservation was open, and its event is noted. `repeated`: the same event ended it before. `unknown`: there
 * is no such reservation, or another event ended it; the event is not noted.
 */
export type Ended = 'unknown' | 'open' | 'repeated';

export type Reading = { token: string; run: string; isWhole: boolean; now: number };

/** An event that Postgres does not show yet: when it was noted, and its amounts as `slot=amount,…`. */
export type Note = { identity: string; at: number; amounts: string };

/** Thrown while the sums must be rebuilt before anything is allowed or refused. */
export class RebuildNeeded extends Error {}

declare module 'ioredis' {
  interface RedisCommander<Context> {
    budgetReserve(...keysAndArgs: (string | number)[]): Result<string, Context>;
    budgetSettle(...keysAndArgs: (string | number)[]): Result<string, Context>;
    budgetTakeBack(...keysAndArgs: string[]): Result<number, Context>;
    budgetBegin(...keys: string[]): Result<[number, string, number, string], Context>;
    budgetSet(...keysAndArgs: (string | number)[]): Result<number, Context>;
  }
}

/** One slot of a cluster holds everything, so that a request may touch any budgets at once. */
const SUMS = 'budget:{all}:sums';
const RESERVATIONS = 'budget:{all}:reservations';
const EXPIRIES = 'budget:{all}:expiries';
const NOTES = 'budget:{all}:notes';
const LEASE = 'budget:{all}:reader';
const KEYS = [SUMS, RESERVATIONS, EXPIRIES, NOTES] as const;

/** Reservations: open ones, and those that ended within 10 minutes. */
const MAX_RESERVATIONS = 1_000_000;
/** Events that Postgres does not show yet. Beyond this number, events count once they are flushed. */
const MAX_NOTES = 500_000;
const ENDED: readonly Ended[] = ['unknown', 'open', 'repeated'];
const VERDICTS: readonly Verdict[] = ['refused', 'allowed', 'conflict', 'full', 'unknown'];
/** Settlements of one process that wait for Redis: some 50 MB. */
const MAX_LATE = 100_000;
/** A larger call would block other calls of Redis for more than some milliseconds. */
const CALL = { maxItems: 200, maxBytes: 256 * 1024 };
const ROUGH_BYTES = 200;
const PAGE = 1_000;

export type Ledger = ReturnType<typeof createLedger>;

/**
 * Spent and reserved amounts of budgets, in Redis, by its clock. Concurrent calls share round trips. Every call may be
 * repeated: a reservation is made and ended once.
 */
export function createLedger(redis: RedisClient) {
  const define = (name: string, file: string) =>
    redis.defineCommand(name, { numberOfKeys: KEYS.length, lua: `${lua('budget-common')}\n${lua(file)}` });
  define('budgetReserve', 'budget-reserve');
  define('budgetSettle', 'budget-settle');
  define('budgetTakeBack', 'budget-take-back');
  define('budgetBegin', 'budget-begin');
  define('budgetSet', 'budget-set');

  const reserving = createGather<Request, Decided>({
    ...CALL,
    async send(requests) {
      const asked = requests.map(({ id, lifetimeMs, digest, parts }) => [
        ...[id, lifetimeMs, digest],
        parts.map(({ slot, limit, amount }) => [slot, limit ?? '', amount]),
      ]);
      const answer = await redis.budgetReserve(...KEYS, MAX_RESERVATIONS, JSON.stringify(asked));
      if (answer === '') throw new RebuildNeeded();
      const values = answer.split(',');
      let at = 0;
      return requests.map(({ parts }) => {
        const [verdict, expiresAt] = [VERDICTS[Number(values[at++])]!, Number(values[at++])];
        const read = parts.map(() => ({ used: BigInt(values[at++]!), refuses: values[at++] === '1' }));
        return { verdict, expiresAt, parts: read };
      });
    },
  });

  // On one connection, commands run in the order of sending, once the script is loaded.
  let isLoaded = false;
  redis.on('close', () => {
    isLoaded = false;
  });
  const settling = createTurnGather<Settlement, Ended>({
    maxItems: CALL.maxItems,
    async send(items) {
      const asked = items.map(({ id = '', event }) => [id, event?.identity ?? '', listOf(event?.amounts ?? [])]);
      const ended = await redis.budgetSettle(...KEYS, MAX_NOTES, JSON.stringify(asked));
      isLoaded = !('nodes' in redis);
      return Array.from(ended, (each) => ENDED[Number(each)]!);
    },
  });

  const late = new Map<string, Settlement>();

  /** Reads fields of the sums, some at a time. */
  async function fields(names: readonly string[]): Promise<(string | null)[]> {
    const values: (string | null)[] = [];
    for (let at = 0; at < names.length; at += PAGE)
      values.push(...(await redis.hmget(SUMS, ...names.slice(at, at + PAGE))));
    return values;
  }

  return {
    /** Decides requests, at most 200, each by itself. Throws RebuildNeeded. */
    reserve(requests: readonly Request[]): Promise<readonly Decided[]> {
      const parts = requests.reduce((sum, request) => sum + request.parts.length, requests.length);
      return reserving({ items: requests, bytes: ROUGH_BYTES * parts });
    },
    /**
     * Ends reservations and notes events, at most 200; an event without a reservation is always noted. `isSure` resolves
     * once everything is certain to run before later commands to the same Redis; `ended` may reject later.
     */
    settle(items: readonly Settlement[]): { isSure: Promise<void>; ended: Promise<readonly Ended[]> } {
      const { sent, results: ended } = settling(items);
      const isSure = isLoaded
        ? sent
        : ended.then(
            () => {},
            () => {},
          );
      return { isSure, ended };
    },

    /** Takes the notes of events back that no store took, at most 200. */
    async takeBack(events: readonly Noted[]): Promise<void> {
      await redis.budgetTakeBack(
        ...KEYS,
        JSON.stringify(events.map(({ identity, amounts }) => [identity, listOf(amounts)])),
      );
    },

    /** Remembers settlements that Redis did not take, for `settleLate`. Beyond a limit, their reservations expire. */
    settleLater(items: readonly Settlement[]): void {
      for (const item of items) if (item.id !== undefined && late.size < MAX_LATE) late.set(item.id, item);
    },
    /** Settles what `settleLater` remembers. Rejects while Redis does not take it. */
    async settleLate(): Promise<void> {
      const all = [...late.values()];
      for (let at = 0; at < all.length; at += CALL.maxItems) {
        const items = all.slice(at, at + CALL.maxItems);
        await settling(items).results;
        for (const item of items) if (late.get(item.id!) === item) late.delete(item.id!);
      }
    },

    /** Starts a reading of spend. */
    async begin(): Promise<Reading> {
      const [token, run, isWhole, now] = await redis.budgetBegin(...KEYS);
      return { token: String(token), run, isWhole: isWhole === 1, now: Number(now) };
    },
    async notes(): Promise<Note[]> {
      const all = new Map<string, Omit<Note, 'identity'>>();
      let cursor = '0';
      do {
        const [next, found] = await redis.hscan(NOTES, cursor, 'COUNT', PAGE);
        cursor = next;
        for (let index = 0; index < found.length; index += 2) {
          const [at, amounts] = found[index + 1]!.split('|') as [string, string];
          all.set(found[index]!, { at: Number(at), amounts });
        }
      } while (cursor !== '0');
      return [...all].map(([identity, note]) => ({ identity, ...note }));
    },
    /** Stores a reading; returns false if another one started or Redis restarted meanwhile. */
    async set({ token, run }: Reading, spent: readonly SlotAmount[], counted: readonly Note[]): Promise<boolean> {
      // Arguments of one call are bounded; the next reading drops the rest, which it finds counted again.
      const drop = counted.slice(0, MAX_DROPPED);
      const dropped = new Map<string, bigint>();
      for (const { amounts } of drop)
        for (const part of amounts.split(',')) {
          const [slot, amount] = part.split('=') as [string, string];
          dropped.set(slot, (dropped.get(slot) ?? 0n) + BigInt(amount));
        }
      const set = (isLast: boolean, slots: readonly (readonly [string, string, string])[], identities: string[] = []) =>
        redis.budgetSet(...KEYS, token, run, isLast ? 'last' : '', JSON.stringify(slots), ...identities);
      // Only a reading changes what was spent, so what has not changed since it began is left out.
      const before = await fields(spent.map(({ slot }) => `${slot}:spent`));
      const changed = spent.filter(({ amount }, index) => before[index] !== amount);
      // An amount changes together with the notes that go, if there are any; others may change before.
      const alone = changed.filter(({ slot }) => !dropped.has(slot));
      for (let at = 0; at < alone.length; at += PAGE) {
        const page = alone.slice(at, at + PAGE).map(({ slot, amount }) => [slot, amount, '0'] as const);
        if ((await set(false, page)) !== 1) return false;
      }
      const amounts = new Map(changed.map(({ slot, amount }) => [slot, amount]));
      const rest = [...dropped].map(([slot, noted]) => [slot, amounts.get(slot) ?? '', noted.toString()] as const);
      const identities = drop.map(({ identity }) => identity);
      return (await set(true, rest, identities)) === 1;
    },
    /**
     * Returns used and reserved amounts of slots; undefined for an unknown one, and for all while the sums are rebuilt.
     */
    async read(slots: readonly string[]): Promise<({ used: bigint; reserved: bigint } | undefined)[]> {
      if (slots.length === 0) return [];
      const sums = slots.flatMap((slot) => [`${slot}:spent`, `${slot}:used`, `${slot}:reserved`]);
      const [run, ...values] = await fields(['run', ...sums]);
      return slots.map((_, index) => {
        const [spent, used, reserved] = values.slice(index * 3, index * 3 + 3);
        if (run == null || spent == null) return undefined;
        return { used: BigInt(used ?? 0), reserved: BigInt(reserved ?? 0) };
      });
    },
    /** Removes slots without a budget. */
    async forget(isKnown: (slot: string) => boolean): Promise<void> {
      const old = (await redis.hkeys(SUMS)).filter((field) => {
        const slot = field.slice(0, field.lastIndexOf(':'));
        return field.includes('/') && !isKnown(slot);
      });
      for (let at = 0; at < old.length; at += PAGE) await redis.hdel(SUMS, ...old.slice(at, at + PAGE));
    },
    /** Takes or renews the right to read regularly, so that one process does it for all. */
    async lead(name: string, forMs: number): Promise<boolean> {
      if ((await redis.set(LEASE, name, 'PX', forMs, 'NX')) === 'OK') return true;
      if ((await redis.get(LEASE)) !== name) return false;
      await redis.pexpire(LEASE, forMs);
      return true;
    },
  };
}

const MAX_DROPPED = 50_000;

const listOf = (amounts: readonly SlotAmount[]) => amounts.map(({ slot, amount }) => `${slot}=${amount}`).join(',');
