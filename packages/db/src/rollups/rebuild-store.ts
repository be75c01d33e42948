import { type Day, eachDay } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import type { Journal } from '../journal/journal-store.ts';
import type { Partitions } from '../journal/partitions.ts';
import type { MeterRollups } from '../meters/meter-rollups-store.ts';
import { betweenMoments } from '../one-moment.ts';
import { sql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { holdRolledUp } from './rolled-up.ts';

export type RebuildStore = {
  /**
   * Rebuilds a merchant's sums of a range: from events and adjustments if the days still have their events, else from
   * the daily sums. Updates the rollups of all merchants. Nothing is counted for the merchant meanwhile; readers see
   * the sums before or after. Returns how many days have no events any more.
   */
  merchant(merchantId: string, startDate: Day, endDate: Day): Promise<{ closedDays: number }>;
  /** Rebuilds the rollups of all merchants from those of each, for the months of a range. */
  platform(startDate: Day, endDate: Day): Promise<void>;
};

type Periods = { open: Day[]; days: Day[]; month: Day; year: Day };

/** The rollups, each built from those before it; `where`: the rows of a merchant ($1) and its periods ($2). */
const SUMS: { name: string; table: string; where: string; periods: keyof Periods }[] = [
  { name: 'daily', table: 'usage_daily', where: 'date = any($2::date[])', periods: 'open' },
  {
    name: 'quarter-hours',
    table: 'usage_quarter_hours',
    where: `(bucket at time zone 'UTC')::date = any($2::date[])`,
    periods: 'open',
  },
  { name: 'priced', table: 'usage_priced', where: 'date = any($2::date[])', periods: 'open' },
  { name: 'merchant-usage', table: 'merchant_usage', where: 'date = any($2::date[])', periods: 'days' },
  { name: 'daily-models', table: 'usage_daily_models', where: 'date = any($2::date[])', periods: 'days' },
  { name: 'monthly', table: 'usage_monthly', where: 'month = $2::date', periods: 'month' },
  {
    name: 'quarter-months',
    table: 'usage_quarter_months',
    where: `quarter_month >= $2::date and quarter_month < ($2::date + interval '1 month')::date`,
    periods: 'month',
  },
  { name: 'monthly-models', table: 'usage_monthly_models', where: 'month = $2::date', periods: 'month' },
  { name: 'yearly', table: 'usage_yearly', where: 'year = $2::date', periods: 'year' },
];
const PLATFORM = [
  { name: 'platform-daily', table: 'usage_platform_daily', day: 'date' },
  { name: 'platform-monthly', table: 'usage_platform_monthly', day: 'month' },
  { name: 'platform-users', table: 'usage_platform_users', day: 'month' },
];

/** All rollups, and how to rebuild them. */
export function createRebuildStore(
  dataSource: DataSource,
  journal: Journal,
  partitions: Pick<Partitions, 'open'>,
  meters: Pick<MeterRollups, 'rebuildDays'>,
): RebuildStore {
  return {
    async merchant(merchantId, startDate, endDate) {
      let closedDays = 0;
      for (const [month, days] of byMonth(startDate, endDate)) {
        closedDays += await journal.exclusively([merchantId], async (transaction) => {
          const open = await partitions.open(transaction, days);
          const of: Periods = { open, days, month: `${month}-01`, year: `${month.slice(0, 4)}-01-01` };
          await holdRolledUp(transaction);
          // What is not derived yet stays so: the derived rollups are rebuilt without it.
          await transaction.query(sql('hold-flushes'));
          await transaction.query(sql('rebuild/platform'), [merchantId, of.month, -1]);
          for (const { name, table, where, periods } of SUMS) {
            const values = [merchantId, of[periods]];
            await transaction.query(`delete from ${table} where merchant_id = $1 and ${where}`, values);
            await transaction.query(sql(`rebuild/${name}`), values);
          }
          await transaction.query(sql('rebuild/platform'), [merchantId, of.month, 1]);
          await transaction.query(sql('rebuild/rollup-rows'), [merchantId, of.month, of.year]);
          await transaction.query(sql('touch-days'), [merchantId, days]);
          const closed = days.filter((day) => !open.includes(day));
          await meters.rebuildDays(transaction, merchantId, { open, closed });
          await betweenMoments(dataSource, transaction);
          return closed.length;
        });
      }
      return { closedDays };
    },

    async platform(startDate, endDate) {
      await inTransaction(dataSource, async (transaction) => {
        await holdRolledUp(transaction);
        // Every change of a merchant's sums changes these tables in the same transaction, and waits here for this one.
        const tables = PLATFORM.map(({ table }) => table).join(', ');
        await transaction.query(`lock table ${tables} in share row exclusive mode`);
        for (const { name, table, day } of PLATFORM) {
          const within = `${day} >= date_trunc('month', $1::date) and ${day} < date_trunc('month', $2::date) + interval '1 month'`;
          await transaction.query(`delete from ${table} where ${within}`, [startDate, endDate]);
          await transaction.query(sql(`rebuild/${name}`), [startDate, endDate]);
        }
      });
    },
  };
}

function byMonth(startDate: Day, endDate: Day): Map<string, Day[]> {
  const months = new Map<string, Day[]>();
  for (const day of eachDay(startDate, endDate)) {
    const month = day.slice(0, 7);
    months.set(month, [...(months.get(month) ?? []), day]);
  }
  return months;
}
