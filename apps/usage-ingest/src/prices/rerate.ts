import { createHash } from 'node:crypto';
import { type Day, formatCost, type ingest, TallyError, type Units } from '@tally/contracts';
import type { Db, JournalLine } from '@tally/db';
import type { z } from 'zod';
import type { Registry, RegistryReader } from '../meters/registry.ts';
import type { Repair } from '../reconcile/index.ts';
import type { PriceList } from './price-list.ts';
import type { PriceRegistry } from './registry.ts';

type Contract = (typeof ingest.prices)['rerate'];

/** Prices recorded events again by the current list; see the contract. */
export type Rerate = (scope: z.output<Contract['input']>, actor: string) => Promise<z.input<Contract['output']>>;

const PAGE = 5_000;
const MAX_ROWS = 10_000;

/** The fields that determine an event's price. */
type By = { list: PriceList; scaleOf: Registry['scaleOf'] };
type Dimensions = { user_id: string; api_key: string; model: string; provider: string };
/** The events of a merchant's day with the same dimensions. */
type Group = Dimensions & { events: number; unpriced: number; old: Units; new: Units; times: number };

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
  async function groupsOf(merchantId: string, date: Day, by: By): Promise<Group[]> {
    const groups = new Map<string, Group>();
    const groupOf = ({ user_id, api_key, model, provider }: Dimensions) => {
      const key = JSON.stringify([user_id, api_key, model, provider]);
      const known = groups.get(key);
      if (known) return known;
      const group = { user_id, api_key, model, provider, events: 0, unpriced: 0, old: 0n, new: 0n, times: 0 };
      groups.set(key, group);
      return group;
    };
    for (const row of await db.prices.rerated(merchantId, date)) {
      const group = groupOf(row);
      group.old += row.cost;
      group.times = row.times;
    }
    let after = '';
    for (;;) {
      const lines = await db.prices.pricedEvents(merchantId, date, { after, limit: PAGE });
      for (const line of lines) add(groupOf(dimensionsOf(line)), line, by);
      if (lines.length < PAGE) return [...groups.values()];
      after = lines.at(-1)!.id;
    }
  }

  function add(group: Group, line: JournalLine, { list, scaleOf }: By): void {
    const before = BigInt(line.cost ?? 0);
    const cost = list.costOf(line, scaleOf);
    group.events++;
    if (cost === 'unknown') group.unpriced++;
    group.old += before;
    group.new += typeof cost === 'bigint' ? cost : before;
  }

  return async ({ startDate, endDate, merchantIds, dryRun }, actor) => {
    await registry.refresh();
    const list = registry.current()!;
    const { scaleOf } = await meters.reload();
    const complete = await drain();
    const rows = new Map<string, { merchantId: string; date: Day; group: Group }>();
    let adjustments = 0;
    for (const { merchantId, date } of await db.prices.pricedDays({ startDate, endDate, merchantIds })) {
      const groups = await groupsOf(merchantId, date, { list, scaleOf });
      for (const group of groups) sumInto(rows, merchantId, date, group);
      if (rows.size > MAX_ROWS)
        throw new TallyError(
          'TOO_MANY_ROWS',
          `More than ${MAX_ROWS} rows of merchant, day and model; name fewer days.`,
        );
      if (dryRun) continue;
      const different = groups.filter((group) => group.new !== group.old);
      for (const group of different) await db.corrections.adjust(adjustmentOf(merchantId, date, group, list, actor));
      adjustments += different.length;
      // While Redis is unavailable, the day stays marked as stale, and its totals are repaired later.
      if (different.length > 0) await repair.days([{ merchantId, date }]).catch(() => {});
    }
    const all = [...rows.values()];
    const [old, fresh] = [
      all.reduce((sum, { group }) => sum + group.old, 0n),
      all.reduce((sum, { group }) => sum + group.new, 0n),
    ];
    return {
      ...{ version: list.version, dryRun, complete, adjustments },
      rows: all.map(({ merchantId, date, group }) => ({
        ...{ merchantId, date, provider: group.provider || null, model: group.model || null },
        ...{ events: group.events, unpriced: group.unpriced },
        ...{ old: formatCost(group.old), new: formatCost(group.new), difference: formatCost(group.new - group.old) },
      })),
      ...{ old: formatCost(old), new: formatCost(fresh), difference: formatCost(fresh - old) },
    };
  };
}

const dimensionsOf = ({ user_id = '', api_key = '', model = '', provider = '' }: JournalLine): Dimensions => ({
  ...{ user_id, api_key, model, provider },
});

function sumInto(
  rows: Map<string, { merchantId: string; date: Day; group: Group }>,
  merchantId: string,
  date: Day,
  group: Group,
): void {
  const key = JSON.stringify([merchantId, date, group.provider, group.model]);
  const row = rows.get(key);
  if (!row) {
    rows.set(key, { merchantId, date, group: { ...group } });
    return;
  }
  row.group.events += group.events;
  row.group.unpriced += group.unpriced;
  row.group.old += group.old;
  row.group.new += group.new;
}

/** The adjustment of a group. Its id numbers the re-ratings of the group, so that two concurrent ones make it once. */
function adjustmentOf(merchantId: string, date: Day, group: Group, list: PriceList, actor: string) {
  const { user_id: userId, api_key: apiKey, model, provider, times } = group;
  const digest = createHash('sha256')
    .update(JSON.stringify([userId, apiKey, model, provider]))
    .digest('base64url');
  return {
    ...{ id: `rerate:${date}:${digest.slice(0, 22)}:${times + 1}`, merchantId, date },
    dimensions: { userId, apiKey, model, provider },
    amounts: new Map([['cost', group.new - group.old]]),
    ...{ reason: `Re-rated by version ${list.version} of the price list.`, actor },
  };
}
