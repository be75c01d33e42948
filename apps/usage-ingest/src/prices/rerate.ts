import { type Day, formatCost, type ingest, PRICED_PARTS, TallyError, type Units } from '@tally/contracts';
import {
  columnsOfReratings,
  type Db,
  NO_PRICE,
  type PricedCell,
  type PricedKey,
  type RatedCell,
  type ReratingColumns,
} from '@tally/db';
import { groupBy, piecesOf } from '@tally/service';
import type { z } from 'zod';
import type { Registry, RegistryReader } from '../meters/registry.ts';
import type { Repair } from '../reconcile/index.ts';
import { dayKey, readCellRates } from './cell-rates.ts';
import type { PriceList } from './price-list.ts';
import type { PriceRegistry } from './registry.ts';

type Contract = (typeof ingest.prices)['rerate'];

/** Prices what Tally priced again by the list of now; see the contract. */
export type Rerate = (scope: z.output<Contract['input']>, actor: string) => Promise<z.input<Contract['output']>>;

const PAGE = 5_000;
/** Rows of a report. */
const MAX_ROWS = 10_000;
/** Cells of one call of `prices.rerate`: a row of the report has one for each size of its calls. */
const MAX_CELLS = 500_000;
/** Cells in memory, of whole merchants. */
const CELLS_AT_ONCE = 30_000;
/** Rows of what Tally priced that one statement reads, at least one merchant's day. */
const ROWS_AT_ONCE = 500_000;
/** Rows that one statement returns to be adjusted, at least one merchant's day: some 100 bytes each in memory. */
const ROWS_TO_ADJUST_AT_ONCE = 60_000;
/** Adjustments of one transaction. */
const ADJUSTED_AT_ONCE = 2_000;

/** The fields that determine an event's price. */
type By = { list: PriceList; scaleOf: Registry['scaleOf'] };
/** A row of a day of what Tally priced, with another cost. */
type Difference = PricedKey & { date: Day; reratings: number; old: Units; new: Units };
type Sums = { events: number; unpriced: number; old: Units; new: Units };
type Scope = Pick<z.output<Contract['input']>, 'startDate' | 'endDate' | 'merchantIds'>;
type MerchantDay = { merchantId: string; date: Day };

/** Cells by how they are priced: by their sums, by their events, or not at all. */
type Sorted = { rated: RatedCell[]; unclear: Map<string, PricedCell[]>; unpriced: PricedCell[] };

