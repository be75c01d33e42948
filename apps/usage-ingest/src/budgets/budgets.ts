import { hash } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import {
  BUILT_IN_METERS,
  type Budget,
  type BudgetStatus,
  type Checked,
  formatQuantity,
  type ingest,
  isMeasure,
  MAX_SUM_UNITS,
  parseQuantity,
  percentOf,
  type Reserved,
  type ReserveRequest,
  type Settled,
  TallyError,
  type Units,
  type UsageEntry,
} from '@tally/contracts';
import {
  type BudgetMeter,
  type BudgetRow,
  type Db,
  type JournalLine,
  type NewBudget,
  scaleOfBudget,
  unitOfBudget,
  unknownMeter,
} from '@tally/db';
import { assertMerchant, type Caller, decodeCursor, encodeCursor, within } from '@tally/service';
import { z } from 'zod';
import type { Accept } from '../accept.ts';
import { FRESH_MS } from '../versioned-list.ts';
import {
  type Decided,
  type Ended,
  type Ledger,
  type Noted,
  RebuildNeeded,
  type Request,
  type Settlement,
} from './ledger.ts';
import { type BudgetList, type BudgetRegistry, slotOf } from './registry.ts';
import type { Spend } from './spend.ts';

type Input<Name extends keyof typeof ingest.budgets> = z.output<(typeof ingest.budgets)[Name]['input']>;
type Output<Name extends keyof typeof ingest.budgets> = z.input<(typeof ingest.budgets)[Name]['output']>;

export type Budgets = ReturnType<typeof createBudgets>;

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

/** Requests in progress elsewhere may have looked at the list just before it was published. */
const IN_FORCE_MS = 2 * FRESH_MS;

