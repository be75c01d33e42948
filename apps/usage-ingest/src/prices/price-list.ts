import {
  CALL_SIZES,
  DAY_MS,
  type Day,
  MAX_ENTRY_UNITS,
  OTHER,
  PRICED_PARTS,
  type PriceComponent,
  type PricedPart,
  type ScaleOf,
  startOfDay,
  type Units,
} from '@tally/contracts';
import { type JournalLine, NO_PRICE, type PricedUnits, type PriceRow, type UnitRates } from '@tally/db';
import { groupBy } from '@tally/service';

/** A version of the price list, ready to price events. */
export type PriceList = {
  readonly version: string;
  readonly isEmpty: boolean;
  /** Returns the cost of an event in nano-USD; `unknown` if a part of it has no price, `nothing` if none is due. */
  costOf(line: JournalLine, scaleOf?: ScaleOf): Units | 'unknown' | 'nothing';
  /**
   * Returns the rates of calls of a day with these sums, 0 of requests without a price; `unknown` where no tokens have a
   * price. `unclear` where not all of these calls have the same prices, so that only the events can tell.
   */
  ratesOf(calls: DayCalls, units: PricedUnits, metricTypes: ReadonlySet<string>): UnitRates | 'unknown' | 'unclear';
  /** The metric types that have a price. */
  readonly metricTypes: readonly string[];
};

/** Calls of a UTC day whose prompts are of one size; see `CALL_SIZES`. Negative: of several calls in one event. */
export type DayCalls = { merchant_id: string; provider: string; model: string; date: Day; call_size: number };

/** The price of each class that Tally keeps sums of. */
const COMPONENT_OF: Record<PricedPart, PriceComponent> = {
  priced_requests: 'request',
  priced_input_tokens: 'input',
  priced_cached_tokens: 'cached_input',
  priced_cache_write_tokens: 'cache_write',
  priced_output_tokens: 'output',
  priced_reasoning_tokens: 'reasoning',
};

/** Metric types whose amounts are classes of the prompt and the completion. */
const CLASSES = { cached: 'cached_tokens', cacheWrite: 'cache_write_tokens', reasoning: 'reasoning_tokens' };

/** Tokens of a class without its own price are charged as the class that contains them. */
const PART_OF: Partial<Record<PriceComponent, PriceComponent>> = {
  cached_input: 'input',
  cache_write: 'input',
  reasoning: 'output',
};

/** The limit of remembered (merchant, provider, model) triples. */
const MAX_RESOLVED = 10_000;

const AMOUNT_DECIMALS = 12;
/** From amounts of 10^-12 USD to nano-USD. */
const TO_NANO = 1_000n;

type Rate = { amount: bigint; per: bigint; over: bigint; from: number; to: number };
type Resolved = Map<string, Rate[]>;
type Term = { units: bigint; rate: Rate };

/**
 * Prices events: the most specific price of each component wins. A merchant's own price wins over a general one, then
 * an exact model over a pattern (the longest first) over any model, then a provider over any, then the highest
 * `overPromptTokens` that fits, then the latest `validFrom`.
 */
