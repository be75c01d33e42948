import { type Day, monthOf } from '@tally/contracts';
import { z } from 'zod';
import type { MeterRow } from '../entities/meter.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { activeMeters } from './meter-state.ts';
import { byKind, FOLDED, type Folded, finerRows, foldRows, type Grain } from './rollup-sql.ts';

const FoundRow = z.object({ found: z.boolean() });
const PeriodRow = z.object({ merchant_id: z.string(), period: DateText });

/** A late event makes a trimester dirty, whose months are read meanwhile; so it waits longer to be rebuilt once. */
const PATIENCE: Partial<Record<Grain, number>> = { trimester: 60, year: 60 };

/** Marks a merchant's month as dirty, and the day unless it is older than quarter hours are kept. */
export async function markDirty(
  transaction: Executor,
  { merchantId, date }: MerchantDay,
  quartersFrom: Day,
): Promise<void> {
  const periods: [Grain, Day][] = [['month', monthOf(date).startDate]];
  if (date >= quartersFrom) periods.unshift(['day', date]);
  const values = [merchantId, periods.map(([grain]) => grain), periods.map(([, period]) => period)];
  await transaction.query(sql('meters/mark-periods'), values);
}

type Due = { today: Day; quietMs: number };

/** The first period of a grain that is not over, and the time without writes after which earlier ones are rebuilt. */
const dueOf = ({ grain, periodOf }: Folded, { today, quietMs }: Due) => ({
  firstOpen: periodOf(today).startDate,
  afterMs: quietMs * (PATIENCE[grain] ?? 1),
});

/** Returns whether there may be something to rebuild. */
export async function hasDirty(executor: Executor, due: Due): Promise<boolean> {
  const dues = FOLDED.map((folded) => dueOf(folded, due));
  const values = [
    FOLDED.map(({ grain }) => grain),
    dues.map(({ firstOpen }) => firstOpen),
    dues.map(({ afterMs }) => afterMs),
  ];
  return (await runSql(executor, 'meters/has-dirty-periods', values, FoundRow))[0]!.found;
}

/**
 * Rebuilds dirty days before `today`, months, trimesters and years from the next finer rollup; at most `limit` of each.
 * `quietMs`: see `MeterRollups.fold`. Returns the number of periods.
 */
export async function foldDirty(transaction: Executor, { limit, ...due }: Due & { limit: number }): Promise<number> {
  const meters = await activeMeters(transaction);
  let count = 0;
  for (const folded of FOLDED) {
    const { grain, table, length } = folded;
    const finerGrain = FOLDED.find((each) => each.table === folded.finer)?.grain ?? null;
    const { firstOpen, afterMs } = dueOf(folded, due);
    const values = [grain, firstOpen, afterMs, limit, finerGrain, length];
    const dirty = await runSql(transaction, 'meters/dirty-periods', values, PeriodRow);
    if (dirty.length === 0) continue;
    const periods = [dirty.map((row) => row.merchant_id), dirty.map((row) => row.period)];
    await rebuildPeriods(transaction, folded, { meters, periods });
    await transaction.query(sql('meters/clear-marks'), [...periods, grain]);
    // Months were marked together with their days.
    const coarser = grain === 'day' ? undefined : FOLDED.find((each) => each.finer === table);
    if (coarser) await transaction.query(sql('meters/mark-coarser'), [...periods, coarser.grain, coarser.unit]);
    count += dirty.length;
  }
  return count;
}

/** Replaces periods of a rollup. `periods`: the merchants, and the period of each. */
async function rebuildPeriods(
  transaction: Executor,
  folded: Folded,
  { meters, periods }: { meters: readonly MeterRow[]; periods: readonly unknown[] },
): Promise<void> {
  const { table, column, finer } = folded;
  const wanted = 'unnest($1::text[], $2::date[]) as wanted (merchant_id, period)';
  await transaction.query(
    `delete from ${table} as coarse
     using ${wanted}
     where coarse.meter_id = any($3) and coarse.merchant_id = wanted.merchant_id and coarse.${column} = wanted.period`,
    [...periods, meters.map(({ id }) => id)],
  );
  for (const [kind, own] of byKind(meters)) {
    const from = `${wanted}
      join ${finer} as fine on fine.meter_id = any($3) and fine.merchant_id = wanted.merchant_id
        and ${finerRows(folded, 'fine', ['wanted.period', 'wanted.period'])}`;
    const text = foldRows(kind, from, table, 'wanted.period');
    await transaction.query(text, [...periods, own.map(({ id }) => id)]);
  }
}
