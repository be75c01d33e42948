import {
  DAY_MS,
  type Day,
  dayOf,
  type engine,
  formatQuantity,
  formatUnits,
  isMeasure,
  MINUTE_MS,
  parseQuantity,
  startOfDay,
  TallyError,
  type Units,
} from '@tally/contracts';
import {
  type AlertRow,
  type BudgetRow,
  type BudgetSpend,
  type Db,
  REJECTIONS_KEPT,
  scaleOfBudget,
  unitOfBudget,
} from '@tally/db';
import { z } from 'zod';
import type { Custom } from '../custom/custom.ts';
import type { Drain } from '../fresh.ts';

/** The current value that a rule watches. */
export type Measured = {
  fires: boolean;
  value: string | null;
  /** One firing per start. */
  periodStart: number;
  threshold: string;
  text: string;
};

/** Spend of budgets at a moment, and how other usage is flushed before it is measured. */
export type Spending = {
  budgets: ReadonlyMap<string, BudgetRow>;
  /** By budget. */
  spends: ReadonlyMap<string, readonly BudgetSpend[]>;
  at: number;
  flush: Drain;
};

export type Measure = {
  /** Measures what a rule watches; undefined while that is unknown, or there is nothing to compare. */
  measure(rule: AlertRow, spending: Spending): Promise<Measured | undefined>;
  /** Throws NOT_FOUND if a new rule watches nothing, and INVALID_INPUT if its limit does not fit to what it watches. */
  assertTarget(rule: z.output<(typeof engine.alerts)['create']['input']>): Promise<void>;
};

/** Reads custom metrics of all. */
const VIEWER = { id: 'alerts', merchantId: null, teamId: null, all: true };
/** A forecast after less than this part of a period is meaningless. */
const FORECAST_FROM = 20n;
const TOTAL_TOKENS = 'total_tokens';
/** Built-in meters whose sums of a day are kept for each merchant. */
const isBuiltIn = (key: string) => key === TOTAL_TOKENS || isMeasure(key);