export function createPriceList({
  version,
  index: { general, own, metricTypes, size },
}: {
  version: string;
  index: PriceIndex;
}): PriceList {
  const resolved = new Map<string, Resolved>();

  function ratesFor({
    merchant_id,
    provider = '',
    model = '',
  }: Pick<JournalLine, 'merchant_id' | 'provider' | 'model'>) {
    const merchant = own.get(merchant_id);
    const key = `${merchant ? merchant_id : ''}\n${provider}\n${model}`;
    const known = resolved.get(key);
    if (known) return known;
    const ranked = [...(merchant?.matching(provider, model) ?? []), ...general.matching(provider, model)];
    const byComponent = groupBy(ranked, (row) => (row.component === 'unit' ? `unit:${row.meter}` : row.component));
    const rates = new Map([...byComponent].map(([component, rows]) => [component, rows.map(rateOf)]));
    if (resolved.size >= MAX_RESOLVED) resolved.delete(resolved.keys().next().value!);
    resolved.set(key, rates);
    return rates;
  }

  return {
    version,
    isEmpty: size() === 0,
    metricTypes: [...metricTypes],
    ratesOf(calls, units, typesOfDay) {
      if (calls.model === OTHER || calls.provider === OTHER) return 'unclear';
      const rates = ratesFor(calls);
      const from = startOfDay(calls.date);
      const rateAt = (component: PriceComponent) => {
        const parent = PART_OF[component];
        const rate = rateOfDay(rates.get(component) ?? [], from, calls.call_size);
        return rate ?? (parent && rateOfDay(rates.get(parent) ?? [], from, calls.call_size));
      };
      for (const type of typesOfDay) if (rates.has(`unit:${type}`)) return 'unclear';
      const found = new Map<PricedPart, Rate>();
      let lacking = false;
      for (const part of PRICED_PARTS) {
        if (units[part] === 0n) continue;
        const rate = rateAt(COMPONENT_OF[part]);
        if (rate === 'unclear') return 'unclear';
        if (rate) found.set(part, rate);
        else if (part !== 'priced_requests') lacking = true;
      }
      // Only tokens need a price. Calls without any sum may be of classes that are more than their sum.
      if (found.size === 0 && (lacking || units.priced_requests === 0n)) return 'unknown';
      if (lacking) return 'unclear';
      return unitRatesOf(found);
    },
    costOf(line, scaleOf = () => 0) {
      const rates = ratesFor(line);
      const prompt = BigInt(line.prompt_tokens ?? 0);
      const calls = BigInt(line.calls ?? 1);
      let unknown = false;

      function rateAt(component: string): Rate | undefined {
        for (const rate of rates.get(component) ?? []) {
          if (line.time < rate.from || line.time >= rate.to) continue;
          if (rate.over > 0n && prompt <= rate.over) continue;
          // For several calls in one event, the tokens of each are unknown.
          if (rate.over > 0n && calls > 1n) unknown = true;
          return rate;
        }
        return undefined;
      }

      const terms: Term[] = [];
      const charge = (component: PriceComponent, units: bigint) => {
        if (units === 0n) return;
        const parent = PART_OF[component];
        const rate = rateAt(component) ?? (parent && rateAt(parent));
        if (rate) terms.push({ units, rate });
        else unknown = true;
      };

      const classOf = (type: string) => BigInt(line.metrics?.[type] ?? 0);
      const completion = BigInt(line.completion_tokens ?? 0);
      const [cached, written, reasoning] = [
        classOf(CLASSES.cached),
        classOf(CLASSES.cacheWrite),
        classOf(CLASSES.reasoning),
      ];
      // Classes are parts of their sums. If they are not, the meaning is unknown.
      if (cached + written > prompt || reasoning > completion) return 'unknown';
      charge('input', prompt - cached - written);
      charge('cached_input', cached);
      charge('cache_write', written);
      charge('output', completion - reasoning);
      charge('reasoning', reasoning);
      const perRequest = line.failed ? undefined : rateAt('request');
      if (perRequest) terms.push({ units: calls, rate: perRequest });
      for (const type in line.metrics) {
        const rate = rateAt(`unit:${type}`);
        // Amounts of a line have the decimals of their metric type; prices are per whole unit.
        if (rate)
          terms.push({
            units: BigInt(line.metrics[type]!),
            rate: { ...rate, per: rate.per * 10n ** BigInt(scaleOf(type)) },
          });
      }
      if (unknown) return 'unknown';
      if (terms.length === 0) return 'nothing';
      const cost = sumOf(terms);
      return cost > MAX_ENTRY_UNITS ? 'unknown' : cost;
    },
  };
}

/**
 * Returns the line with the cost that Tally computes, and the version of the list. Returns the line itself if it has a
 * cost, or if nothing needs a price. The derived fields stand before the time, so that they are not part of the digest.
 */
export function priced(line: JournalLine, list: PriceList | undefined, scaleOf?: ScaleOf): JournalLine {
  // A list that is not loaded yet may have a price.
  const cost =
    list === undefined
      ? hasTokens(line)
        ? 'unknown'
        : 'nothing'
      : list.isEmpty
        ? 'nothing'
        : list.costOf(line, scaleOf);
  if (cost === 'nothing') return line;
  const { merchant_id, date, id, ...rest } = line;
  if (cost === 'unknown') return { merchant_id, date, id, price: NO_PRICE, ...rest };
  return {
    merchant_id,
    date,
    id,
    price: list!.version,
    ...(cost > 0n && { cost: cost.toString() }),
    ...rest,
  };
}

/** The rate that all calls of a day and a size have, of candidates in their order. */
function rateOfDay(candidates: readonly Rate[], from: number, size: number): Rate | 'unclear' | undefined {
  const until = from + DAY_MS;
  for (const rate of candidates) {
    if (rate.to <= from || rate.from >= until) continue;
    const passes = passesThreshold(rate.over, size);
    if (passes === false) continue;
    return passes === true && rate.from <= from && rate.to >= until ? rate : 'unclear';
  }
  return undefined;
}

/** Whether calls of a size have more prompt tokens than a threshold. */
function passesThreshold(over: bigint, size: number): boolean | 'unclear' {
  if (over === 0n) return true;
  const [least, most] = [CALL_SIZES[Math.abs(size) - 1] ?? 0, CALL_SIZES[Math.abs(size)]];
  if (most !== undefined && BigInt(most) <= over) return false;
  return size > 0 && BigInt(least) >= over ? true : 'unclear';
}