export function createRerate({
  db,
  registry,
  meters,
  repair,
  drain,
}: {
  db: Pick<Db, 'prices' | 'corrections'>;
  registry: Pick<PriceRegistry, 'current' | 'refresh'>;
  meters: Pick<RegistryReader, 'reload'>;
  repair: Pick<Repair, 'days'>;
  /** Flushes everything acknowledged before the call; returns true if nothing is left. */
  drain(): Promise<boolean>;
}): Rerate {
  /** Yields the cells of a range, those of some whole merchants at a time. */
  async function* cellsOf(scope: Scope): AsyncGenerator<PricedCell[]> {
    for (let [after, read] = ['', 0]; ; ) {
      const found = await db.prices.pricedSums({ ...scope, after, limit: CELLS_AT_ONCE + 1 });
      const isLast = found.length <= CELLS_AT_ONCE;
      const cut = found.at(-1)?.merchant_id;
      const cells = isLast ? found : found.filter(({ merchant_id }) => merchant_id !== cut);
      read += cells.length;
      if (read > MAX_CELLS) throw tooMany(MAX_CELLS);
      if (cells.length === 0 && !isLast) throw tooMany(CELLS_AT_ONCE);
      yield cells;
      if (isLast) return;
      after = cells.at(-1)!.merchant_id;
    }
  }

  /** Finds rates for cells. Where sums cannot tell, events do, as long as the journal has them. */
  function sort(cells: readonly PricedCell[], ratesOf: Awaited<ReturnType<typeof readCellRates>>): Sorted {
    const sorted: Sorted = { rated: [], unclear: new Map(), unpriced: [] };
    for (const cell of cells) {
      const day = dayKey(cell);
      const rates = ratesOf(cell);
      if (rates === 'unknown' || (rates === 'unclear' && cell.is_closed)) sorted.unpriced.push(cell);
      else if (rates === 'unclear') sorted.unclear.set(day, [...(sorted.unclear.get(day) ?? []), cell]);
      else sorted.rated.push({ ...cell, ...rates });
    }
    return sorted;
  }

  /** Prices the events of some cells of a merchant's day. */
  async function byEvents(
    { merchantId, date }: MerchantDay,
    cells: readonly PricedCell[],
    by: By,
  ): Promise<{ sums: Map<string, Sums>; different: Difference[] }> {
    const asked = new Set(cells.map(cellKey));
    const groups = new Map<string, Difference & Sums>();
    const lost = new Set<Difference & Sums>();
    for (const row of await db.prices.pricedRows(merchantId, date))
      if (asked.has(cellKey(row))) groups.set(rowKey(row), { ...row, date, new: 0n, events: 0, unpriced: 0 });
    for (let after = ''; ; ) {
      const page = await db.prices.pricedEvents(merchantId, date, { after, limit: PAGE });
      for (const { line, key } of page) {
        const group = groups.get(rowKey(key));
        if (!group) continue;
        const cost = by.list.costOf(line, by.scaleOf);
        group.events++;
        if (cost === 'unknown') {
          group.unpriced++;
          group.new += BigInt(line.cost ?? 0);
          if (group.reratings > 0 && line.price !== NO_PRICE) lost.add(group);
        } else if (cost !== 'nothing') group.new += cost;
      }
      if (page.length < PAGE) break;
      after = page.at(-1)!.line.id;
    }
    // The cost that an earlier re-rating gave an event without a price now is known of its row only: that stays.
    for (const group of groups.values()) {
      const isLost = lost.has(group) || (group.reratings > 0 && group.events > 0 && group.unpriced === group.events);
      if (isLost) Object.assign(group, { new: group.old, unpriced: group.events });
    }
    const sums = new Map<string, Sums>();
    for (const group of groups.values()) add(sums, reportKey(merchantId, date, group), group);
    return { sums, different: [...groups.values()].filter((group) => group.new !== group.old) };
  }

  /** Applies re-ratings of a merchant, a transaction for each part; returns how many adjustments were new. */
  async function apply(
    { merchantId, days }: { merchantId: string; days: ReadonlySet<Day> },
    parts: readonly ReratingColumns[],
    about: { reason: string; actor: string },
  ): Promise<number> {
    let adjustments = 0;
    for (const part of parts) adjustments += await db.corrections.rerate(merchantId, part, about);
    // While Redis is unavailable the days stay marked as stale, and their totals are repaired later.
    await repair.days([...days].map((date) => ({ merchantId, date }))).catch(() => {});
    return adjustments;
  }

  return async ({ dryRun, ...scope }, actor) => {
    await registry.refresh();
    const list = registry.current()!;
    const { scaleOf } = await meters.reload();
    const complete = await drain();
    const ratesOf = await readCellRates(db.prices, scope, list);
    // Too many cells are refused before the first of them is changed.
    if (!dryRun) for await (const _ of cellsOf(scope));
    const about = { reason: `Re-rated by version ${list.version} of the price list.`, actor };
    const report = createReport();
    let adjustments = 0;
    for await (const cells of cellsOf(scope)) {
      const { rated, unclear, unpriced } = sort(cells, ratesOf);
      const rows = new Map<string, Sums>();
      for (const cell of unpriced) {
        const [events, cost] = [Number(cell.priced_events), cell.priced_cost];
        add(rows, reportKey(cell.merchant_id, cell.date, cell), { events, unpriced: events, old: cost, new: cost });
      }
      const apart = dryRun ? rated.filter((cell) => !addLinear(rows, cell)) : rated;
      for (const some of byRows(apart, ROWS_AT_ONCE)) {
        const different = new Set<string>();
        for (const { events, ...sum } of await db.prices.rerateSums(some)) {
          add(rows, reportKey(sum.merchant_id, sum.date, sum), { ...sum, events: Number(events), unpriced: 0 });
          if (sum.different > 0) different.add(dayKey(sum));
        }
        if (dryRun) continue;
        const toAdjust = some.filter((cell) => different.has(dayKey(cell)));
        for (const part of byRows(toAdjust, ROWS_TO_ADJUST_AT_ONCE)) {
          const cellsOfMerchants = groupBy(part, (cell) => cell.merchant_id);
          const reratings = await db.prices.rerateRows(part, ADJUSTED_AT_ONCE);
          for (const [merchantId, own] of groupBy(reratings, (row) => row.merchant_id)) {
            const days = new Set(cellsOfMerchants.get(merchantId)!.map(({ date }) => date));
            adjustments += await apply({ merchantId, days }, own, about);
          }
        }
      }
      for (const some of unclear.values()) {
        const { merchant_id: merchantId, date } = some[0]!;
        const { sums, different } = await byEvents({ merchantId, date }, some, { list, scaleOf });
        for (const [key, sum] of sums) add(rows, key, sum);
        if (dryRun) continue;
        const reratings = different.map((row) => ({ ...row, difference: row.new - row.old }));
        const parts = piecesOf(reratings, ADJUSTED_AT_ONCE).map(columnsOfReratings);
        if (parts.length > 0) adjustments += await apply({ merchantId, days: new Set([date]) }, parts, about);
      }
      report.add(rows);
    }
    return { version: list.version, dryRun, complete, adjustments, ...report.present() };
  };
}

