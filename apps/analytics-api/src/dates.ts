import { addDays, countDays, type Day, type DayRange, TallyError } from '@tally/contracts';

/** The most ranges that an error suggests. */
const MAX_SUGGESTIONS = 100;

/** Throws INVALID_DATE_ORDER, or DATE_RANGE_TOO_LARGE with ranges that are small enough; both ends of a range count. */
export function assertRange({ startDate, endDate }: DayRange, maxAllowedDays: number): void {
  if (startDate > endDate)
    throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.', {
      details: { startDate, endDate },
    });
  const requestedDays = countDays(startDate, endDate);
  if (requestedDays <= maxAllowedDays) return;
  throw new TallyError(
    'DATE_RANGE_TOO_LARGE',
    `Date range too large. Maximum allowed is ${maxAllowedDays} days, requested ${requestedDays} days.`,
    {
      details: {
        requestedDays,
        maxAllowedDays,
        suggestion: `Break your request into ${Math.ceil(requestedDays / maxAllowedDays)} smaller date ranges`,
        suggestedRanges: suggestRanges(startDate, endDate, maxAllowedDays),
      },
    },
  );
}

/** Returns consecutive ranges of at most `maxDays` that cover the whole. */
export function suggestRanges(startDate: Day, endDate: Day, maxDays: number): DayRange[] {
  const ranges: DayRange[] = [];
  for (let from = startDate; from <= endDate && ranges.length < MAX_SUGGESTIONS; from = addDays(from, maxDays)) {
    const to = addDays(from, maxDays - 1);
    ranges.push({ startDate: from, endDate: to < endDate ? to : endDate });
  }
  return ranges;
}

/** Returns the range of the same number of days just before. */
export function periodBefore({ startDate, endDate }: DayRange): DayRange {
  return { startDate: addDays(startDate, -countDays(startDate, endDate)), endDate: addDays(startDate, -1) };
}