/** Rates as nano-USD of a unit over one divisor, the least one. */
export function unitRatesOf(rates: ReadonlyMap<PricedPart, Rate>): UnitRates {
  const common = [...rates.values()].reduce((all, { per }) => lcm(all, per), 1n);
  const amounts = [...rates].map(([part, { amount, per }]) => [part, amount * (common / per)] as const);
  const divisor = common * TO_NANO;
  const shared = amounts.reduce((all, [, amount]) => gcd(all, amount), divisor);
  const none = Object.fromEntries(PRICED_PARTS.map((part) => [part, 0n])) as PricedUnits;
  return {
    amounts: { ...none, ...Object.fromEntries(amounts.map(([part, amount]) => [part, amount / shared])) },
    per: divisor / shared,
  };
}

const hasTokens = (line: JournalLine) => line.prompt_tokens !== undefined || line.completion_tokens !== undefined;

/** Returns the exact sum of a call's terms, rounded once, half away from zero, to nano-USD. */
function sumOf(terms: readonly Term[]): Units {
  const per = terms.reduce((common, { rate }) => lcm(common, rate.per), 1n);
  const total = terms.reduce((sum, { units, rate }) => sum + units * rate.amount * (per / rate.per), 0n);
  const divisor = per * TO_NANO;
  // Amounts are never negative.
  return (2n * total + divisor) / (2n * divisor);
}

/** The least common multiple of two positive numbers. */
export const lcm = (a: bigint, b: bigint): bigint => (a / gcd(a, b)) * b;

function gcd(a: bigint, b: bigint): bigint {
  let [x, y] = [a, b];
  while (y !== 0n) [x, y] = [y, x % y];
  return x;
}

export type PriceIndex = ReturnType<typeof createPriceIndex>;

/** The prices of a list, found by merchant and model. They are added one by one, since a list can be long. */
export function createPriceIndex() {
  const general = createModelIndex();
  const own = new Map<string, ReturnType<typeof createModelIndex>>();
  const metricTypes = new Set<string>();
  let size = 0;
  return {
    general,
    own,
    metricTypes,
    size: () => size,
    add(row: PriceRow): void {
      size++;
      if (row.meter !== '') metricTypes.add(row.meter);
      const index = row.merchantId === '' ? general : (own.get(row.merchantId) ?? createModelIndex());
      index.add(row);
      if (row.merchantId !== '') own.set(row.merchantId, index);
    },
  };
}

/** Prices of one merchant, or the general ones, found by model. */
function createModelIndex() {
  const exact = new Map<string, PriceRow[]>();
  const patterns: { row: PriceRow; literals: number }[] = [];
  return {
    add(row: PriceRow): void {
      if (row.model.includes('*')) {
        patterns.push({ row, literals: row.model.replaceAll('*', '').length });
        return;
      }
      const known = exact.get(row.model);
      if (known) known.push(row);
      else exact.set(row.model, [row]);
    },
    /** Returns those that fit a provider and a model, the most specific first. */
    matching(provider: string, model: string): PriceRow[] {
      const fits = (row: PriceRow) => row.provider === '' || row.provider === provider;
      const matched = groupBy(
        patterns.filter(({ row }) => fits(row) && model !== '' && matches(row.model, model)),
        ({ literals }) => literals,
      );
      const longestFirst = [...matched].sort(([a], [b]) => b - a).map(([, group]) => group.map(({ row }) => row));
      const groups = [model === '' ? [] : (exact.get(model) ?? []), ...longestFirst, exact.get('') ?? []];
      return groups.flatMap((group) => group.filter(fits).sort(bySpecificity));
    },
  };
}

function bySpecificity(a: PriceRow, b: PriceRow): number {
  if ((a.provider === '') !== (b.provider === '')) return a.provider === '' ? 1 : -1;
  return (
    Number(b.overPromptTokens) - Number(a.overPromptTokens) ||
    Number(b.validFrom) - Number(a.validFrom) ||
    Number(BigInt(b.id) - BigInt(a.id))
  );
}

/** Returns true if a text matches a pattern in which `*` stands for any text, even none. */
export function matches(pattern: string, text: string): boolean {
  const [first, ...parts] = pattern.split('*') as [string, ...string[]];
  const last = parts.pop();
  if (last === undefined) return text === pattern;
  if (!text.startsWith(first) || text.length < first.length + last.length || !text.endsWith(last)) return false;
  let at = first.length;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= text.length - last.length;
}

function rateOf(row: PriceRow): Rate {
  const [whole, fraction = ''] = row.amount.split('.') as [string, string?];
  return {
    amount: BigInt(whole + fraction.padEnd(AMOUNT_DECIMALS, '0')),
    per: BigInt(row.per),
    over: BigInt(row.overPromptTokens),
    from: Number(row.validFrom),
    to: row.validTo === null ? Number.POSITIVE_INFINITY : Number(row.validTo),
  };
}
