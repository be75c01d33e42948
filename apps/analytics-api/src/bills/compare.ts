import {
  addDays,
  type BillClass,
  type BillReason,
  type BillRow,
  type Day,
  formatCost,
  type PricedClasses,
  parseQuantity,
  TOKEN_CLASSES,
  type TokenClass,
  type Units,
} from '@tally/contracts';
import type { SummedBillLine } from '@tally/db';
import { matchModels } from './match-models.ts';

/** Usage of a model on a day, over all its providers: cost is nano-USD. */
export type OurDay = {
  date: Day;
  model: string;
  requests: Units;
  failedRequests: Units;
  promptTokens: Units;
  completionTokens: Units;
  cost: Units;
};

export type ToCompare = {
  /** Days that a bill with costs covers, and those that one with usage covers. */
  withCosts: ReadonlySet<Day>;
  withUsage: ReadonlySet<Day>;
  lines: readonly SummedBillLine[];
  usage: readonly OurDay[];
  /** What Tally priced, by class; without a model: `unknown`, as in `usage`. */
  classes: readonly PricedClasses[];
};

type Side = { quantity: Units | null; amount: Units | null };

/** A row before it is written. */
export type Compared = {
  date: Day;
  model: string;
  billModels: string[];
  ourModels: string[];
  class: BillClass;
  bill: Side;
  ours: Side;
  /** Nano-USD by which rounding may make amounts differ. */
  tolerance: Units;
  /** Our amount is only a part, or unknown, since some events have no price. */
  unpriced: boolean;
  /** Our cost is not known by class, although the bill's is. */
  folded: boolean;
  reason: BillReason;
};

/** The lines of a bill about a model on a day. */
type BillModel = {
  names: Set<string>;
  hasUsage: boolean;
  usage: Map<BillClass, Units | null>;
  costs: Map<BillClass, { amount: Units | null; quantity: Units | null; rounding: Units }>;
};

type OurModel = {
  names: Set<string>;
  requests: Units;
  failedRequests: Units;
  tokens: Units;
  cost: Units;
  /** Undefined where classes do not make the sums: events that brought their cost, or a price that changed. */
  classes: { tokens: Record<TokenClass, Units>; costs: Record<TokenClass | 'requests', Units> } | undefined;
  events: Units;
  unpriced: Units;
};

/**
 * Compares bills with our usage: one row for each day, model and class that either side has. Where a side has coarser
 * sums, such as a day without models, the other is summed to them, so that each amount is in one row.
 */
export function compare({ withCosts, withUsage, lines: all, usage, classes }: ToCompare): Compared[] {
  const days = [...new Set([...withCosts, ...withUsage])].sort();
  // Where one account of several has no bill, the sum of the others is not what the provider charges.
  const lines = all.filter(({ kind, date }) => (kind === 'cost' ? withCosts : withUsage).has(date));
  const ours = usage.filter(({ date }) => withCosts.has(date) || withUsage.has(date));
  const models = matchModels(
    lines.filter((line) => line.class !== 'other' && line.model !== '').map(({ model }) => model),
    ours.map(({ model }) => model),
  );
  const linesOf = groupBy(lines, ({ date }) => date);
  const oursOf = groupBy(ours, ({ date }) => date);
  const classesOf = groupBy(classes, ({ date, model }) => JSON.stringify([date, model]));
  const rows: Compared[] = [];
  for (const date of days) {
    const own = linesOf.get(date) ?? [];
    // A line without a model is about all of them.
    const whole = own.some((line) => line.model === '' && line.class !== 'other');
    const bill = new Map<string, BillModel>();
    const others = new Map<string, BillModel>();
    for (const line of own) {
      const isOther = line.class === 'other';
      const key = whole && !isOther ? '' : (models.ofBill.get(line.model) ?? line.model);
      addLine(entry(isOther ? others : bill, key, newBillModel), line);
    }
    const known = new Map<string, OurModel>();
    for (const day of oursOf.get(date) ?? []) {
      const key = whole ? '' : (models.ofOurs.get(day.model) ?? day.model);
      const found = classesOf.get(JSON.stringify([date, day.model])) ?? [];
      addDay(entry(known, key, newOurModel), day, found);
    }
    const covered = { costs: withCosts.has(date), usage: withUsage.has(date) };
    for (const model of [...new Set([...bill.keys(), ...others.keys(), ...known.keys()])].sort()) {
      rows.push(...rowsOf({ date, model, whole, covered, bill: bill.get(model), ours: known.get(model) }));
      const other = others.get(model);
      if (other) rows.push(otherRow(date, model, other));
    }
  }
  const shown = rows.filter(({ bill, ours: own }) => hasAnything(bill) || hasAnything(own));
  for (const row of shown) row.reason = reasonOf(row);
  markDayBoundaries(shown);
  return shown;
}

