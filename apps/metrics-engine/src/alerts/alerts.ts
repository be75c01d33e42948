import {
  type Alert,
  type engine,
  formatQuantity,
  MINUTE_MS,
  percentOf,
  TallyError,
  type Units,
} from '@tally/contracts';
import { type AlertRow, type BudgetRow, type Db, scaleOfBudget, unitOfBudget } from '@tally/db';
import { type Caller, decodeCursor, encodeCursor, groupBy, type Loop, startLoop } from '@tally/service';
import { z } from 'zod';
import type { Custom } from '../custom/custom.ts';
import type { Drain } from '../fresh.ts';
import { createMeasure, type Measured, type Spending, silenceOf } from './measure.ts';
import { messageOf } from './message.ts';

type Input<Name extends keyof typeof engine.alerts> = z.output<(typeof engine.alerts)[Name]['input']>;

const CHECK_MS = 5_000;
/** The interval of checks for rules that read much. */
const SLOW_MS = MINUTE_MS;
/** Rules of a pass that are checked at once. */
const AT_ONCE = 2;
/**
 * Rules that are checked by one loop each: a custom metric may take many seconds, and thousands of meters take many,
 * too.
 */
const LOOPS: readonly (readonly AlertRow['on'][])[] = [['silence', 'rejections', 'drift'], ['meter'], ['custom']];

export type Alerts = ReturnType<typeof createAlerts>;