/** Budgets: admins define them, producers reserve and settle. */
export function createBudgets(options: {
  store: Db['budgets'];
  meters: Pick<Db['meters'], 'find'>;
  registry: BudgetRegistry;
  ledger: Ledger;
  spend: Spend;
  accept: Pick<Accept, 'record'>;
  now: () => number;
  onDegraded(error: unknown): void;
}) {
  const { store, registry, ledger, spend, now } = options;

  /** Publishes a change: afterwards every process uses it. Throws UNAVAILABLE if it is saved, but not published yet. */
  async function publish({ id }: BudgetRow): Promise<void> {
    await registry.refresh().catch((cause: unknown) => {
      throw new TallyError(
        'UNAVAILABLE',
        `The change of budget ${id} is saved, but a store is unavailable: it is in force once the store answers.`,
        { cause },
      );
    });
    await Promise.all([spend.read().catch(() => {}), wait(IN_FORCE_MS)]);
  }

  async function known(id: string, caller: Caller): Promise<BudgetRow> {
    const row = await store.find(id);
    // Says nothing about another merchant's budget, not even that it exists.
    if (!row || (caller.merchantId !== null && row.merchantId !== caller.merchantId))
      throw new TallyError('NOT_FOUND', `There is no budget ${id}.`);
    return row;
  }

  async function listNow(): Promise<BudgetList> {
    await registry.freshen();
    const list = registry.current();
    if (list) return list;
    await registry.refresh().catch((cause: unknown) => {
      throw new TallyError('UNAVAILABLE', 'The budgets are unknown: no store answers. Try again.', { cause });
    });
    return registry.current()!;
  }

  /** Returns the meter of a new budget: the merchant's own, else the one for all, or a built-in one. */
  async function meterOf(key: string, merchantId: string): Promise<BudgetMeter> {
    const builtIn = BUILT_IN_METERS.find((meter) => meter.key === key && (isMeasure(key) || key === 'total_tokens'));
    const own = builtIn || merchantId === '' ? undefined : await options.meters.find({ key, merchantId });
    const found = builtIn ?? own ?? (await options.meters.find({ key, merchantId: '' }));
    if (!found) throw unknownMeter(key);
    const { unit, aggregation, metricType, valueProperty, eventType, filters } = found;
    if (aggregation !== 'SUM' && aggregation !== 'COUNT')
      throw new TallyError(
        'INVALID_INPUT',
        `meter: ${key} is ${aggregation}; a budget limits a meter of SUM or COUNT.`,
      );
    const scale = aggregation === 'COUNT' ? 0 : found.scale;
    return { key, unit, scale, aggregation, metricType, valueProperty, eventType, filters };
  }

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
    return {
      ...{ allowed, refusedBy, degraded: true, remaining: [], expiresAt: null },
      reservationId: allowed ? reservationId : null,
    };
  }

  const unlimited = (reservationId: string): Reserved => ({
    ...{ allowed: true, reservationId, remaining: [], refusedBy: [], expiresAt: null, degraded: false },
  });

  async function reserveAll(inputs: readonly ReserveRequest[], caller: Caller): Promise<Item<Reserved>[]> {
    const list = await listNow();
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
      if (wish.parts.length === 0) return unlimited(wish.reservationId);
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

  async function settleAll(
    settlements: readonly { reservationId: string; entry?: UsageEntry | undefined }[],
    caller: Caller,
  ): Promise<Item<Settled>[]> {
    const items: (Item<Settled> | undefined)[] = settlements.map(({ reservationId, entry }) => {
      const merchantId = attempt(() => merchantOf(reservationId, caller));
      if (merchantId instanceof TallyError) return merchantId;
      const named = (entry as { merchantId?: unknown } | undefined)?.merchantId;
      if (typeof named !== 'string' || named === merchantId) return undefined;
      return new TallyError('MERCHANT_FORBIDDEN', `The reservation is of merchant ${merchantId}, not of the entry's.`);
    });
    const places = [...settlements.keys()].filter((place) => items[place] === undefined);
    const withEntry = places.filter((place) => settlements[place]!.entry !== undefined);
    const ending = new Map<number, { line: JournalLine; event: Noted; ended: Promise<Ended | undefined> }>();
    if (withEntry.length > 0) {
      const result = await options.accept.record({
        ...{
          entries: withEntry.map((place) => settlements[place]!.entry),
          backfill: false,
          boundTo: caller.merchantId,
          callerId: caller.id,
        },
        async beforeStore(lines) {
          await registry.freshen();
          const events = lines.map(({ line }) => ({
            identity: spend.identityOf(line),
            amounts: spend.amountsOf(line),
          }));
          const { isSure, ended } = settle(
            lines.map(({ index }, at) => ({ id: settlements[withEntry[index]!]!.reservationId, event: events[at]! })),
          );
          lines.forEach(({ index, line }, at) => {
            ending.set(withEntry[index]!, { line, event: events[at]!, ended: ended.then((all) => all?.[at]) });
          });
          await isSure;
        },
      });
      const refused: Noted[] = [];
      for (const { index, code, message } of result.rejected) {
        const place = withEntry[index]!;
        items[place] = new TallyError(code as TallyError['code'], message);
        const { event, ended } = ending.get(place) ?? {};
        // The note of a conflict goes with the event that has the id.
        if (event && code !== 'ID_CONFLICT' && (await ended) === 'open') refused.push(event);
      }
      // If Redis is unavailable, readings drop the notes later.
      if (refused.length > 0) await ledger.takeBack(refused).catch(() => {});
      const repeats = new Set(result.repeats.map((index) => withEntry[index]!));
      const unnoted: JournalLine[] = [];
      for (const place of withEntry) {
        if (items[place] !== undefined) continue;
        const { line, ended } = ending.get(place) ?? {};
        const outcome = await ended;
        const isRepeat = repeats.has(place);
        if (line && outcome === 'unknown' && !isRepeat) unnoted.push(line);
        items[place] = {
          settled: outcome === 'open',
          ...{ accepted: isRepeat ? 0 : 1, duplicates: isRepeat ? 1 : 0 },
        };
      }
      if (unnoted.length > 0) await spend.note(unnoted);
    }
    // Without an event, or with the event of another settlement of this call, which has noted it.
    const rest = places.filter((place) => !ending.has(place) && !(items[place] instanceof TallyError));
    const ended = await end(rest.map((place) => settlements[place]!.reservationId));
    rest.forEach((place, at) => {
      items[place] = { accepted: 0, duplicates: 0, ...(items[place] as Settled | undefined), settled: ended[at]! };
    });
    return items as Item<Settled>[];
  }

  return {
    async create(input: Input<'create'>, caller: Caller): Promise<Budget> {
      const { scope, limit, measure = 'meter', meter: key, ...fields } = input;
      const { merchantId = caller.merchantId ?? '', team = '', userId = '', apiKey = '', model = '' } = scope;
      assertMayName(caller, merchantId);
      const meter = key === undefined ? null : await meterOf(key, merchantId);
      const budget: NewBudget = {
        ...{ ...fields, measure, meter },
        name: fields.name ?? `${key ?? measure} by ${fields.period}`,
        ...{ merchantId, team, userId, apiKey, model },
        limit: unitsOf({ measure, meter }, limit, 'limit').toString(),
        createdBy: caller.id,
      };
      const row = await store.create(budget, new Date(now()));
      await publish(row);
      return present(row);
    },
    async update({ id, limit, ...change }: Input<'update'>, caller: Caller): Promise<Budget> {
      const before = await known(id, caller);
      const units = limit === undefined ? {} : { limit: unitsOf(before, limit, 'limit').toString() };
      const fields = Object.entries(change).filter(([, value]) => value !== undefined);
      const row = await store.update(id, { ...Object.fromEntries(fields), ...units }, new Date(now()));
      await publish(row);
      return present(row);
    },
    async remove({ id }: Input<'remove'>, caller: Caller): Promise<Budget> {
      await known(id, caller);
      const row = await store.remove(id, new Date(now()));
      await publish(row);
      return present(row);
    },
    get: async ({ id }: Input<'get'>, caller: Caller): Promise<Budget> => present(await known(id, caller)),
    async list({ limit, cursor, ...question }: Input<'list'>, caller: Caller): Promise<Output<'list'>> {
      if (question.merchantId !== undefined) assertMerchant(caller, question.merchantId);
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, { budgets: question }, z.tuple([z.uuid()]));
      const merchantId = question.merchantId ?? caller.merchantId ?? undefined;
      const rows = await store.list({ merchantId, search: question.search, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows: rows.map(present), nextCursor: last ? encodeCursor([last.id], { budgets: question }) : null };
    },

    async status({ id, ids, merchantId: asked }: Input<'status'>, caller: Caller): Promise<Output<'status'>> {
      if (asked !== undefined) assertMerchant(caller, asked);
      // Ids are stored in lower case.
      const own = id === undefined ? undefined : (await known(id, caller)).id;
      const merchantId = asked ?? caller.merchantId ?? undefined;
      const list = await listNow();
      const at = now();
      const wanted = ids && new Set(ids.map((each) => each.toLowerCase()));
      const chosen = list.budgets
        .filter(
          (budget) =>
            (own === undefined || budget.id === own) &&
            (wanted?.has(budget.id) ?? true) &&
            (merchantId === undefined || budget.merchantId === merchantId),
        )
        .flatMap((budget) => {
          const span = list.spanOf(budget.id, at);
          return span ? [{ budget, span }] : [];
        });
      const slots = chosen.map(({ budget, span }) => slotOf(budget.id, span.start));
      const read = await ledger.read(slots).catch((): undefined[] => slots.map(() => undefined));
      const missing = read.includes(undefined);
      const spends = missing ? await store.spends(new Date(at)) : [];
      const stored = new Map(spends.map(({ budgetId, start, spent }) => [slotOf(budgetId, start), spent]));
      const rows = chosen.map(({ budget, span }, index): BudgetStatus => {
        const live = read[index];
        const { used, reserved } = live ?? { used: stored.get(slots[index]!) ?? 0n, reserved: 0n };
        const [limit, spent] = [BigInt(budget.limit), used - reserved];
        const format = formatOf(budget);
        return {
          budgetId: budget.id,
          name: budget.name,
          scope: scopeOf(budget),
          periodStart: new Date(span.start).toISOString(),
          periodEnd: span.ends === null ? null : new Date(span.ends).toISOString(),
          limit: format(limit),
          spent: format(spent),
          reserved: format(reserved),
          remaining: format(limit - used),
          percent: percentOf(spent, limit),
          complete: live !== undefined,
        };
      });
      return { rows };
    },

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

/** A bound caller may define only budgets of its own merchant. */
function assertMayName(caller: Caller, merchantId: string): void {
  if (merchantId !== '') assertMerchant(caller, merchantId);
}

/** Returns the merchant of a reservation; its own id has no slash. */
function merchantOf(reservationId: string, caller: Caller): string {
  const at = reservationId.lastIndexOf('/');
  if (at < 1) throw new TallyError('INVALID_INPUT', 'reservationId: Expected what budgets.reserve answered.');
  const merchantId = reservationId.slice(0, at);
  assertMerchant(caller, merchantId);
  return merchantId;
}

const own = (amounts: Record<string, string>, key: string) => (Object.hasOwn(amounts, key) ? amounts[key] : undefined);

type Measured = Pick<BudgetRow, 'measure' | 'meter'>;

const formatOf = (budget: Measured) => (units: Units) => formatQuantity(budget.measure, units, scaleOfBudget(budget));

function unitsOf(budget: Measured, text: string, field: string): Units {
  const units = parseQuantity(budget.measure, text, scaleOfBudget(budget));
  if (units !== undefined && units <= MAX_SUM_UNITS / 10n) return units;
  const decimals = budget.measure === 'cost' ? 9 : (budget.meter?.scale ?? 0);
  const rule = decimals === 0 ? 'a whole number' : `${unitOfBudget(budget)} with at most ${decimals} decimals`;
  throw new TallyError(
    'INVALID_INPUT',
    `${field}: Expected ${rule}, from 0 to ${formatOf(budget)(MAX_SUM_UNITS / 10n)}.`,
  );
}

const digestOf = (value: unknown) => hash('sha256', JSON.stringify(value), 'base64url').slice(0, 16);

type Scoped = Pick<BudgetRow, 'merchantId' | 'team' | 'userId' | 'apiKey' | 'model'>;

const scopeOf = ({ merchantId, team, userId, apiKey, model }: Scoped): Budget['scope'] => ({
  merchantId: merchantId || null,
  team: team || null,
  userId: userId || null,
  apiKey: apiKey || null,
  model: model || null,
});

function present(row: BudgetRow): Budget {
  return {
    id: row.id,
    name: row.name,
    scope: scopeOf(row),
    measure: row.measure === 'meter' ? null : row.measure,
    meter: row.meter?.key ?? null,
    unit: unitOfBudget(row),
    limit: formatOf(row)(BigInt(row.limit)),
    period: row.period,
    timeZone: row.timeZone,
    enforcement: row.enforcement,
    whenUnavailable: row.whenUnavailable,
    thresholds: row.thresholds,
    createdAt: row.createdAt.toISOString(),
    createdBy: row.createdBy,
    removedAt: row.removedAt?.toISOString() ?? null,
  };
}
