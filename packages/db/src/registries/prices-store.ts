import {
  type Day,
  DIMENSIONS,
  MAX_PRICES,
  OTHER,
  PRICED_MEASURES,
  PRICED_PARTS,
  type PricedMeasure,
  type PricedPart,
  TallyError,
  type Units as UnitsType,
} from '@tally/contracts';
import { type DataSource, type EntityManager, IsNull, MoreThan } from 'typeorm';
import { z } from 'zod';
import { PriceEntity, type PriceRow } from '../entities/price.ts';
import { EventRow } from '../journal/events-store.ts';
import type { JournalLine } from '../journal/journal-line.ts';
import { DateText, Moment, Units } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';

export type NewPrice = Omit<PriceRow, 'id' | 'createdAt' | 'createdBy' | 'addedIn' | 'removedIn'>;

type Added = { added: number; replaced: number; unchanged: number; version: string; rows: PriceRow[] };
type Origin = { source: string; validFrom: Date; dryRun: boolean };

export type PriceVersion = {
  /** "0" if no price was ever set. */
  version: string;
  prices: PriceRow[];
};

export type PricesStore = {
  /**
   * Adds prices in one new version of the list. A price with the same key, `validFrom` and amount stays; one with
   * another amount is replaced. Throws CARDINALITY_LIMIT beyond MAX_PRICES.
   */
  add(prices: readonly NewPrice[], actor: string): Promise<Added>;
  /**
   * Adds the prices of a source as they are from a time on. A price that holds already at that time stays. What the
   * source had for these models and no longer has ends then. Throws CARDINALITY_LIMIT beyond MAX_PRICES.
   */
  import(prices: readonly NewPrice[], origin: Origin, actor: string): Promise<Added & { ended: number }>;
  /** Removes a price; removing it again changes nothing. Throws NOT_FOUND for an unknown id. */
  remove(id: string): Promise<PriceRow>;
  list(page: {
    filters: Partial<Pick<PriceRow, 'provider' | 'model' | 'meter' | 'merchantId'>>;
    includeRemoved: boolean;
    after: string | undefined;
    limit: number;
  }): Promise<PriceRow[]>;
  /** Returns the version of the list. */
  version(): Promise<string>;
  /** Returns all active prices, at one moment. */
  current(): Promise<PriceVersion>;
  /**
   * Sums of what Tally priced, or tried to, by merchant, day, model, provider and size of calls: at most `limit` cells.
   */
  pricedSums(scope: PricedScope & { providers?: readonly string[]; limit: number }): Promise<PricedCell[]>;
  /**
   * Sums of a measure of what Tally priced, by windows of whole UTC days and by columns; those without any left out.
   * `keys` are in the order of PRICED_COLUMNS.
   */
  pricedWindows(question: {
    measure: PricedMeasure;
    starts: readonly Day[];
    end: Day;
    by: readonly PricedColumn[];
    filters: Partial<Record<PricedColumn, readonly string[]>>;
    limit: number;
  }): Promise<z.output<typeof WindowRow>[]>;
  /**
   * Sums of cells by other rates, by merchant, day, model and provider; `different`: how many rows have another cost.
   */
  rerateSums(cells: readonly RatedCell[]): Promise<z.output<typeof ReratedSum>[]>;
  /** The rows of cells that have another cost by other rates. */
  rerateRows(cells: readonly RatedCell[]): Promise<z.output<typeof ReratedRow>[]>;
  /** The rows of a merchant's day that Tally priced, with their cost. */
  pricedRows(merchantId: string, date: Day): Promise<z.output<typeof PricedRow>[]>;
  /** A page of the events of these rows, in order of their ids, each with its row; voided ones are left out. */
  pricedEvents(merchantId: string, date: Day, page: { after: string; limit: number }): Promise<PricedEvent[]>;
  /** Merchants' days that have one of these metric types. */
  metricDays(scope: PricedScope & { metricTypes: readonly string[] }): Promise<z.output<typeof MetricDayRow>[]>;
  /** Models with events that no price was known for, most events first. */
  unpriced(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    limit: number;
  }): Promise<z.output<typeof UnpricedRow>[]>;
};

export type PricedScope = { startDate: Day; endDate: Day; merchantIds?: readonly string[] | undefined };