const newBillModel = (): BillModel => ({ names: new Set(), hasUsage: false, usage: new Map(), costs: new Map() });

function addLine(model: BillModel, line: SummedBillLine): void {
  model.names.add(line.model);
  if (line.kind === 'usage') {
    model.hasUsage = true;
    model.usage.set(line.class, sum(model.usage.get(line.class) ?? 0n, line.quantity));
    return;
  }
  const { amount, quantity, rounding } = model.costs.get(line.class) ?? { amount: 0n, quantity: 0n, rounding: 0n };
  model.costs.set(line.class, {
    amount: sum(amount, line.amount),
    quantity: sum(quantity, line.quantity),
    rounding: rounding + line.rounding,
  });
}

const newOurModel = (): OurModel => ({
  names: new Set(),
  ...{ requests: 0n, failedRequests: 0n, tokens: 0n, cost: 0n, events: 0n, unpriced: 0n },
  classes: {
    tokens: { input: 0n, cached_input: 0n, cache_write: 0n, output: 0n },
    costs: { input: 0n, cached_input: 0n, cache_write: 0n, output: 0n, requests: 0n },
  },
});

function addDay(model: OurModel, day: OurDay, classes: readonly PricedClasses[]): void {
  model.names.add(day.model);
  model.requests += day.requests;
  model.failedRequests += day.failedRequests;
  model.tokens += day.promptTokens + day.completionTokens;
  model.cost += day.cost;
  const tokens = (name: TokenClass) => classes.reduce((all, row) => all + BigInt(row.tokens[name]), 0n);
  const input = tokens('input') + tokens('cached_input') + tokens('cache_write');
  const cost = classes.reduce((all, row) => all + usd(row.cost), 0n);
  for (const row of classes) {
    model.events += BigInt(row.events);
    model.unpriced += BigInt(row.unpriced);
  }
  const isWhole = input === day.promptTokens && tokens('output') === day.completionTokens && cost === day.cost;
  if (!isWhole || classes.some(({ costs }) => costs === null)) model.classes = undefined;
  if (!model.classes) return;
  for (const { costs } of classes) {
    for (const name of TOKEN_CLASSES) model.classes.costs[name] += usd(costs![name]);
    model.classes.costs.requests += usd(costs!.requests);
  }
  for (const name of TOKEN_CLASSES) model.classes.tokens[name] += tokens(name);
}

const usd = (text: string): Units => parseQuantity('cost', text.replace(/^-/, ''))! * (text.startsWith('-') ? -1n : 1n);

type OfModel = {
  date: Day;
  model: string;
  whole: boolean;
  covered: { costs: boolean; usage: boolean };
  bill: BillModel | undefined;
  ours: OurModel | undefined;
};

const NONE: OurModel = newOurModel();