/** The report of a call: sums of all rows, and the rows with the greatest differences. */
function createReport() {
  const total: Sums = { events: 0, unpriced: 0, old: 0n, new: 0n };
  let [rows, truncated] = [[] as [key: string, sums: Sums][], false];
  return {
    add(more: ReadonlyMap<string, Sums>) {
      for (const row of more.values()) addTo(total, row);
      rows = [...rows, ...more];
      if (rows.length <= MAX_ROWS) return;
      const size = ([, { old, new: fresh }]: [string, Sums]) => (fresh < old ? old - fresh : fresh - old);
      rows = rows.sort((a, b) => compare(size(b), size(a))).slice(0, MAX_ROWS);
      truncated = true;
    },
    present: () => ({
      rows: rows
        .sort(([a], [b]) => compare(a, b))
        .map(([key, { events, unpriced, ...sums }]) => {
          const [merchantId, date, provider, model] = JSON.parse(key) as [string, Day, string, string];
          const named = { merchantId, date, provider: provider || null, model: model || null };
          return { ...named, events, unpriced, ...costsOf(sums) };
        }),
      truncated,
      ...costsOf(total),
    }),
  };
}

const tooMany = (most: number) =>
  new TallyError(
    'TOO_MANY_ROWS',
    `More than ${most} sums of merchant, day and model; name fewer days or some merchants.`,
  );

const cellKey = ({ model, provider, call_size }: Pick<PricedKey, 'model' | 'provider' | 'call_size'>) =>
  JSON.stringify([model, provider, call_size]);
const rowKey = ({ user_id, api_key, ...cell }: PricedKey) => JSON.stringify([user_id, api_key, cellKey(cell)]);
const reportKey = (merchantId: string, date: Day, { provider, model }: { provider: string; model: string }) =>
  JSON.stringify([merchantId, date, provider, model]);

const costsOf = ({ old, new: fresh }: Pick<Sums, 'old' | 'new'>) => ({
  old: formatCost(old),
  new: formatCost(fresh),
  difference: formatCost(fresh - old),
});

/**
 * Adds a cell by its sums, if its rates are whole nano-USD: then no row is rounded, so the cost of the sums is the sum of
 * the costs. Returns whether it did.
 */
function addLinear(rows: Map<string, Sums>, cell: RatedCell): boolean {
  if (cell.per !== 1n) return false;
  const cost = PRICED_PARTS.reduce((sum, part) => sum + cell[part] * cell.amounts[part], 0n);
  const events = Number(cell.priced_events);
  const sums = { events, unpriced: 0, old: cell.priced_cost, new: cost };
  add(rows, reportKey(cell.merchant_id, cell.date, cell), sums);
  return true;
}

function add(rows: Map<string, Sums>, key: string, { events, unpriced, old, new: fresh }: Sums): void {
  const row = rows.get(key);
  if (row) addTo(row, { events, unpriced, old, new: fresh });
  else rows.set(key, { events, unpriced, old, new: fresh });
}

function addTo(row: Sums, more: Sums): void {
  row.events += more.events;
  row.unpriced += more.unpriced;
  row.old += more.old;
  row.new += more.new;
}

/** Cells in groups of at most so many rows; a merchant's day is in one group, whatever its size. */
function byRows(cells: readonly RatedCell[], most: number): RatedCell[][] {
  const groups: RatedCell[][] = [];
  let [rows, day] = [Number.POSITIVE_INFINITY, ''];
  for (const cell of cells) {
    const own = dayKey(cell);
    if (rows + cell.rows > most && own !== day) {
      groups.push([]);
      rows = 0;
    }
    groups.at(-1)!.push(cell);
    rows += cell.rows;
    day = own;
  }
  return groups;
}

const compare = <Value extends string | bigint>(a: Value, b: Value) => (a < b ? -1 : a > b ? 1 : 0);