/** The dimensions of a row of what Tally priced; values beyond the limit of their day are `(other)`. */
export type PricedKey = { user_id: string; api_key: string; model: string; provider: string; call_size: number };

/** An event that Tally priced, and the row that counts it. */
export type PricedEvent = { line: JournalLine; key: PricedKey };

/** Units of each class that have a price. */
export type PricedUnits = Record<PricedPart, UnitsType>;

/** Nano-USD of a unit of each class, times `per`. */
export type UnitRates = { amounts: PricedUnits; per: bigint };
export type RatedCell = PricedCell & UnitRates;

/** Columns by which sums of what Tally priced are grouped. */
export const PRICED_COLUMNS = ['merchant_id', ...DIMENSIONS] as const;
export type PricedColumn = (typeof PRICED_COLUMNS)[number];

const CELL = {
  merchant_id: z.string(),
  date: DateText,
  model: z.string(),
  provider: z.string(),
};
const PricedCellRow = z.object({
  ...CELL,
  call_size: z.number().int(),
  rows: z.number().int(),
  is_closed: z.boolean(),
  ...(Object.fromEntries(PRICED_MEASURES.map((name) => [name, Units])) as Record<PricedMeasure, typeof Units>),
});
/** `rows`: how many rows it sums; `is_closed`: whether the events are no longer in the journal. */
export type PricedCell = z.output<typeof PricedCellRow>;
const ReratedSum = z.object({ ...CELL, events: Units, old: Units, new: Units, different: z.number().int() });
const KEY = {
  user_id: z.string(),
  api_key: z.string(),
  model: z.string(),
  provider: z.string(),
  call_size: z.number().int(),
};
const PricedRow = z.object({ ...KEY, reratings: z.number().int(), old: Units });
const ReratedRow = PricedRow.extend({ merchant_id: z.string(), date: DateText, new: Units });
const MetricDayRow = z.object({ merchant_id: z.string(), date: DateText, metric_type: z.string() });
const WindowRow = z.object({ slot: z.number().int(), keys: z.array(z.string()), units: Units });
const EventKey = z.object({ ...KEY, folded: z.number().nullable() });

const UnpricedRow = z.object({
  merchant_id: z.string(),
  provider: z.string(),
  model: z.string(),
  events: Units,
  prompt_tokens: Units,
  completion_tokens: Units,
  first_time: Moment,
  last_time: Moment,
});

const CHUNK = 1_000;

const VersionRow = z.object({ version: z.string() });