/** The rows of a model on a day. */
function rowsOf({ date, model, whole, covered, bill, ours = NONE }: OfModel): Compared[] {
  const about = {
    date,
    model,
    billModels: sorted(bill?.names),
    ourModels: sorted(ours.names),
    reason: 'unknown' as const,
  };
  const isUnpriced = ours.events > 0n && ours.unpriced === ours.events;
  const amountOf = (names: readonly BillClass[]): Units | null => {
    if (!covered.costs) return null;
    return names.reduce<Units | null>((all, name) => {
      const found = bill?.costs.get(name);
      return found ? sum(all, found.amount) : all;
    }, 0n);
  };
  const quantityOf = (names: readonly BillClass[]): Units | null => {
    if (!bill) return 0n;
    if (bill.hasUsage)
      return names.reduce<Units | null>((all, name) => {
        const found = bill.usage.get(name);
        return found === undefined ? all : sum(all, found);
      }, 0n);
    const costs = names.flatMap((name) => bill.costs.get(name) ?? []);
    // A bill that names no quantities does not say that there are none.
    if (costs.length === 0 && [...bill.costs.values()].every(({ quantity }) => quantity === null)) return null;
    return costs.reduce<Units | null>((all, { quantity }) => sum(all, quantity), 0n);
  };
  const toleranceOf = (names: readonly BillClass[]): Units => {
    const rounding = names.reduce((all, name) => all + (bill?.costs.get(name)?.rounding ?? 0n), 0n);
    // Tally rounds each event by at most half a nano-USD, and a class once more.
    return (rounding + (ours.events > ours.requests ? ours.events : ours.requests) + 1n) / 2n + 1n;
  };
  const row = (name: BillClass, names: readonly BillClass[], own: Side, more: Partial<Compared> = {}): Compared => ({
    ...about,
    class: name,
    bill: { quantity: quantityOf(names), amount: amountOf(names) },
    ours: own,
    tolerance: toleranceOf(names),
    unpriced: ours.unpriced > 0n,
    folded: false,
    ...more,
  });
  const rows: Compared[] = [];
  const classes = ours.classes;
  if (whole || !classes || bill?.costs.has('all') || bill?.usage.has('all')) {
    const own = { quantity: ours.tokens, amount: isUnpriced && ours.cost === 0n ? null : ours.cost };
    rows.push(row('all', [...TOKEN_CLASSES, 'all'], own, { folded: !classes && !bill?.costs.has('all') }));
  } else {
    for (const name of TOKEN_CLASSES) {
      const isUnknown = isUnpriced && classes.tokens[name] > 0n;
      rows.push(row(name, [name], { quantity: classes.tokens[name], amount: isUnknown ? null : classes.costs[name] }));
    }
  }
  const isFolded = rows[0]!.class === 'all';
  // Folded rows contain the price of requests.
  const perRequest = isFolded ? 0n : (classes?.costs.requests ?? 0n);
  if (perRequest !== 0n || bill?.usage.has('requests')) {
    const own = { quantity: ours.requests - ours.failedRequests, amount: perRequest === 0n ? null : perRequest };
    const requests = row('requests', ['requests'], own, { unpriced: false });
    if (perRequest === 0n) requests.bill.amount = null;
    rows.push(requests);
  }
  return rows;
}

/** The row of what a bill charges for beside tokens, under this name: nothing of it is metered. */
function otherRow(date: Day, model: string, { names, costs }: BillModel): Compared {
  const { amount, quantity, rounding } = costs.get('other')!;
  return {
    ...{ date, model, class: 'other', billModels: sorted(names), ourModels: [] },
    ...{ bill: { quantity, amount }, ours: { quantity: null, amount: 0n } },
    ...{ tolerance: (rounding + 1n) / 2n, unpriced: false, folded: false, reason: 'unknown' },
  };
}

const hasAnything = ({ quantity, amount }: Side): boolean => (quantity ?? 0n) !== 0n || (amount ?? 0n) !== 0n;
const sum = (one: Units | null, other: Units | null): Units | null =>
  one === null || other === null ? null : one + other;
const abs = (units: Units): Units => (units < 0n ? -units : units);
const sorted = (names: ReadonlySet<string> | undefined): string[] =>
  [...(names ?? [])].filter((name) => name !== '').sort();

function entry<T>(map: Map<string, T>, key: string, create: () => T): T {
  const known = map.get(key);
  if (known !== undefined) return known;
  const fresh = create();
  map.set(key, fresh);
  return fresh;
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) entry(groups, keyOf(item), () => [] as T[]).push(item);
  return groups;
}

