import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type Day,
  DIMENSIONS,
  MAX_PRICES,
  OTHER,
  PRICED_MEASURES,
  PRICED_PARTS,
  PriceComponent,
  type PricedMeasure,
  type PricedPart,
  TallyError,
  type Units as UnitsType,
} from '@tally/contracts';
import type { DataSource, EntityManager } from 'typeorm';
import { z } from 'zod';
import { PriceEntity, type PriceRow } from '../entities/price.ts';
import { EventRow } from '../journal/events-store.ts';
import type { JournalLine } from '../journal/journal-line.ts';
import { RERATING_COLUMNS, type ReratingColumns } from '../journal/line-columns.ts';
import { DateText, Moment, Units } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { IsNull, MoreThan } from '../typeorm.ts';

export type NewPrice = Omit<PriceRow, 'id' | 'createdAt' | 'createdBy' | 'addedIn' | 'removedIn'>;

type Imported = { added: number; replaced: number; unchanged: number; ended: number; version: string };
type Origin = { source: string; validFrom: Date; dryRun: boolean };

export type PriceVersion = {
  /** "0" if no price was ever set. */
  version: string;
  prices: PriceRow[];
};

export type PricesStore = {
  /**
   * Adds a price in a new version of the list. A price with the same key, `validFrom` and amount stays; one with another
   * amount is replaced. Throws CARDINALITY_LIMIT beyond MAX_PRICES.
   */
  set(price: NewPrice, actor: string): Promise<PriceRow>;
  /**
   * Adds the prices of a source as they are from a time on, like `set`, in one new version. A price that holds already
   * at that time stays. What the source had for these models and no longer has ends then.
   */
  import(prices: readonly NewPrice[], origin: Origin, actor: string): Promise<Imported>;
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
   * Sums of what Tally priced, or tried to, by merchant, day, model, provider and size of calls: at most `limit` cells,
   * in this order, of merchants after `after`.
   */
  pricedSums(
    scope: PricedScope & { providers?: readonly string[]; after?: string; limit: number },
  ): Promise<PricedCell[]>;
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
  /**
   * The re-ratings of rows of cells that have another cost by other rates, for `corrections.rerate`: at most `limit` of
   * one merchant together. Days of a user come together, since they change the same rows of months and years.
   */
  rerateRows(cells: readonly RatedCell[], limit: number): Promise<z.output<typeof ReratingsRow>[]>;
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
const ReratingsRow = z.object({
  merchant_id: z.string(),
  ...(Object.fromEntries(RERATING_COLUMNS.map((name) => [name, z.string()])) as Record<
    keyof ReratingColumns,
    z.ZodString
  >),
});
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

/** Rows that are read or written at once; more would block the event loop for long. */
const CHUNK = 1_000;

const Compared = z.object({
  active: z.number().int(),
  unchanged: z.number().int(),
  fresh: z.number().int(),
  replaced: z.number().int(),
  ended: z.number().int(),
  shortened: z.number().int(),
  fresh_places: z.string(),
  removed_ids: z.string(),
  shortened_ids: z.string(),
});

const ActiveRow = z.object({
  id: z.string(),
  provider: z.string(),
  model: z.string(),
  meter: z.string(),
  merchantId: z.string(),
  component: PriceComponent,
  overPromptTokens: z.string(),
  amount: z.string(),
  per: z.string(),
  validFrom: z.date(),
  validTo: z.date().nullable(),
  source: z.string(),
  createdAt: z.date(),
  createdBy: z.string(),
  addedIn: z.string(),
  removedIn: z.null(),
});

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
  async function reratedBy<Row extends z.ZodType>(
    name: string,
    cells: readonly RatedCell[],
    row: Row,
    more: readonly unknown[] = [],
  ) {
    const small = cells.filter(isSmall);
    const large = cells.filter((cell) => !isSmall(cell));
    const rows = small.length === 0 ? [] : await runSql(dataSource, name, [...columnsOfCells(small), ...more], row);
    if (large.length === 0) return rows;
    return [...rows, ...(await runSql(dataSource, `${name}-large`, [...columnsOfCells(large), ...more], row))];
  }

  /** Adds prices, as JSON, in one new version. Of a source, also ends what it no longer has; see `import`. */
  async function add(
    manager: EntityManager,
    before: string,
    { wanted, actor, origin }: { wanted: string; actor: string; origin?: Origin },
  ): Promise<Imported> {
    const about = [origin?.source ?? null, origin?.validFrom ?? null];
    const [found] = await runSql(manager, 'prices/compare', [wanted, ...about], Compared);
    const { active, fresh, replaced, unchanged, ended, shortened, ...places } = found!;
    const counts = { added: fresh - replaced, replaced, unchanged, ended };
    if (fresh + ended === 0) return { ...counts, version: before };
    // A price that held before ends; one of a later time is removed.
    const total = active + fresh - replaced - (ended - shortened);
    if (total > MAX_PRICES)
      throw new TallyError('CARDINALITY_LIMIT', `The list would have ${total} prices; at most ${MAX_PRICES}.`);
    if (origin?.dryRun) return { ...counts, version: before };
    const version = await versionBy(manager, 'prices/next-version');
    await runSql(manager, 'prices/remove', [places.removed_ids, version], z.unknown());
    const ends = [places.shortened_ids, origin?.validFrom ?? null];
    await runSql(manager, 'prices/insert', [wanted, places.fresh_places, ...ends, actor, version], z.unknown());
    return { ...counts, version };
  }

  return {
    set: (price, actor) =>
      changing(async (manager, before) => {
        await add(manager, before, { wanted: await jsonOf([price]), actor });
        const { merchantId, model, provider, meter, component, overPromptTokens, validFrom } = price;
        const key = { merchantId, model, provider, meter, component, overPromptTokens, validFrom };
        return manager.findOneByOrFail(PriceEntity, { ...key, removedIn: IsNull() });
      }),
    async import(prices, origin, actor) {
      const wanted = await jsonOf(prices);
      return changing((manager, before) => add(manager, before, { wanted, actor, origin }));
    },

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
        const rows: PriceRow[] = [];
        const read = (after: string) => runSql(manager, 'prices/active', [after, CHUNK], ActiveRow);
        for (let page = await read('0'); page.length > 0; page = await read(page.at(-1)!.id)) rows.push(...page);
        return { version: await versionBy(manager, 'prices/version'), prices: rows };
      }),

    pricedSums: ({ startDate, endDate, merchantIds, providers, after = '', limit }) =>
      runSql(
        dataSource,
        'priced-sums',
        [startDate, endDate, merchantIds ?? null, limit, providers ?? null, after],
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
    rerateRows: (cells, limit) => reratedBy('rerate-rows', cells, ReratingsRow, [limit]),
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

/** Returns prices as JSON; others have their turn meanwhile. */
async function jsonOf(prices: readonly NewPrice[]): Promise<string> {
  const parts: string[] = [];
  for (let at = 0; at < prices.length; at += CHUNK) {
    if (at > 0) await nextTurn();
    parts.push(JSON.stringify(prices.slice(at, at + CHUNK)).slice(1, -1));
  }
  return `[${parts.join()}]`;
}

/** Removes trailing zeros: Postgres returns all 12 decimals. */
export const plain = (amount: string): string => (amount.includes('.') ? amount.replace(/\.?0+$/, '') : amount);