/** The price list, in `prices`. */
export function createPricesStore(dataSource: DataSource): PricesStore {
  const prices = dataSource.getRepository(PriceEntity);

  /** Changes the list, one change at a time, so that versions are committed in order. */
  const changing = <T>(change: (manager: EntityManager, version: string) => Promise<T>) =>
    dataSource.transaction(async (manager) => {
      return change(manager, await versionBy(manager, 'prices/lock-version'));
    });

  /** Runs a statement for cells: in 64 bits where they are enough, which takes a quarter of the time. */
  async function reratedBy<Row extends z.ZodType>(name: string, cells: readonly RatedCell[], row: Row) {
    const small = cells.filter(isSmall);
    const large = cells.filter((cell) => !isSmall(cell));
    const rows = small.length === 0 ? [] : await runSql(dataSource, name, columnsOfCells(small), row);
    if (large.length === 0) return rows;
    return [...rows, ...(await runSql(dataSource, `${name}-large`, columnsOfCells(large), row))];
  }

  /** Adds prices in one new version. Of a source, also ends what it no longer has; see `import`. */
  const add = (wanted: readonly NewPrice[], actor: string, origin?: Origin) =>
    changing(async (manager, before) => {
      const active = new Map<string, PriceRow>();
      for (const row of await manager.findBy(PriceEntity, { removedIn: IsNull() })) active.set(keyOf(row), row);
      const fresh = new Map(wanted.map((price) => [keyOf(price), price]));
      const ending = origin ? endedBy(active, fresh, origin) : [];
      const holding = origin ? holdingAt(active.values(), origin.validFrom) : new Map<string, PriceRow>();
      const same: PriceRow[] = [];
      for (const [key, price] of fresh) {
        const isFirst = origin && Number(price.validFrom) === Number(origin.validFrom);
        const known = active.get(key) ?? (isFirst ? holding.get(seriesOf(price)) : undefined);
        if (!known || !isSame(known, price)) continue;
        same.push(known);
        fresh.delete(key);
      }
      if (fresh.size + ending.length === 0)
        return { added: 0, replaced: 0, unchanged: same.length, ended: 0, version: before, rows: same };
      const replaced = [...fresh.keys()].flatMap((key) => active.get(key) ?? []);
      // A price that held before ends; one of a later time is removed.
      const shortened = ending.filter(({ validFrom }) => validFrom < origin!.validFrom);
      const total = active.size + fresh.size - replaced.length - (ending.length - shortened.length);
      if (total > MAX_PRICES)
        throw new TallyError('CARDINALITY_LIMIT', `The list would have ${total} prices; at most ${MAX_PRICES}.`);
      const counts = {
        added: fresh.size - replaced.length,
        ...{ replaced: replaced.length, unchanged: same.length, ended: ending.length },
      };
      if (origin?.dryRun) return { ...counts, version: before, rows: same };
      const version = await versionBy(manager, 'prices/next-version');
      for (const ids of chunksOf([...replaced, ...ending].map(({ id }) => id)))
        await manager.createQueryBuilder().update(PriceEntity).set({ removedIn: version }).whereInIds(ids).execute();
      const about = { createdBy: actor, addedIn: version, removedIn: null };
      const saved: PriceRow[] = [];
      const save = async (rows: readonly NewPrice[]) => {
        for (const chunk of chunksOf(rows)) {
          const full = chunk.map((row) => ({ ...row, ...about }));
          saved.push(...(await manager.save(PriceEntity, full as PriceRow[])));
        }
      };
      await save([...fresh.values()]);
      await save(shortened.map(({ id: _, createdAt: __, ...row }) => ({ ...row, validTo: origin!.validFrom })));
      return { ...counts, version, rows: [...same, ...saved] };
    });

  return {
    add,
    import: (wanted, origin, actor) => add(wanted, actor, origin),

    remove: (id) =>
      changing(async (manager) => {
        const row = await manager.findOneBy(PriceEntity, { id });
        if (!row) throw new TallyError('NOT_FOUND', `There is no price ${id}.`);
        if (row.removedIn !== null) return row;
        return manager.save(PriceEntity, { ...row, removedIn: await versionBy(manager, 'prices/next-version') });
      }),

    list: ({ filters, includeRemoved, after, limit }) =>
      prices.find({
        where: {
          ...filters,
          ...(includeRemoved ? {} : { removedIn: IsNull() }),
          ...(after !== undefined && { id: MoreThan(after) }),
        },
        order: { id: 'asc' },
        take: limit,
      }),

    version: () => versionBy(dataSource, 'prices/version'),

    current: () =>
      dataSource.transaction('REPEATABLE READ', async (manager) => {
        const rows = await manager.find(PriceEntity, { where: { removedIn: IsNull() }, order: { id: 'asc' } });
        return { version: await versionBy(manager, 'prices/version'), prices: rows };
      }),

    pricedSums: ({ startDate, endDate, merchantIds, providers, limit }) =>
      runSql(
        dataSource,
        'priced-sums',
        [startDate, endDate, merchantIds ?? null, limit, providers ?? null],
        PricedCellRow,
      ),
    pricedWindows: ({ measure, starts, end, by, filters, limit }) =>
      runSql(
        dataSource,
        'priced-windows',
        [measure, starts, end, by, ...PRICED_COLUMNS.map((column) => filters[column] ?? null), limit],
        WindowRow,
      ),
    rerateSums: (cells) => reratedBy('rerate-sums', cells, ReratedSum),
    rerateRows: (cells) => reratedBy('rerate-rows', cells, ReratedRow),
    pricedRows: (merchantId, date) => runSql(dataSource, 'priced-rows', [merchantId, date], PricedRow),
    async pricedEvents(merchantId, date, { after, limit }) {
      const rows = await runSql(dataSource, 'priced-events', [merchantId, date, after, limit], z.unknown());
      return rows.map((row) => {
        const { folded, ...key } = EventKey.parse(row);
        DIMENSIONS.forEach((name, bit) => {
          if ((folded ?? 0) & (1 << bit)) key[name] = OTHER;
        });
        return { line: EventRow.parse(row) as JournalLine, key };
      });
    },
    metricDays: ({ startDate, endDate, merchantIds, metricTypes }) =>
      runSql(dataSource, 'metric-days', [startDate, endDate, merchantIds ?? null, metricTypes], MetricDayRow),
    unpriced: ({ startDate, endDate, merchantIds, limit }) =>
      runSql(dataSource, 'unpriced-models', [startDate, endDate, merchantIds ?? null, limit], UnpricedRow),
  };
}

