import { hash } from 'node:crypto';
import {
  type Checked,
  type ingest,
  type Rejection,
  type Reserved,
  type ReserveRequest,
  type Settled,
  TallyError,
  type UsageEntry,
} from '@tally/contracts';
import type { BudgetRow, JournalLine } from '@tally/db';
import { assertMerchant, type Caller, within } from '@tally/service';
import type { z } from 'zod';
import type { Accept } from '../accept.ts';
import { formatOf, unitsOf } from './amounts.ts';
import {
  type Decided,
  type Ended,
  type Ledger,
  type Noted,
  RebuildNeeded,
  type Request,
  type Settlement,
} from './ledger.ts';
import { type BudgetList, type BudgetRegistry, listNow, slotOf } from './registry.ts';
import type { Spend } from './spend.ts';

type Input<Name extends keyof typeof ingest.budgets> = z.output<(typeof ingest.budgets)[Name]['input']>;
type Output<Name extends keyof typeof ingest.budgets> = z.input<(typeof ingest.budgets)[Name]['output']>;

/** The outcome of one item of a call. */
type Item<Result> = Result | TallyError;

/** A request to reserve, and its amount in each budget it counts in. */
type Wish = {
  input: ReserveRequest;
  reservationId: string;
  parts: { budget: BudgetRow; span: ReturnType<BudgetList['spanOf']>; amount: string }[];
};

/** A request waits this long for spend to be rebuilt; then each budget's setting decides. */
const PATIENCE_MS = 5_000;

type Settling = { reservationId: string; entry?: UsageEntry | undefined };