/** Alert rules: checked by every engine, fired by whichever comes first, once per period and threshold. */
export function createAlerts(options: {
  db: Pick<Db, 'alerts' | 'budgets' | 'meters' | 'sources' | 'checks' | 'usage'>;
  custom: Pick<Custom, 'measure' | 'get'>;
  drain: Drain;
  now: () => number;
  onError(error: unknown): void;
}) {
  const { db, drain, now } = options;
  const { measure, assertTarget } = createMeasure(options);
  /** When this process checked each rule last, and in which period it looked at the one before. */
  const looks = new Map<string, { at: number; period?: number }>();

  /** The budgets as this process last read them: thousands take longer to read than all that is spent of them. */
  let active: { version: string; budgets: ReadonlyMap<string, BudgetRow> } | undefined;

  async function spending(): Promise<Spending> {
    const at = now();
    if (active === undefined || (await db.budgets.version()) !== active.version) {
      const { version, budgets } = await db.budgets.active();
      active = { version, budgets: new Map(budgets.map((budget) => [budget.id, budget])) };
    }
    const { budgets } = active;
    const spends = budgets.size === 0 ? [] : await db.budgets.spends(new Date(at));
    return { budgets, spends: groupBy(spends, ({ budgetId }) => budgetId), at, flush: drain };
  }

  async function fireThresholds({ budgets, spends }: Spending): Promise<void> {
    const reached = [...spends.values()].flat().flatMap(({ budgetId, start, ends, spent }) => {
      const budget = budgets.get(budgetId);
      // Without one, it was made since the budgets were read.
      if (!budget || (ends !== null && ends <= Number(budget.thresholdsSince))) return [];
      const limit = BigInt(budget.limit);
      return budget.thresholds
        .filter((threshold) => limit > 0n && spent * 100n >= BigInt(threshold) * limit)
        .map((percent) => ({
          ...{ budget, spent, limit, percent, threshold: String(percent) },
          ...{ rule: `budget:${budgetId}`, periodStart: new Date(start) },
        }));
    });
    // Most have fired at an earlier check, so all of them are looked up together.
    for (const each of await db.alerts.unfired(reached)) {
      const { budget, spent, limit, percent: threshold } = each;
      const format = (units: Units) => formatQuantity(budget.measure, units, scaleOfBudget(budget));
      const unit = unitOfBudget(budget);
      const text = `Budget ${budget.name}: ${format(spent)} of ${format(limit)} ${unit} used, ${threshold} % reached.`;
      const measure = budget.meter?.key ?? budget.measure;
      const data = {
        ...{ budgetId: budget.id, name: budget.name, merchantId: budget.merchantId || null, measure, unit, threshold },
        ...{ spent: format(spent), limit: format(limit), percent: percentOf(spent, limit) },
        periodStart: each.periodStart.toISOString(),
      };
      await fire({
        ...{ rule: each.rule, periodStart: Number(each.periodStart), threshold: each.threshold },
        ...{ event: 'budget.threshold', value: format(spent), text, data, webhookIds: [] },
      });
    }
  }

  async function fire(firing: {
    rule: string;
    periodStart: number;
    threshold: string;
    event: 'budget.threshold' | 'alert.fired' | 'source.rejected' | 'drift.found';
    value: string | null;
    text: string;
    data: object;
    webhookIds: readonly string[];
  }): Promise<void> {
    const { rule, threshold, event, value, text, data, webhookIds } = firing;
    const at = new Date(now());
    const body = messageOf(event, Number(at), text, data);
    const periodStart = new Date(firing.periodStart);
    await db.alerts.fire({ rule, periodStart, threshold, event, data: { value, text }, body, at, webhookIds });
  }

  /** Checks one rule as of a moment before its flush; `open` has those that fired and did not end. */
  async function check(rule: AlertRow, open: ReadonlySet<string>, as: Pick<Spending, 'at' | 'flush'>): Promise<void> {
    const spent = { ...NO_BUDGETS, ...as };
    const measured = await measure(rule, spent);
    if (!measured) return;
    await lookBack(rule, spent, measured.periodStart);
    await (measured.fires ? fireRule(rule, measured) : end(rule, measured, open));
  }

  async function end(rule: AlertRow, measured: Measured, open: ReadonlySet<string>): Promise<void> {
    // These are not below their alert again before their next period.
    if (EVENTS[rule.on] || !open.has(rule.id)) return;
    const at = new Date(now());
    const event = 'alert.resolved';
    const body = messageOf(event, Number(at), `${rule.name}: resolved.`, dataOf(rule, measured));
    await db.alerts.resolve({ rule: rule.id, event, body, at, webhookIds: rule.webhookIds });
  }

  /** Returns those of these rules that have not fired in their periods yet: most of what fires has fired before. */
  const unfired = (fires: readonly { rule: AlertRow; measured: Measured }[]) =>
    db.alerts.unfired(
      fires.map(({ rule: own, measured }) => {
        const { periodStart, threshold } = measured;
        return { rule: own.id, periodStart: new Date(periodStart), threshold, own, measured };
      }),
    );

  /** Checks rules on silence. Only usage of merchants that seem to be silent since the last check is flushed first. */
  async function checkSilence(rules: readonly AlertRow[], open: ReadonlySet<string>): Promise<void> {
    const at = now();
    const silent: { rule: AlertRow; measured: Measured }[] = [];
    await eachOf(rules, async (rule) => {
      const last = await db.alerts.lastEventAt(rule.target);
      if (last === undefined) return;
      const measured = silenceOf(rule, last, at);
      if (measured.fires) silent.push({ rule, measured });
      else await end(rule, measured, open);
    });
    const fresh = await unfired(silent);
    const flush = await flushFor(fresh);
    await eachOf(fresh, ({ own }) => check(own, open, { at, flush }));
  }

  /** Flushes once for many rules. Each flushes its own merchant where that left out any, or there is one rule. */
  async function flushFor(rules: readonly unknown[]): Promise<Drain> {
    if (rules.length < 2) return drain;
    const all = await drain(null);
    return all.complete ? async () => all : drain;
  }

  /** Does work for each item, some at once; what fails for one does not stop the others. */
  async function eachOf<Item>(items: readonly Item[], work: (item: Item) => Promise<void>): Promise<void> {
    const left = items.values();
    const worker = async () => {
      for (const item of left) await work(item).catch(options.onError);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  const fireRule = (rule: AlertRow, measured: Measured) => {
    const { periodStart, threshold, value, text } = measured;
    return fire({
      ...{ rule: rule.id, periodStart, threshold, value, text },
      event: EVENTS[rule.on] ?? 'alert.fired',
      ...{ data: dataOf(rule, measured), webhookIds: rule.webhookIds },
    });
  };

  /** Fires for the period before, once: it may have passed its limit after its last check, or while no engine ran. */
  async function lookBack(rule: AlertRow, spent: Spending, period: number): Promise<void> {
    const { above, percentOf: ofLimit } = rule.condition;
    const limitSince = ofLimit && spent.budgets.get(rule.target)?.thresholdsSince;
    if (above === undefined || Math.max(Number(rule.createdAt), Number(limitSince ?? 0)) >= period) return;
    const look = looks.get(rule.id);
    if (!look || look.period === period) return;
    const before = await measure(rule, { ...spent, at: period - 1 });
    if (before?.fires) await fireRule(rule, before);
    if (before) look.period = period;
  }

  /** Fires thresholds of budgets, and checks rules on budgets. */
  async function runBudgets(): Promise<void> {
    const spent = await spending();
    await fireThresholds(spent);
    const fires: { rule: AlertRow; measured: Measured }[] = [];
    for (const rule of await db.alerts.alerts()) {
      if (rule.on !== 'budget') continue;
      if (!looks.has(rule.id)) looks.set(rule.id, { at: performance.now() });
      try {
        const measured = await measure(rule, spent);
        if (!measured) continue;
        await lookBack(rule, spent, measured.periodStart);
        if (measured.fires) fires.push({ rule, measured });
      } catch (error) {
        options.onError(error);
      }
    }
    for (const { own, measured } of await unfired(fires)) await fireRule(own, measured).catch(options.onError);
  }

  /** Checks rules of these kinds, each at most once a minute; one that cannot be measured does not stop the others. */
  async function runOthers(kinds: readonly AlertRow['on'][]): Promise<void> {
    const rules = await db.alerts.alerts();
    const due = rules.filter(({ id, on }) => {
      const look = looks.get(id);
      return kinds.includes(on) && !(look && performance.now() - look.at < SLOW_MS);
    });
    for (const { id } of due) looks.set(id, { ...looks.get(id), at: performance.now() });
    const known = new Set(rules.map(({ id }) => id));
    for (const id of looks.keys()) if (!known.has(id)) looks.delete(id);
    if (due.length === 0) return;
    // A day that begins after the flush waits for the next pass: only then is all usage of the day before flushed.
    const at = now();
    const open = await db.alerts.open(due.map(({ id }) => id));
    const [silence, others] = [due.filter(({ on }) => on === 'silence'), due.filter(({ on }) => on !== 'silence')];
    await checkSilence(silence, open).catch(options.onError);
    const flush = await flushFor(others.filter(({ on }) => on === 'meter'));
    await eachOf(others, (rule) => check(rule, open, { at, flush }));
  }

  async function assertWebhooks(ids: readonly string[], before: readonly string[] = []): Promise<void> {
    const there = new Set([...before, ...(await db.alerts.webhooks()).map(({ id }) => id)]);
    const missing = ids.find((id) => !there.has(id));
    if (missing !== undefined) throw new TallyError('NOT_FOUND', `There is no webhook ${missing}.`);
  }

  async function known(id: string): Promise<AlertRow> {
    const rule = (await db.alerts.alerts()).find((each) => each.id === id);
    if (!rule) throw new TallyError('NOT_FOUND', `There is no alert rule ${id}.`);
    return rule;
  }

  return {
    /** Checks all rules once. */
    async run(): Promise<void> {
      await runBudgets();
      for (const kinds of LOOPS) await runOthers(kinds);
    },
    /** Checks rules until it is stopped. Rules that take long delay only those of their kind. */
    start(): Loop {
      const checks = [runBudgets, ...LOOPS.map((kinds) => () => runOthers(kinds))];
      const loops = checks.map((check) => startLoop(CHECK_MS, check, options.onError));
      return { stop: async () => void (await Promise.all(loops.map((loop) => loop.stop()))) };
    },
    async create(input: Input<'create'>, caller: Caller): Promise<Alert> {
      // Budgets and custom metrics have ids in lower case; names of merchants and meters stay as they are.
      const hasId = input.on === 'budget' || input.on === 'custom';
      const rule = { ...input, target: hasId ? input.target.toLowerCase() : input.target };
      await assertTarget(rule);
      await assertWebhooks(rule.webhookIds);
      return present(await db.alerts.createAlert({ ...rule, createdBy: caller.id }));
    },
    async update({ id, name, webhookIds }: Input<'update'>): Promise<Alert> {
      // Removed webhooks that the rule has already may stay.
      if (webhookIds) await assertWebhooks(webhookIds, (await known(id)).webhookIds);
      const change = { ...(name !== undefined && { name }), ...(webhookIds !== undefined && { webhookIds }) };
      return present(await db.alerts.changeAlert(id, change));
    },
    list: async () => ({ rows: (await db.alerts.alerts()).map(present) }),
    remove: async ({ id }: Input<'remove'>): Promise<Alert> =>
      present(await db.alerts.changeAlert(id, { removedAt: new Date(now()) })),
    async test({ id }: Input<'test'>) {
      const measured = await measure(await known(id), await spending());
      const { fires = false, value = null, periodStart = now() } = measured ?? {};
      return { fires, value, periodStart: new Date(periodStart).toISOString() };
    },
    async history({ limit, cursor, ...question }: Input<'history'>) {
      const [before] =
        cursor === undefined
          ? []
          : decodeCursor(cursor, { history: question }, z.tuple([z.string().regex(/^\d{1,18}$/)]));
      const rows = await db.alerts.firings({ rule: question.rule, before, limit });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return {
        nextCursor: last ? encodeCursor([last.id], { history: question }) : null,
        rows: rows.map((row) => ({
          ...{ rule: row.rule, event: row.event, periodStart: row.period_start, threshold: row.threshold },
          ...{ value: row.data.value, text: row.data.text, firedAt: row.fired_at, resolvedAt: row.resolved_at },
        })),
      };
    },
  };
}

const NO_BUDGETS = { budgets: new Map<string, never>(), spends: new Map<string, never>() };

const dataOf = (rule: AlertRow, { value, threshold, periodStart }: Measured) => ({
  ...{ alertId: rule.id, name: rule.name, on: rule.on, target: rule.target, value, threshold },
  periodStart: new Date(periodStart).toISOString(),
});

/** Rules that are sent as an event of their own. */
const EVENTS: Partial<Record<AlertRow['on'], 'source.rejected' | 'drift.found'>> = {
  rejections: 'source.rejected',
  drift: 'drift.found',
};

function present(row: AlertRow): Alert {
  const { id, name, on, target, condition, webhookIds, createdBy } = row;
  return { id, name, on, target, condition, webhookIds, createdAt: row.createdAt.toISOString(), createdBy };
}
