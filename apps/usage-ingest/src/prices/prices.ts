import { type ingest, type Price, TallyError } from '@tally/contracts';
import { type Db, type PriceRow, plain } from '@tally/db';
import { type Caller, decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import type { PriceRegistry } from './registry.ts';

type Input<Name extends keyof typeof ingest.prices> = z.output<(typeof ingest.prices)[Name]['input']>;

export type Prices = ReturnType<typeof createPrices>;

/** The number of models that `prices.unpriced` lists. */
const MAX_UNPRICED = 1_000;
const Place = z.tuple([z.string().regex(/^\d{1,18}$/)]);
/** The number of skipped models that an import lists. */
const MAX_SKIPPED = 1_000;

/** The price list as admins change it. Changes take effect in this process at once, in others within some seconds. */
export function createPrices({ store, registry }: { store: Db['prices']; registry: Pick<PriceRegistry, 'refresh'> }) {
  // The change is stored; if it cannot be loaded now, the loop loads it.
  const refresh = () => registry.refresh().catch(() => {});

  return {
    async set(
      { validFrom, validTo, per, overPromptTokens = 0, ...price }: Input<'set'>,
      caller: Caller,
    ): Promise<Price> {
      const { provider = '', model = '', meter = '', merchantId = '', component, amount } = price;
      const row = await store.set(
        {
          ...{ provider, model, meter, merchantId, component, amount },
          per: String(per),
          overPromptTokens: String(overPromptTokens),
          validFrom: new Date(validFrom),
          validTo: validTo === undefined ? null : new Date(validTo),
          source: 'set',
        },
        caller.id,
      );
      await refresh();
      return present(row);
    },

    async list({ limit, cursor, ...question }: Input<'list'>) {
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, { prices: question }, Place);
      const { includeRemoved, ...filters } = question;
      const [rows, version] = [
        await store.list({ filters: withoutAbsent(filters), includeRemoved, after, limit }),
        await store.version(),
      ];
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return {
        rows: rows.map(present),
        version,
        nextCursor: last ? encodeCursor([last.id], { prices: question }) : null,
      };
    },

    async remove({ id }: Input<'remove'>): Promise<Price> {
      const row = await store.remove(id);
      await refresh();
      return present(row);
    },

    async import({ source, file, providers, validFrom, dryRun }: Input<'import'>, caller: Caller) {
      // Loaded when asked for: the list of genai-prices is large, and no start needs it.
      const { readGenaiPrices, readLitellmPrices } = await import('./import.ts');
      const from = new Date(validFrom);
      const { prices, skipped, unread } =
        source === 'litellm' ? await readLitellmPrices(file!, providers, from) : readGenaiPrices(providers, from);
      if (prices.length === 0) throw new TallyError('INVALID_INPUT', 'The source has no price of these providers.');
      const counts = await store.import(prices, { source, validFrom: from, dryRun }, caller.id);
      if (!dryRun) await refresh();
      return {
        ...counts,
        skipped: skipped.slice(0, MAX_SKIPPED),
        skippedCount: skipped.length,
        unread: [...unread].map(([price, models]) => ({ price, models })),
      };
    },

    async unpriced(scope: Omit<Input<'unpriced'>, 'merchantIds'> & { merchantIds?: readonly string[] | undefined }) {
      const rows = await store.unpriced({ ...scope, limit: MAX_UNPRICED + 1 });
      return {
        truncated: rows.length > MAX_UNPRICED,
        rows: rows.slice(0, MAX_UNPRICED).map((row) => ({
          merchantId: row.merchant_id,
          provider: row.provider || null,
          model: row.model || null,
          events: row.events.toString(),
          promptTokens: row.prompt_tokens.toString(),
          completionTokens: row.completion_tokens.toString(),
          firstTime: row.first_time,
          lastTime: row.last_time,
        })),
      };
    },
  };
}

function present(row: PriceRow): Price {
  return {
    id: row.id,
    provider: row.provider || null,
    model: row.model || null,
    meter: row.meter || null,
    merchantId: row.merchantId || null,
    component: row.component,
    overPromptTokens: Number(row.overPromptTokens),
    amount: plain(row.amount),
    per: Number(row.per),
    validFrom: row.validFrom.toISOString(),
    validTo: row.validTo?.toISOString() ?? null,
    source: row.source,
    createdAt: row.createdAt.toISOString(),
    createdBy: row.createdBy,
    addedIn: row.addedIn,
    removedIn: row.removedIn,
  };
}

function withoutAbsent<T extends object>(filters: T): Partial<T> {
  return Object.fromEntries(Object.entries(filters).filter(([, value]) => value !== undefined)) as Partial<T>;
}