/** Bill less ours; null if a side is unknown. */
const less = (bill: Units | null, ours: Units | null): Units | null =>
  bill === null || ours === null ? null : bill - ours;

/** Divides and rounds half away from zero; the divisor is positive. */
function divide(part: bigint, whole: bigint): bigint {
  const rounded = (2n * abs(part) + whole) / (2n * whole);
  return part < 0n ? -rounded : rounded;
}

/**
 * Splits a difference of amounts: what the other quantity makes at our price, and the rest. Undefined if an amount or a
 * quantity is unknown, or if we have no price.
 */
export function partsOf({
  bill,
  ours,
}: Pick<Compared, 'bill' | 'ours'>): { byQuantity: Units; byPrice: Units } | undefined {
  const [quantity, amount] = [less(bill.quantity, ours.quantity), less(bill.amount, ours.amount)];
  if (quantity === null || amount === null) return undefined;
  if (ours.quantity === 0n) return { byQuantity: amount, byPrice: 0n };
  const byQuantity = divide(quantity * ours.amount!, ours.quantity!);
  return { byQuantity, byPrice: amount - byQuantity };
}

function reasonOf(row: Compared): BillReason {
  const { bill, ours, unpriced } = row;
  const [quantity, amount] = [less(bill.quantity, ours.quantity), less(bill.amount, ours.amount)];
  if (row.ourModels.length === 0 && hasAnything(bill)) return 'only_on_bill';
  if (row.billModels.length === 0 && row.model !== '' && hasAnything(ours)) return 'only_with_us';
  if (unpriced && row.class !== 'requests' && (ours.quantity ?? 0n) !== 0n) return 'unpriced';
  if (amount === null) return quantity === null ? 'unknown' : quantity === 0n ? 'equal' : 'quantity';
  if (quantity === null) return abs(amount) === 0n ? 'equal' : abs(amount) <= row.tolerance ? 'rounding' : 'amount';
  if (quantity === 0n) return amount === 0n ? 'equal' : abs(amount) <= row.tolerance ? 'rounding' : 'price';
  const { byPrice } = partsOf(row)!;
  const more = ours.quantity === 0n ? 1n : bill.quantity! / ours.quantity! + 1n;
  return abs(byPrice) <= row.tolerance * more ? 'quantity' : 'quantity_and_price';
}

const MAY_BE_MOVED: ReadonlySet<BillReason> = new Set([
  ...(['quantity', 'quantity_and_price', 'amount', 'only_on_bill', 'only_with_us'] as const),
]);

/**
 * Finds usage that the bill counts on the day before or after: what is missing on a day is too much on its neighbour.
 * Both rows get the reason `day_boundary`.
 */
function markDayBoundaries(rows: readonly Compared[]): void {
  const byKey = new Map(rows.map((row) => [JSON.stringify([row.date, row.model, row.class]), row]));
  for (const row of rows) {
    if (!MAY_BE_MOVED.has(row.reason)) continue;
    const next = byKey.get(JSON.stringify([addDays(row.date, 1), row.model, row.class]));
    if (!next || !MAY_BE_MOVED.has(next.reason) || !cancel(row, next)) continue;
    row.reason = 'day_boundary';
    next.reason = 'day_boundary';
  }
}

function cancel(one: Compared, other: Compared): boolean {
  const [quantity, later] = [one, other].map(({ bill, ours }) => less(bill.quantity, ours.quantity));
  if (quantity !== null && quantity !== undefined && later !== null && later !== undefined)
    return quantity !== 0n && quantity === -later;
  const [amount, next] = [one, other].map(({ bill, ours }) => less(bill.amount, ours.amount));
  if (amount === null || amount === undefined || next === null || next === undefined) return false;
  return amount !== 0n && abs(amount + next) <= one.tolerance + other.tolerance;
}

