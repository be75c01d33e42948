import {
  addDays,
  DAY_MS,
  type Day,
  dayOf,
  HOUR_MS,
  type Interval,
  MINUTE_MS,
  QUARTER_HOUR_MS,
  startOfDay,
  TallyError,
} from '@tally/contracts';

/** A period of a series: `start` is its beginning by the calendar; `from` to `to` is the part inside the range. */
export type Period = { start: number; from: number; to: number };

/** The limit of points in one series; more is a mistake of the caller, or an export. */
const MAX_POINTS = 10_000;
/** No zone is further from UTC, or ever was. */
const MAX_OFFSET_MS = 16 * HOUR_MS;

/**
 * Returns the periods of a range of days in a time zone, in order, without holes or overlaps. A day begins at its first
 * moment there, so it has 23, 24 or 25 hours; hours begin on the full hour of the local clock. A day that a zone
 * skipped (Samoa, 2011-12-30) has no period.
 */
export function periodsOf(
  { startDate, endDate }: { startDate: Day; endDate: Day },
  interval: Interval,
  timeZone: string,
): Period[] {
  const offset = offsetsOf(timeZone);
  const begin = (day: Day) => startOfLocalDay(day, offset);
  const periods: Period[] = [];
  const add = (start: number, from: number, to: number) => {
    if (from >= to) return;
    if (periods.length === MAX_POINTS)
      throw new TallyError('TOO_MANY_POINTS', `The series has more than ${MAX_POINTS} points.`, {
        details: { maxPoints: MAX_POINTS },
      });
    periods.push({ start, from, to });
  };

  let from = begin(startDate);
  for (let day = startDate; day <= endDate; ) {
    const first = firstDay(day, interval);
    const next = nextPeriod(first, interval);
    const to = begin(next > endDate ? addDays(endDate, 1) : next);
    if (interval === '15m' || interval === 'hour') {
      const starts = clockStarts(from, to, interval === 'hour' ? 60 : 15, offset);
      for (const [index, start] of starts.entries()) add(start, start, starts[index + 1] ?? to);
    } else add(first === day ? from : begin(first), from, to);
    from = to;
    day = next;
  }
  return periods;
}

function firstDay(day: Day, interval: Interval): Day {
  if (interval === 'month') return `${day.slice(0, 8)}01`;
  if (interval === 'week') return addDays(day, -((new Date(startOfDay(day)).getUTCDay() + 6) % 7));
  return day;
}

function nextPeriod(first: Day, interval: Interval): Day {
  if (interval === 'month') return `${addDays(first, 31).slice(0, 8)}01`;
  return addDays(first, interval === 'week' ? 7 : 1);
}

type OffsetAt = (ms: number) => number;

/** Returns how far the local clock is ahead of UTC, by the time zone database of this process. */
function offsetsOf(timeZone: string): OffsetAt {
  // The default: the days of a year would take 8 ms.
  if (timeZone === 'UTC') return () => 0;
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    era: 'short',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  return (ms) => {
    const parts = Object.fromEntries(format.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    const { year, month, day, hour, minute, second } = parts as Record<string, number>;
    return Date.UTC(year!, month! - 1, day!, hour!, minute!, second!) - Math.floor(ms / 1000) * 1000;
  };
}

/** Returns the first moment with the local date `day`, or later if the zone has no such day. */
function startOfLocalDay(day: Day, offset: OffsetAt): number {
  const midnight = startOfDay(day);
  let [before, after] = [midnight - MAX_OFFSET_MS, midnight + MAX_OFFSET_MS];
  const settled = offset(before);
  if (settled === offset(after)) return midnight - settled;
  // Seconds are enough: no zone ever changed its clock between two.
  while (after - before > 1000) {
    const middle = before + Math.floor((after - before) / 2000) * 1000;
    if (dayOf(middle + offset(middle)) >= day) after = middle;
    else before = middle;
  }
  return after;
}

/** Returns where the quarters or hours of the local clock begin within a day, starting with the day itself. */
function clockStarts(from: number, to: number, minutes: number, offset: OffsetAt): number[] {
  const first = offset(from);
  const constant = to - from <= DAY_MS && first === offset(to - 1000);
  const starts = [from];
  for (let at = from + QUARTER_HOUR_MS; at < to; at += QUARTER_HOUR_MS) {
    const local = at + (constant ? first : offset(at));
    if (local % (minutes * MINUTE_MS) === 0) starts.push(at);
  }
  return starts;
}
