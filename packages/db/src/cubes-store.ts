import { type Day, eachDay } from '@tally/contracts';
import type { Journal } from './journal-store.ts';
import type { Partitions } from './partitions.ts';
import { sql } from './run-sql.ts';

export type CubesStore = {
  /**
   * Makes a merchant's sums of a range anew: from its entries and adjustments where the days still have their entries, else
   * from the daily sums, which are then all there is. Nothing is counted for the merchant meanwhile; readers see the sums as they were or
   * as they are then. Returns how many days have no entries any more.
   */
  rebuild(merchantId: string, startDate: Day, endDate: Day): Promise<{ closedDays: number }>;
};

/** What is summed, each from what comes before it; `day` is the day, or the first day, that a row sums. */
const SUMS = [
  { name: 'daily', table: 'usage_daily', day: 'date', periods: 'open' },
  { name: 'quarter-hours', table: 'usage_quarter_hours', day: `(bucket at time zone 'UTC')::date`, periods: 'open' },
  { name: 'merchant-usage', table: 'merchant_usage', day: 'date', periods: 'days' },
  { name: 'daily-models', table: 'usage_daily_models', day: 'date', periods: 'days' },
  { name: 'monthly', table: 'usage_monthly', day: 'month', periods: 'months' },
  { name: 'yearly', table: 'usage_yearly', day: 'year', periods: 'years' },
] as const;

/** All that is summed in the transaction that counts, and how to have it again. */
export function createCubesStore(journal: Journal, partitions: Pick<Partitions, 'open'>): CubesStore {
  return {
    async rebuild(merchantId, startDate, endDate) {
      let closedDays = 0;
      for (const [month, days] of byMonth(startDate, endDate)) {
        closedDays += await journal.exclusively([merchantId], async (transaction) => {
          const open = await partitions.open(transaction, days);
          const of = { open, days, months: [`${month}-01`], years: [`${month.slice(0, 4)}-01-01`] };
          for (const { name, table, day, periods } of SUMS) {
            const values = [merchantId, of[periods]];
            await transaction.query(`delete from ${table} where merchant_id = $1 and ${day} = any($2::date[])`, values);
            await transaction.query(sql(`cubes/${name}`), values);
          }
          await transaction.query(sql('touch-days'), [merchantId, days]);
          return days.length - open.length;
        });
      }
      return { closedDays };
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
