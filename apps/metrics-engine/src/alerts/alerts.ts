import {
  type Alert,
  DAY_MS,
  type Day,
  dayOf,
  type engine,
  formatQuantity,
  formatUnits,
  isMeasure,
  MINUTE_MS,
  parseQuantity,
  percentOf,
  startOfDay,
  TallyError,
  type Units,
} from '@tally/contracts';
import {
  type AlertRow,
  type BudgetRow,
  type BudgetSpend,
  type Db,
  type MeterRow,
  REJECTIONS_KEPT,
  scaleOfBudget,
  unitOfBudget,
} from '@tally/db';
import { type Caller, decodeCursor, encodeCursor, type Loop, startLoop } from '@tally/service';
import { z } from 'zod';
import type { Custom } from '../custom/custom.ts';
import type { Drain } from '../fresh.ts';
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
/** A forecast after less than this part of a period is meaningless. */
const FORECAST_FROM = 20n;

/** The current value that a rule watches. */
type Measured = {
  fires: boolean;
  value: string | null;
  /** One firing per start. */
  periodStart: number;
  threshold: string;
  text: string;
};

export type Alerts = ReturnType<typeof createAlerts>;

/** Alert rules: checked by every engine, fired by whichever comes first, once per period and threshold. */
export function createAlerts(options: {
  db: Pick<Db, 'alerts' | 'budgets' | 'meters' | 'sources' | 'checks' | 'usage'>;
  custom: Pick<Custom, 'measure' | 'get'>;
  drain: Drain;
  now: () => number;
  onError(error: unknown): void;
}) {
  const { db, custom, drain, now } = options;
  /** When this process checked each rule last, and in which period it looked at the one before. */
  const looks = new Map<string, { at: number; period?: number }>();

  /** The budgets as this process last read them: thousands take longer to read than all that is spent of them. */
  let active: { version: string; budgets: ReadonlyMap<string, BudgetRow> } | undefined;

  /** Spend of budgets at a moment, and how other usage is flushed before it is measured. */
  type Spending = {
    budgets: ReadonlyMap<string, BudgetRow>;
    /** By budget. */
    spends: ReadonlyMap<string, readonly BudgetSpend[]>;
    at: number;
    flush: Drain;
  };
  async function spending(): Promise<Spending> {
    const at = now();
    if (active === undefined || (await db.budgets.version()) !== active.version) {
      const { version, budgets } = await db.budgets.active();
      active = { version, budgets: new Map(budgets.map((budget) => [budget.id, budget])) };
    }
    const { budgets } = active;
    const spends = new Map<string, BudgetSpend[]>();
    for (const each of budgets.size === 0 ? [] : await db.budgets.spends(new Date(at))) {
      const known = spends.get(each.budgetId);
      if (known) known.push(each);
      else spends.set(each.budgetId, [each]);
    }
    return { budgets, spends, at, flush: drain };
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

  async function measure(rule: AlertRow, { budgets, spends, at, flush }: Spending): Promise<Measured | undefined> {
    const { above, forecastAbove, percentOf: ofLimit } = rule.condition;
    if (rule.on === 'silence') {
      const { complete } = await flush(rule.target);
      const last = await db.alerts.lastEventAt(rule.target);
      // If not everything is flushed, there may be newer events.
      return complete && last !== undefined ? silenceOf(rule, last, at) : undefined;
    }
    if (rule.on === 'budget') {
      const budget = budgets.get(rule.target);
      const period = spends.get(rule.target)?.find(({ start, ends }) => at >= start && (ends === null || at < ends));
      if (!budget || !period) return undefined;
      const spent = forecastAbove === undefined ? period.spent : forecastOf(period, at);
      const wanted = (forecastAbove ?? above)!;
      const bound = ofLimit
        ? percentUnits(wanted, BigInt(budget.limit))
        : parseQuantity(budget.measure, wanted, scaleOfBudget(budget));
      if (spent === undefined || bound === undefined) return undefined;
      const value = formatQuantity(budget.measure, spent, scaleOfBudget(budget));
      const what = forecastAbove === undefined ? 'used' : 'expected by the end of the period';
      return {
        fires: spent > bound || (ofLimit !== undefined && spent >= bound),
        ...{ value, periodStart: period.start, threshold: `${wanted}${ofLimit ? '%' : ''}` },
        text: `${rule.name}: ${value} ${unitOfBudget(budget)} ${what} of budget ${budget.name}.`,
      };
    }
    const day = dayOf(at);
    if (rule.on === 'rejections') {
      const rows = await db.sources.rejections({ source: rule.target, limit: REJECTIONS_KEPT });
      const today = rows.filter((row) => dayOf(Number(row.at)) === day);
      const value = `${today.length}`;
      const text = `${rule.name}: source ${rule.target} had ${value} events rejected today, the last one: ${today[0]?.code ?? 'none'}.`;
      return { fires: today.length > Number(above), value, periodStart: startOfDay(day), threshold: above!, text };
    }
    if (rule.on === 'drift') {
      const { numbers = 0, examples: [example] = [] } = (await db.checks.driftOn(day)) ?? {};
      const where = example
        ? `, one of ${example.merchantId || 'all merchants'} on ${example.date} (${example.what})`
        : '';
      const text = `${rule.name}: reconciliation found ${numbers} numbers that differ${where}.`;
      return {
        fires: numbers > Number(above),
        ...{ value: `${numbers}`, periodStart: startOfDay(day), threshold: above!, text },
      };
    }
    if (rule.on === 'meter') {
      const value = await valueOfMeter(rule.target, day, flush);
      return value === undefined ? undefined : comparedTo(rule, value, day);
    }
    const value = await custom.measure(VIEWER, { id: rule.target, startDate: day, endDate: day, merchantId: null });
    return comparedTo(rule, value, day);
  }

  /** Reads the value of a meter on a UTC day; undefined where the meter is gone, or not all is flushed. */
  async function valueOfMeter(target: string, day: Day, flush: Drain): Promise<string | null | undefined> {
    const { meter, merchantId, key } = await meterOf(target);
    if (!meter && !isBuiltIn(key)) return undefined;
    const { complete } = await flush(merchantId);
    if (!complete) return undefined;
    if (!meter) {
      const metricTypes = key === TOTAL_TOKENS ? ['prompt_tokens', 'completion_tokens'] : [key];
      const sum = await db.usage.sumOfDay(day, metricTypes, merchantId);
      return sum === null ? null : formatQuantity(key, sum);
    }
    const start = startOfDay(day);
    const [row] = await db.meters.read(meter, {
      ...{ merchantIds: merchantId === null ? undefined : [merchantId], starts: [start], end: start + DAY_MS },
      ...{ groupBy: [], filters: {}, limit: 1 },
    });
    if (!row) return null;
    return formatUnits(BigInt(row.value), isCounted(meter) ? 0 : meter.scale);
  }

  /** The declared meter of a rule: of one merchant its own first, else the one for all. */
  async function meterOf(
    target: string,
  ): Promise<{ meter: MeterRow | undefined; merchantId: string | null; key: string }> {
    const at = target.lastIndexOf('/');
    const [merchantId, key] = at < 0 ? [null, target] : [target.slice(0, at), target.slice(at + 1)];
    const own = merchantId === null ? undefined : await db.meters.find({ key, merchantId });
    return { meter: own ?? (await db.meters.find({ key, merchantId: '' })), merchantId, key };
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
      const row = { ...input, createdBy: caller.id };
      if (input.on === 'budget') await assertBudget(input);
      if (input.on === 'meter') await assertMeter(input.target);
      if (input.on === 'custom') await assertCustom(input.target);
      return present(await db.alerts.createAlert(row));
    },
    async update({ id, name, webhookIds }: Input<'update'>): Promise<Alert> {
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

  async function assertCustom(target: string): Promise<void> {
    if (!z.uuid().safeParse(target).success) throw new TallyError('NOT_FOUND', `There is no custom metric ${target}.`);
    await custom.get(VIEWER, target);
  }

  async function assertMeter(target: string): Promise<void> {
    const { meter, key } = await meterOf(target);
    if (!meter && !isBuiltIn(key)) throw new TallyError('NOT_FOUND', `There is no meter ${target}.`);
    if (meter?.aggregation === 'PERCENTILE')
      throw new TallyError('INVALID_INPUT', 'target: A PERCENTILE meter has no single value; use a custom metric.');
  }

  async function assertBudget({ target, condition }: Input<'create'>): Promise<void> {
    const budget = z.uuid().safeParse(target).success ? await db.budgets.find(target) : undefined;
    if (!budget || budget.removedAt) throw new TallyError('NOT_FOUND', `There is no budget ${target}.`);
    const wanted = (condition.above ?? condition.forecastAbove)!;
    const measure = condition.percentOf ? 'cost' : budget.measure;
    if (parseQuantity(measure, wanted, scaleOfBudget(budget)) === undefined)
      throw new TallyError('INVALID_INPUT', `condition: Expected an amount of ${unitOfBudget(budget)}, not ${wanted}.`);
  }
}

/** Reads custom metrics of all. */
const VIEWER = { id: 'alerts', merchantId: null, teamId: null, all: true };

const NO_BUDGETS = { budgets: new Map<string, never>(), spends: new Map<string, never>() };

/** Compares the silence of a merchant since its last event with the minutes of a rule. */
function silenceOf({ target, condition: { minutes } }: AlertRow, last: Date, at: number): Measured {
  const silent = Math.floor((at - Number(last)) / MINUTE_MS);
  return {
    fires: silent >= minutes!,
    ...{ value: String(Math.max(silent, 0)), periodStart: Number(last), threshold: String(minutes) },
    text: `No usage of ${target} for ${silent} minutes, since ${last.toISOString()}.`,
  };
}

/** Compares the value of a UTC day with the limit of a rule. */
function comparedTo(rule: AlertRow, value: string | null, day: Day): Measured {
  const { above, below } = rule.condition;
  const wanted = (above ?? below)!;
  const side = value === null ? 0 : compare(value, wanted);
  return {
    fires: value !== null && (above === undefined ? side < 0 : side > 0),
    ...{ value, periodStart: startOfDay(day), threshold: wanted },
    text: `${rule.name}: ${value} is ${above === undefined ? 'below' : 'above'} ${wanted}.`,
  };
}

const dataOf = (rule: AlertRow, { value, threshold, periodStart }: Measured) => ({
  ...{ alertId: rule.id, name: rule.name, on: rule.on, target: rule.target, value, threshold },
  periodStart: new Date(periodStart).toISOString(),
});

/** Rules that are sent as an event of their own. */
const EVENTS: Partial<Record<AlertRow['on'], 'source.rejected' | 'drift.found'>> = {
  rejections: 'source.rejected',
  drift: 'drift.found',
};

const TOTAL_TOKENS = 'total_tokens';
/** Built-in meters whose sums of a day are kept for each merchant. */
const isBuiltIn = (key: string) => key === TOTAL_TOKENS || isMeasure(key);

const isCounted = ({ aggregation }: MeterRow) => aggregation === 'COUNT' || aggregation === 'UNIQUE';

/** Projects the spend at the end of a period from the spend so far; undefined while too little of it has passed. */
function forecastOf({ start, ends, spent }: BudgetSpend, at: number): Units | undefined {
  if (ends === null) return undefined;
  const [whole, over] = [BigInt(ends - start), BigInt(Math.max(at - start, 0))];
  return over * FORECAST_FROM < whole ? undefined : (spent * whole) / over;
}

/** A percentage of a limit, rounded up to whole units: amounts of at least that have reached it. */
function percentUnits(percent: string, limit: Units): Units | undefined {
  const nano = parseQuantity('cost', percent);
  const divisor = 100n * 10n ** 9n;
  return nano === undefined ? undefined : (limit * nano + divisor - 1n) / divisor;
}

/** Compares two decimals exactly: negative, 0 or positive. */
export function compare(one: string, other: string): number {
  const decimals = Math.max(...[one, other].map((text) => text.split('.')[1]?.length ?? 0));
  const units = (text: string) => {
    const [whole, fraction = ''] = text.split('.') as [string, string?];
    return BigInt(whole + fraction.padEnd(decimals, '0'));
  };
  const difference = units(one) - units(other);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

function present(row: AlertRow): Alert {
  const { id, name, on, target, condition, webhookIds, createdBy } = row;
  return { id, name, on, target, condition, webhookIds, createdAt: row.createdAt.toISOString(), createdBy };
}