async function versionBy(executor: Executor, statement: string): Promise<string> {
  const [row] = await runSql(executor, statement, [], VersionRow);
  return row!.version;
}

/** Far enough below 2^63 that no step of a row of the cell leaves 64 bits, whatever its cost was before. */
const SMALL = 2n ** 61n;

/** Returns true if Postgres can compute the rows of a cell in 64 bits: together they are at least each of them. */
function isSmall(cell: RatedCell): boolean {
  const cost = PRICED_PARTS.reduce((sum, name) => sum + cell[name] * cell.amounts[name], cell.per);
  return cost < SMALL && cell.priced_cost < SMALL && cell.priced_cost > -SMALL;
}

/** The columns of cells, as the parameters of `rerate-sums.sql`. */
const columnsOfCells = (cells: readonly RatedCell[]): unknown[] => [
  cells.map((cell) => cell.merchant_id),
  cells.map((cell) => cell.date),
  cells.map((cell) => cell.model),
  cells.map((cell) => cell.provider),
  cells.map((cell) => cell.call_size),
  ...PRICED_PARTS.map((name) => cells.map(({ amounts }) => amounts[name].toString())),
  cells.map(({ per }) => per.toString()),
];

type Key = Pick<
  PriceRow,
  'merchantId' | 'model' | 'provider' | 'meter' | 'component' | 'overPromptTokens' | 'validFrom'
>;

const keyOf = (price: Key) => JSON.stringify([seriesOf(price), Number(price.validFrom)]);

/** Identifies prices that follow each other in time. */
const seriesOf = ({ merchantId, model, provider, meter, component, overPromptTokens }: Omit<Key, 'validFrom'>) =>
  JSON.stringify([merchantId, model, provider, meter, component, overPromptTokens]);

/** The price of each series that took over last before a time. */
function holdingAt(prices: Iterable<PriceRow>, time: Date): Map<string, PriceRow> {
  const holding = new Map<string, PriceRow>();
  for (const price of prices) {
    const series = seriesOf(price);
    if (price.validFrom < time && price.validFrom >= (holding.get(series)?.validFrom ?? price.validFrom))
      holding.set(series, price);
  }
  return holding;
}

/** The prices that a source had of the models of an import, and that would count beside the imported ones. */
function endedBy(
  active: ReadonlyMap<string, PriceRow>,
  imported: ReadonlyMap<string, NewPrice>,
  { source, validFrom }: Origin,
): PriceRow[] {
  const modelOf = ({ provider, model }: Pick<PriceRow, 'provider' | 'model'>) => JSON.stringify([provider, model]);
  const models = new Set([...imported.values()].map(modelOf));
  return [...active].flatMap(([key, row]) => {
    if (row.source !== source || row.merchantId !== '' || !models.has(modelOf(row))) return [];
    if (row.validTo !== null && row.validTo <= validFrom) return [];
    const isNamed = imported.has(row.validFrom < validFrom ? keyOf({ ...row, validFrom }) : key);
    return isNamed ? [] : [row];
  });
}

/** Returns whether a price equals the stored one. Compares amounts without trailing zeros. */
function isSame(row: PriceRow | undefined, price: NewPrice): boolean {
  if (!row) return false;
  const said = ({ amount, per, validTo }: NewPrice) => [plain(amount), per, validTo && Number(validTo)].join();
  return said(row) === said(price);
}

/** Removes trailing zeros: Postgres returns all 12 decimals. */
export const plain = (amount: string): string => (amount.includes('.') ? amount.replace(/\.?0+$/, '') : amount);

function chunksOf<T>(all: readonly T[]): T[][] {
  return Array.from({ length: Math.ceil(all.length / CHUNK) }, (_, n) => all.slice(n * CHUNK, (n + 1) * CHUNK));
}
