import { addDays, type Day, monthOf, type RollupGrain, startOfDay } from '@tally/contracts';
import type { Period } from '@tally/db';

/** ISO weekday: 1 Monday … 7 Sunday. */
export type Weekday = number;

/** Returns the period of a day. Weeks begin with `weekStart`; months are those of the calendar. */
export function periodOf(grain: RollupGrain, day: Day, weekStart: Weekday): Period {
  if (grain === 'daily') return { start: day, end: day };
  if (grain === 'weekly') {
    const start = addDays(day, -((isoWeekday(day) - weekStart + 7) % 7));
    return { start, end: addDays(start, 6) };
  }
  const { startDate: start, endDate: end } = monthOf(day);
  return { start, end };
}

export const periodAfter = (grain: RollupGrain, period: Period, weekStart: Weekday): Period =>
  periodOf(grain, addDays(period.end, 1), weekStart);

export const periodBefore = (grain: RollupGrain, period: Period, weekStart: Weekday): Period =>
  periodOf(grain, addDays(period.start, -1), weekStart);

/** Returns the last period that was complete when `day` began. */
export const lastComplete = (grain: RollupGrain, day: Day, weekStart: Weekday): Period =>
  periodBefore(grain, periodOf(grain, day, weekStart), weekStart);

/** Returns every period that a range of days touches, in order. */
export function periodsOf(grain: RollupGrain, startDate: Day, endDate: Day, weekStart: Weekday): Period[] {
  const periods: Period[] = [];
  for (let period = periodOf(grain, startDate, weekStart); period.start <= endDate; ) {
    periods.push(period);
    period = periodAfter(grain, period, weekStart);
  }
  return periods;
}

function isoWeekday(day: Day): Weekday {
  return new Date(startOfDay(day)).getUTCDay() || 7;
}
