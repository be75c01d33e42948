import {
  addDays,
  type Day,
  dayOf,
  type MeterQuery,
  parseTime,
  QUARTER_HOUR_MS,
  startOfDay,
  TallyError,
} from '@tally/contracts';
import { type Period, periodsOf } from './zone.ts';

export const isMidnight = (ms: number) => startOfDay(dayOf(ms)) === ms;

/**
 * Returns the windows of a query, in order, without holes. Throws INVALID_INPUT unless the range begins and ends on
 * window borders, which are on quarter hours; with `anyMoment`, a total may begin and end anywhere.
 */
export function windowsOf({ window, timeZone, ...range }: MeterQuery, { anyMoment }: { anyMoment: boolean }): Period[] {
  const moments = range.from !== undefined && range.to !== undefined;
  const [from, to] = moments ? [parseTime(range.from!)!, parseTime(range.to!)!] : [0, 0];
  if (moments && from >= to) throw new TallyError('INVALID_INPUT', '`from` must be before `to`.');
  if (!moments && range.startDate! > range.endDate!)
    throw new TallyError('INVALID_DATE_ORDER', '`startDate` must not be after `endDate`.');
  if (window === 'total') {
    if (moments) return [anyMoment ? { start: from, from, to } : quarters({ start: from, from, to })];
    const days = periodsOf({ startDate: range.startDate!, endDate: range.endDate! }, 'month', timeZone);
    if (days.length === 0) throw noDays(timeZone);
    return [quarters({ start: days[0]!.from, from: days[0]!.from, to: days.at(-1)!.to })];
  }
  const days = moments
    ? { startDate: localDay(from, timeZone), endDate: localDay(to - 1, timeZone) }
    : { startDate: range.startDate!, endDate: range.endDate! };
  const whole = moments ? wholeDays(days, window) : days;
  const periods = periodsOf(whole, window, timeZone).filter(
    (period) => !moments || (period.to > from && period.from < to),
  );
  const [first, last] = [periods[0], periods.at(-1)];
  if (!first || !last) throw noDays(timeZone);
  // A window cut by the range begins before it, or would end after it.
  const isCut =
    first.start !== first.from ||
    (moments ? first.from !== from || last.to !== to : endsEarly(last, whole.endDate, window, timeZone));
  if (isCut)
    throw new TallyError(
      'INVALID_INPUT',
      `The range must begin and end with a ${window}${window === 'week' ? ' (Monday to Sunday)' : ''} in ${timeZone}.`,
      { details: { windowStart: new Date(first.start).toISOString() } },
    );
  return periods.map(quarters);
}

const noDays = (timeZone: string) => new TallyError('INVALID_INPUT', `The range has no day in ${timeZone}.`);

/** Returns true if the last window of a range of days ends after the range. */
function endsEarly(last: Period, endDate: Day, window: MeterQuery['window'], timeZone: string): boolean {
  if (window === 'hour' || window === 'day') return false;
  const [whole] = periodsOf(
    { startDate: endDate, endDate: addDays(endDate, 31) },
    window as 'week' | 'month',
    timeZone,
  );
  return whole !== undefined && whole.to > last.to;
}

/** Returns days around a range that contain its whole windows. */
function wholeDays({ startDate, endDate }: { startDate: Day; endDate: Day }, window: MeterQuery['window']) {
  if (window === 'hour' || window === 'day') return { startDate, endDate };
  const month = window === 'month';
  const monday = (day: Day) => addDays(day, -((new Date(startOfDay(day)).getUTCDay() + 6) % 7));
  return {
    startDate: month ? `${startDate.slice(0, 8)}01` : monday(startDate),
    endDate: month
      ? addDays(`${addDays(`${endDate.slice(0, 8)}01`, 31).slice(0, 8)}01`, -1)
      : addDays(monday(endDate), 6),
  };
}

function localDay(ms: number, timeZone: string): Day {
  return new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' }).format(ms);
}

/** Throws INVALID_INPUT if a window does not begin or end on a quarter hour. */
function quarters(period: Period): Period {
  if (period.from % QUARTER_HOUR_MS === 0 && period.to % QUARTER_HOUR_MS === 0) return period;
  throw new TallyError('INVALID_INPUT', 'The range must begin and end on a quarter hour of UTC.');
}