/** Reservations: producers reserve before they use, and settle with the event. */
export function createReservations(options: {
  registry: BudgetRegistry;
  ledger: Ledger;
  spend: Spend;
  accept: Pick<Accept, 'record'>;
  now: () => number;
  onDegraded(error: unknown): void;
}) {
  const { registry, ledger, spend, now } = options;

  /** Decides requests, after rebuilding spend if needed. */
  async function decide(requests: readonly Request[]): Promise<readonly Decided[]> {
    const isKnown = ({ verdict }: Decided) => verdict !== 'unknown';
    try {
      const decided = await ledger.reserve(requests);
      if (decided.every(isKnown)) return decided;
    } catch (error) {
      if (!(error instanceof RebuildNeeded)) throw error;
    }
    await within(PATIENCE_MS, spend.read());
    // Already decided requests repeat their answer.
    const decided = await ledger.reserve(requests);
    if (!decided.every(isKnown)) throw new Error('the spend of a budget is unknown');
    return decided;
  }

  /** Returns the budgets that a request counts in, with its amount in each. Throws INVALID_INPUT. */
  function wishOf(list: BudgetList, at: number, input: ReserveRequest): Wish {
    const { id, amounts, ttlSeconds, ...usage } = input;
    const { meters = {}, ...measures } = amounts;
    // Also where no budget limits the measure yet.
    for (const measure of ['cost', 'requests', 'tokens'] as const)
      if (measures[measure] !== undefined) unitsOf({ measure, meter: null }, measures[measure], `amounts.${measure}`);
    const parts = list.matching(usage).flatMap((budget) => {
      const { measure, meter } = budget;
      // Only the caller knows which meters its usage will count in.
      const amount =
        measure === 'meter' ? own(meters, meter!.key) : (measures[measure] ?? (measure === 'requests' ? '1' : '0'));
      if (amount === undefined) return [];
      const field = meter ? `amounts.meters.${meter.key}` : `amounts.${measure}`;
      return [{ budget, span: list.spanOf(budget.id, at), amount: unitsOf(budget, amount, field).toString() }];
    });
    return { input, reservationId: `${usage.merchantId}/${encodeURIComponent(id)}`, parts };
  }

  function requestOf({ input, reservationId, parts }: Wish): Request {
    const { id: _, amounts, ttlSeconds, ...usage } = input;
    return {
      // Without a lifetime, nothing is reserved.
      id: ttlSeconds === 0 ? '' : reservationId,
      lifetimeMs: ttlSeconds * 1_000,
      digest: digestOf([usage, amounts]),
      // Periods are unknown only if Postgres was unavailable.
      parts: parts.map(({ budget, span, amount }) => {
        if (!span) throw new Error('the period is unknown');
        const limit = budget.enforcement === 'hard' ? budget.limit : undefined;
        return { slot: slotOf(budget.id, span.start), limit, amount };
      }),
    };
  }

  function answerOf({ input, reservationId, parts }: Wish, decided: Decided, caller: Caller): Reserved {
    const { verdict, expiresAt, parts: read } = decided;
    if (verdict === 'conflict')
      throw new TallyError('CONFLICT', `Reservation ${input.id} of ${input.merchantId} exists, with other contents.`);
    if (verdict === 'full')
      throw new TallyError('UNAVAILABLE', 'Too many reservations are open; settle or release some.');
    const allowed = verdict === 'allowed';
    return {
      allowed,
      reservationId: allowed ? reservationId : null,
      // A caller bound to a merchant learns nothing about budgets for all merchants.
      remaining: parts.flatMap(({ budget }, index) =>
        caller.merchantId !== null && budget.merchantId === ''
          ? []
          : [
              {
                budgetId: budget.id,
                remaining: formatOf(budget)(BigInt(budget.limit) - read[index]!.used),
              },
            ],
      ),
      refusedBy: parts.filter((_, index) => read[index]!.refuses).map(({ budget }) => budget.id),
      expiresAt: allowed ? new Date(expiresAt).toISOString() : null,
      degraded: false,
    };
  }

  /** The answer while the store of budgets is unavailable: the settings of hard budgets decide. */
  function degradedAnswerOf({ reservationId, parts }: Wish): Reserved {
    const refusedBy = parts
      .filter(({ budget }) => budget.enforcement === 'hard' && budget.whenUnavailable === 'refuse')
      .map(({ budget }) => budget.id);
    const allowed = refusedBy.length === 0;
    const id = allowed ? reservationId : null;
    return { allowed, reservationId: id, remaining: [], refusedBy, expiresAt: null, degraded: true };
  }

  async function reserveAll(inputs: readonly ReserveRequest[], caller: Caller): Promise<Item<Reserved>[]> {
    const list = await listNow(registry);
    const at = now();
    const wishes = inputs.map((input) =>
      attempt(() => {
        assertMerchant(caller, input.merchantId);
        return wishOf(list, at, input);
      }),
    );
    const limited = wishes.flatMap((wish) => (wish instanceof TallyError || wish.parts.length === 0 ? [] : [wish]));
    const decided = new Map<Wish, Decided>();
    let isDegraded = false;
    try {
      const answers = limited.length === 0 ? [] : await decide(limited.map(requestOf));
      for (const [index, wish] of limited.entries()) decided.set(wish, answers[index]!);
    } catch (error) {
      options.onDegraded(error);
      isDegraded = true;
    }
    return wishes.map((wish) => {
      if (wish instanceof TallyError) return wish;
      if (wish.parts.length === 0) return unlimited(wish);
      return isDegraded ? degradedAnswerOf(wish) : attempt(() => answerOf(wish, decided.get(wish)!, caller));
    });
  }

  /** Settles now; resolves with nothing if Redis does not take it. Then it is settled later, unless Redis loses it. */
  function settle(items: readonly Settlement[]): {
    isSure: Promise<void>;
    ended: Promise<readonly Ended[] | undefined>;
  } {
    const { isSure, ended } = ledger.settle(items);
    return {
      isSure,
      ended: ended.catch(() => {
        ledger.settleLater(items);
        return undefined;
      }),
    };
  }

  /** Ends reservations without an event. */
  async function end(ids: readonly string[]): Promise<readonly boolean[]> {
    if (ids.length === 0) return [];
    const ended = await settle(ids.map((id) => ({ id }))).ended;
    return ids.map((_, at) => ended !== undefined && wasOpen(ended[at]!));
  }

  /** Records the events of settlements; ends their reservations before the events are stored. */
  async function recordEntries(settlements: readonly Settling[], caller: Caller) {
    const sent = new Map<number, { line: JournalLine; event: Noted; ended: Promise<Ended | undefined> }>();
    const result = await options.accept.record({
      entries: settlements.map(({ entry }) => entry),
      backfill: false,
      boundTo: caller.merchantId,
      callerId: caller.id,
      async beforeStore(lines) {
        await registry.freshen();
        const events = lines.map(({ line }) => ({ identity: spend.identityOf(line), amounts: spend.amountsOf(line) }));
        const { isSure, ended } = settle(
          lines.map(({ index }, at) => ({ id: settlements[index]!.reservationId, event: events[at]! })),
        );
        lines.forEach(({ index, line }, at) => {
          sent.set(index, { line, event: events[at]!, ended: ended.then((all) => all?.[at]) });
        });
        await isSure;
      },
    });
    return { ...result, sent };
  }

  /** Settles with events. `isEnded`: false for an event that another settlement of the call has noted. */
  async function settleWithEntries(settlements: readonly Settling[], caller: Caller) {
    const { rejected, repeats, sent } = await recordEntries(settlements, caller);
    const refused: Noted[] = [];
    for (const { index, code } of rejected) {
      const { event, ended } = sent.get(index) ?? {};
      // The note of a conflict goes with the event that has the id.
      if (event && code !== 'ID_CONFLICT' && (await ended) === 'open') refused.push(event);
    }
    // If Redis is unavailable, readings drop the notes later.
    if (refused.length > 0) await ledger.takeBack(refused).catch(() => {});
    const errors = new Map(rejected.map((each) => [each.index, errorOf(each)]));
    const repeated = new Set(repeats);
    const unnoted: JournalLine[] = [];
    const settled: { item: Item<Settled>; isEnded: boolean }[] = [];
    for (const index of settlements.keys()) {
      const error = errors.get(index);
      const { line, ended } = sent.get(index) ?? {};
      const outcome = error ? undefined : await ended;
      const isRepeat = repeated.has(index);
      if (line && outcome === 'unknown' && !isRepeat) unnoted.push(line);
      const counted = { accepted: isRepeat ? 0 : 1, duplicates: isRepeat ? 1 : 0 };
      settled.push({ item: error ?? { settled: outcome === 'open', ...counted }, isEnded: line !== undefined });
    }
    if (unnoted.length > 0) await spend.note(unnoted);
    return settled;
  }

  async function settleAll(settlements: readonly Settling[], caller: Caller): Promise<Item<Settled>[]> {
    const items = settlements.map((settlement): Item<Settled> | undefined => refusalOf(settlement, caller));
    const places = [...items.keys()].filter((place) => items[place] === undefined);
    const withEntry = places.filter((place) => settlements[place]!.entry !== undefined);
    const entries = withEntry.map((place) => settlements[place]!);
    const recorded = entries.length === 0 ? [] : await settleWithEntries(entries, caller);
    // Those without an event, or with the event of another settlement of this call, which has noted it.
    const left = new Set(places);
    recorded.forEach(({ item, isEnded }, at) => {
      items[withEntry[at]!] = item;
      if (isEnded || item instanceof TallyError) left.delete(withEntry[at]!);
    });
    const ids = [...left].map((place) => settlements[place]!.reservationId);
    const ended = await end(ids);
    [...left].forEach((place, at) => {
      items[place] = { accepted: 0, duplicates: 0, ...(items[place] as Settled | undefined), settled: ended[at]! };
    });
    return items as Item<Settled>[];
  }

  return {
    reserve: async (input: Input<'reserve'>, caller: Caller): Promise<Reserved> =>
      unwrapped((await reserveAll([input], caller))[0]!),
    reserveMany: async ({ requests }: Input<'reserveMany'>, caller: Caller): Promise<Output<'reserveMany'>> => ({
      items: presentItems(await reserveAll(requests, caller)),
    }),
    settle: async (input: Input<'settle'>, caller: Caller): Promise<Settled> =>
      unwrapped((await settleAll([input], caller))[0]!),
    settleMany: async ({ settlements }: Input<'settleMany'>, caller: Caller): Promise<Output<'settleMany'>> => ({
      items: presentItems(await settleAll(settlements, caller)),
    }),

    async check(input: Input<'check'>, caller: Caller): Promise<Checked> {
      const [item] = await reserveAll([{ ...input, id: '', ttlSeconds: 0 }], caller);
      const { allowed, remaining, refusedBy, degraded } = unwrapped(item!);
      return { allowed, remaining, refusedBy, degraded };
    },

    async release({ reservationId }: Input<'release'>, caller: Caller): Promise<Output<'release'>> {
      merchantOf(reservationId, caller);
      const [ended] = await ledger.settle([{ id: reservationId }]).ended;
      return { released: wasOpen(ended!) };
    },
  };
}

