import { add, isNegative, isZero, roundUpToCents, scale } from './quantity.ts';
import { countDays, daysOfMonth, monthOf } from './time.ts';

export type Forecast = {
  /** Dollars, rounded up to cents. */
  estimate: string;
  /** Days of the month before today, and after it. */
  closedDays: number;
  daysLeft: number;
};

/**
 * Estimates the spend of the month of `today`: `spent`, plus the mean of the earlier days for each later day. Returns
 * null without earlier or later days. Never below `spent`.
 */
export function forecast({
  spent,
  byDay,
  today,
}: {
  spent: string;
  byDay: readonly { date: string; cost: string }[];
  today: string;
}): Forecast | null {
  const { startDate, endDate } = daysOfMonth(monthOf(today));
  const closedDays = countDays({ startDate, endDate: today }) - 1;
  const daysLeft = countDays({ startDate: today, endDate }) - 1;
  const closed = add(...byDay.filter(({ date }) => date < today).map(({ cost }) => cost));
  if (closedDays < 1 || daysLeft < 1 || isZero(closed) || isNegative(closed)) return null;
  return { estimate: roundUpToCents(add(spent, scale(closed, daysLeft, closedDays))), closedDays, daysLeft };
}