/** Sums of rows: what is unknown on a side is in neither sum. */
export function sumsOf(rows: readonly Compared[]) {
  const known = (side: 'bill' | 'ours') => rows.reduce((all, row) => all + (row[side].amount ?? 0n), 0n);
  const unknown = (side: 'bill' | 'ours') =>
    rows.filter((row) => row[side].amount === null && row.class !== 'requests').length;
  const [bill, ours] = [known('bill'), known('ours')];
  return {
    rows: rows.length,
    ...{ bill: formatCost(bill), ours: formatCost(ours), difference: formatCost(bill - ours) },
    ...{ unknownOnBill: unknown('bill'), unknownWithUs: unknown('ours') },
  };
}

const MILLION = 1_000_000n;

/** USD for a million units; null if it is unknown or there are none. */
const unitPrice = ({ quantity, amount }: Side): string | null =>
  quantity === null || amount === null || quantity <= 0n ? null : formatCost(divide(amount * MILLION, quantity));

const text = (units: Units | null): string | null => (units === null ? null : units.toString());
const cost = (units: Units | null | undefined): string | null =>
  units === null || units === undefined ? null : formatCost(units);

/** Writes a row as an answer. */
export function present(row: Compared): BillRow {
  const { date, model, billModels, ourModels, bill, ours, reason } = row;
  const parts = partsOf(row);
  const written = {
    ...{ date, model, billModels, ourModels, class: row.class, reason },
    bill: { quantity: text(bill.quantity), amount: cost(bill.amount), unitPrice: unitPrice(bill) },
    ours: { quantity: text(ours.quantity), amount: cost(ours.amount), unitPrice: unitPrice(ours) },
    difference: {
      quantity: text(less(bill.quantity, ours.quantity)),
      amount: cost(less(bill.amount, ours.amount)),
      byQuantity: cost(parts?.byQuantity),
      byPrice: cost(parts?.byPrice),
    },
  };
  return { ...written, message: messageOf(written, row) };
}

function messageOf({ bill, ours, difference }: Omit<BillRow, 'message'>, row: Compared): string {
  const folded = row.folded
    ? ' Our cost is not known by class here: it came with the events, or prices changed without re-rating.'
    : '';
  const prices =
    bill.unitPrice !== null && ours.unitPrice !== null
      ? ` For a million: ${bill.unitPrice} USD on the bill, ${ours.unitPrice} USD with us.`
      : '';
  return `${sentenceOf(row.reason, { bill, ours, difference }, row)}${row.reason === 'price' || row.reason === 'quantity_and_price' ? prices : ''}${row.reason === 'equal' ? '' : folded}`;
}

function sentenceOf(
  reason: BillReason,
  { bill, ours, difference }: Pick<BillRow, 'bill' | 'ours' | 'difference'>,
  row: Compared,
): string {
  switch (reason) {
    case 'equal':
      return 'Both are the same.';
    case 'rounding':
      return 'The amounts differ only by rounding.';
    case 'day_boundary':
      return 'The neighbouring day differs by as much the other way: the bill counts it on another UTC day.';
    case 'quantity':
      return `The quantity differs: ${bill.quantity} on the bill, ${ours.quantity} with us.`;
    case 'price':
      return 'The quantity is the same, the price differs.';
    case 'quantity_and_price':
      return `The quantity makes ${difference.byQuantity} USD of the difference, the price ${difference.byPrice} USD.`;
    case 'amount':
      return 'The bill has no quantity here, so quantity or price may differ: import the export of usage, too.';
    case 'unpriced':
      return ours.amount === null
        ? 'Our usage has no price: set one and re-rate.'
        : 'A part of our usage has no price, so our amount is too low: set one and re-rate.';
    case 'only_on_bill':
      return row.class === 'other'
        ? 'The bill charges for something that is not metered as tokens.'
        : 'Only the bill has this model on this day: its calls were not sent to Tally, or under another name.';
    case 'only_with_us':
      return 'Only our usage has this model on this day: another account paid for it, or it has another name there.';
    case 'unknown':
      return 'The bill says neither a quantity nor an amount here.';
  }
}