/** No budget limits the usage. */
const unlimited = ({ reservationId }: Wish): Reserved => ({
  allowed: true,
  reservationId,
  remaining: [],
  refusedBy: [],
  expiresAt: null,
  degraded: false,
});

/** Returns why a settlement is refused before anything is recorded. */
function refusalOf({ reservationId, entry }: Settling, caller: Caller): TallyError | undefined {
  const merchantId = attempt(() => merchantOf(reservationId, caller));
  if (merchantId instanceof TallyError) return merchantId;
  const named = (entry as { merchantId?: unknown } | undefined)?.merchantId;
  if (typeof named !== 'string' || named === merchantId) return undefined;
  return new TallyError('MERCHANT_FORBIDDEN', `The reservation is of merchant ${merchantId}, not of the entry's.`);
}

const errorOf = ({ code, message }: Rejection) => new TallyError(code as TallyError['code'], message);

const wasOpen = (ended: Ended) => ended === 'open';

/** Returns the result of `work`, or the error that it throws for its caller. */
function attempt<Result>(work: () => Result): Item<Result> {
  try {
    return work();
  } catch (error) {
    if (error instanceof TallyError) return error;
    throw error;
  }
}

function unwrapped<Result>(item: Item<Result>): Result {
  if (item instanceof TallyError) throw item;
  return item;
}

/** Throws MERCHANT_FORBIDDEN if all items are about merchants that the caller may not name, like `usage.record`. */
function presentItems<Result>(items: readonly Item<Result>[]) {
  const isForbidden = (item: Item<Result>) => item instanceof TallyError && item.code === 'MERCHANT_FORBIDDEN';
  if (items.every(isForbidden)) throw items[0];
  return items.map(presentItem);
}

const presentItem = <Result>(item: Item<Result>) =>
  item instanceof TallyError
    ? { result: null, error: { code: item.code, message: item.message } }
    : { result: item, error: null };

/** Returns the merchant of a reservation; its own id has no slash. */
function merchantOf(reservationId: string, caller: Caller): string {
  const at = reservationId.lastIndexOf('/');
  if (at < 1) throw new TallyError('INVALID_INPUT', 'reservationId: Expected what budgets.reserve answered.');
  const merchantId = reservationId.slice(0, at);
  assertMerchant(caller, merchantId);
  return merchantId;
}

const own = (amounts: Record<string, string>, key: string) => (Object.hasOwn(amounts, key) ? amounts[key] : undefined);

const digestOf = (value: unknown) => hash('sha256', JSON.stringify(value), 'base64url').slice(0, 16);