/** What each kind of rule watches. */
export function createMeasure({
  db,
  custom,
}: {
  db: Pick<Db, 'alerts' | 'budgets' | 'meters' | 'sources' | 'checks' | 'usage'>;
  custom: Pick<Custom, 'measure' | 'get'>;
}): Measure {
  /** The declared meter of a rule: of one merchant its own first, else the one for all. */
  async function meterOf(target: string) {
    const at = target.lastIndexOf('/');
    const [merchantId, key] = at < 0 ? [null, target] : [target.slice(0, at), target.slice(at + 1)];
    const own = merchantId === null ? undefined : await db.meters.find({ key, merchantId });
    return { meter: own ?? (await db.meters.find({ key, merchantId: '' })), merchantId, key };
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
    const merchantIds = merchantId === null ? undefined : [merchantId];
    const scope = { merchantIds, starts: [start], end: start + DAY_MS, groupBy: [], filters: {}, limit: 1 };
    const [row] = await db.meters.read(meter, scope);
    if (!row) return null;
    const isCounted = meter.aggregation === 'COUNT' || meter.aggregation === 'UNIQUE';
    return formatUnits(BigInt(row.value), isCounted ? 0 : meter.scale);
  }

  const kinds: Record<AlertRow['on'], Measure['measure']> = {
    async silence(rule, { at, flush }) {
      const { complete } = await flush(rule.target);
      const last = await db.alerts.lastEventAt(rule.target);
      // If not everything is flushed, there may be newer events.
      return complete && last !== undefined ? silenceOf(rule, last, at) : undefined;
    },

    async budget(rule, { budgets, spends, at }) {
      const { above, forecastAbove, percentOf: ofLimit } = rule.condition;
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
        // A percentage is reached by as much, but nothing is reached by nothing.
        fires: spent > bound || (ofLimit !== undefined && spent >= bound && spent > 0n),
        value,
        periodStart: period.start,
        threshold: `${wanted}${ofLimit ? '%' : ''}`,
        text: `${rule.name}: ${value} ${unitOfBudget(budget)} ${what} of budget ${budget.name}.`,
      };
    },

    async rejections(rule, { at }) {
      const day = dayOf(at);
      const rows = await db.sources.rejections({ source: rule.target, limit: REJECTIONS_KEPT });
      const today = rows.filter((row) => dayOf(Number(row.at)) === day);
      return countedOn(day, rule, today.length, (value) => {
        const last = today[0]?.code ?? 'none';
        return `source ${rule.target} had ${value} events rejected today, the last one: ${last}.`;
      });
    },

    async drift(rule, { at }) {
      const day = dayOf(at);
      const { numbers = 0, examples: [example] = [] } = (await db.checks.driftOn(day)) ?? {};
      const where = example
        ? `, one of ${example.merchantId || 'all merchants'} on ${example.date} (${example.what})`
        : '';
      return countedOn(day, rule, numbers, (value) => `reconciliation found ${value} numbers that differ${where}.`);
    },

    async meter(rule, { at, flush }) {
      const day = dayOf(at);
      const value = await valueOfMeter(rule.target, day, flush);
      return value === undefined ? undefined : comparedTo(rule, value, day);
    },

    async custom(rule, { at }) {
      const day = dayOf(at);
      const value = await custom.measure(VIEWER, { id: rule.target, startDate: day, endDate: day, merchantId: null });
      return comparedTo(rule, value, day);
    },
  };

  return {
    measure: (rule, spending) => kinds[rule.on](rule, spending),

    async assertTarget({ on, target, condition }) {
      if (on === 'budget') {
        const budget = z.uuid().safeParse(target).success ? await db.budgets.find(target) : undefined;
        if (!budget || budget.removedAt) throw new TallyError('NOT_FOUND', `There is no budget ${target}.`);
        const wanted = (condition.above ?? condition.forecastAbove)!;
        const measure = condition.percentOf ? 'cost' : budget.measure;
        if (parseQuantity(measure, wanted, scaleOfBudget(budget)) === undefined) {
          const unit = unitOfBudget(budget);
          throw new TallyError('INVALID_INPUT', `condition: Expected an amount of ${unit}, not ${wanted}.`);
        }
      }
      if (on === 'meter') {
        const { meter, key } = await meterOf(target);
        if (!meter && !isBuiltIn(key)) throw new TallyError('NOT_FOUND', `There is no meter ${target}.`);
        if (meter?.aggregation === 'PERCENTILE')
          throw new TallyError('INVALID_INPUT', 'target: A PERCENTILE meter has no single value; use a custom metric.');
      }
      if (on === 'custom') {
        if (!z.uuid().safeParse(target).success)
          throw new TallyError('NOT_FOUND', `There is no custom metric ${target}.`);
        await custom.get(VIEWER, target);
      }
    },
  };
}

/** Compares a count of a UTC day with the limit of a rule. */
function countedOn(day: Day, rule: AlertRow, count: number, textOf: (value: string) => string): Measured {
  const [value, threshold] = [`${count}`, rule.condition.above!];
  const text = `${rule.name}: ${textOf(value)}`;
  return { fires: count > Number(threshold), value, periodStart: startOfDay(day), threshold, text };
}

/** Compares the silence of a merchant since its last event with the minutes of a rule. */
export function silenceOf({ target, condition: { minutes } }: AlertRow, last: Date, at: number): Measured {
  const silent = Math.floor((at - Number(last)) / MINUTE_MS);
  return {
    fires: silent >= minutes!,
    value: String(Math.max(silent, 0)),
    periodStart: Number(last),
    threshold: String(minutes),
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
    value,
    periodStart: startOfDay(day),
    threshold: wanted,
    text: `${rule.name}: ${value} is ${above === undefined ? 'below' : 'above'} ${wanted}.`,
  };
}

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
