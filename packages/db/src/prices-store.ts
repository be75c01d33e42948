import { type Day, MAX_PRICES, TallyError } from '@tally/contracts';
import { type DataSource, type EntityManager, IsNull, MoreThan } from 'typeorm';
import { z } from 'zod';
import { PriceEntity, type PriceRow } from './entities/price.ts';
import { EventRow } from './events-store.ts';
import type { JournalLine } from './journal-line.ts';
import { DateText, Moment, Units } from './rows.ts';
import { type Executor, runSql } from './run-sql.ts';

export type NewPrice = Omit<PriceRow, 'id' | 'createdAt' | 'createdBy' | 'addedIn' | 'removedIn'>;

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
  add(
    prices: readonly NewPrice[],
    actor: string,
  ): Promise<{ added: number; replaced: number; unchanged: number; version: string; rows: PriceRow[] }>;
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
  /** Returns merchants' days with events that Tally priced, or tried to price. */
  pricedDays(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
  }): Promise<{ merchantId: string; date: Day }[]>;
  /** Returns a page of such events of a merchant's day, in order of their ids, without voided ones. */
  pricedEvents(merchantId: string, date: Day, page: { after: string; limit: number }): Promise<JournalLine[]>;
  /** Returns what earlier re-ratings added to the cost of a merchant's day, by dimensions. */
  rerated(merchantId: string, date: Day): Promise<z.output<typeof ReratedRow>[]>;
  /** Returns models with events without a known price, most events first. */
  unpriced(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    limit: number;
  }): Promise<z.output<typeof UnpricedRow>[]>;
};

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
const PricedDayRow = z
  .object({ merchant_id: z.string(), date: DateText })
  .transform(({ merchant_id, date }) => ({ merchantId: merchant_id, date }));
const ReratedRow = z.object({
  user_id: z.string(),
  api_key: z.string(),
  model: z.string(),
  provider: z.string(),
  cost: Units,
  times: z.number().int(),
});

/** The price list, in `prices`. */
export function createPricesStore(dataSource: DataSource): PricesStore {
  const prices = dataSource.getRepository(PriceEntity);

  /** Changes the list, one change at a time, so that versions are committed in order. */
  const changing = <T>(change: (manager: EntityManager, version: string) => Promise<T>) =>
    dataSource.transaction(async (manager) => {
      return change(manager, await versionBy(manager, 'prices/lock-version'));
    });

  return {
    add: (wanted, actor) =>
      changing(async (manager, before) => {
        const active = new Map<string, PriceRow>();
        for (const row of await manager.findBy(PriceEntity, { removedIn: IsNull() })) active.set(keyOf(row), row);
        const fresh = new Map(wanted.map((price) => [keyOf(price), price]));
        const same = [...fresh]
          .filter(([key, price]) => isSame(active.get(key), price))
          .map(([key]) => active.get(key)!);
        for (const row of same) fresh.delete(keyOf(row));
        if (fresh.size === 0) return { added: 0, replaced: 0, unchanged: same.length, version: before, rows: same };
        const replaced = [...fresh.keys()].flatMap((key) => active.get(key) ?? []);
        const total = active.size + fresh.size - replaced.length;
        if (total > MAX_PRICES)
          throw new TallyError('CARDINALITY_LIMIT', `The list would have ${total} prices; at most ${MAX_PRICES}.`);
        const version = await versionBy(manager, 'prices/next-version');
        for (const ids of chunksOf(replaced.map(({ id }) => id)))
          await manager.createQueryBuilder().update(PriceEntity).set({ removedIn: version }).whereInIds(ids).execute();
        const rows = [...fresh.values()].map((price) => ({
          ...price,
          createdBy: actor,
          addedIn: version,
          removedIn: null,
        }));
        const saved: PriceRow[] = [];
        for (const chunk of chunksOf(rows)) saved.push(...(await manager.save(PriceEntity, chunk as PriceRow[])));
        return {
          added: saved.length - replaced.length,
          replaced: replaced.length,
          unchanged: same.length,
          version,
          rows: [...same, ...saved],
        };
      }),

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

    pricedDays: ({ startDate, endDate, merchantIds }) =>
      runSql(dataSource, 'priced-days', [startDate, endDate, merchantIds ?? null], PricedDayRow),
    async pricedEvents(merchantId, date, { after, limit }) {
      return (await runSql(dataSource, 'priced-events', [merchantId, date, after, limit], EventRow)) as JournalLine[];
    },
    rerated: (merchantId, date) => runSql(dataSource, 'rerated', [merchantId, date], ReratedRow),
    unpriced: ({ startDate, endDate, merchantIds, limit }) =>
      runSql(dataSource, 'unpriced-models', [startDate, endDate, merchantIds ?? null, limit], UnpricedRow),
  };
}

async function versionBy(executor: Executor, statement: string): Promise<string> {
  const [row] = await runSql(executor, statement, [], VersionRow);
  return row!.version;
}

type Key = Pick<
  PriceRow,
  'merchantId' | 'model' | 'provider' | 'meter' | 'component' | 'overPromptTokens' | 'validFrom'
>;

const keyOf = ({ merchantId, model, provider, meter, component, overPromptTokens, validFrom }: Key) =>
  JSON.stringify([merchantId, model, provider, meter, component, overPromptTokens, Number(validFrom)]);

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
