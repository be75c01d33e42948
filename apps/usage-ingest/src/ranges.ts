import { countDays, type DayRange, TallyError } from '@tally/contracts';

/** Throws INVALID_DATE_ORDER. */
export function assertOrder({ startDate, endDate }: DayRange): void {
  if (startDate > endDate) throw new TallyError('INVALID_DATE_ORDER', '`startDate` must not be after `endDate`.');
}

/** Throws INVALID_DATE_ORDER, or DATE_RANGE_TOO_LARGE beyond `maxDays`. */
export function assertRange(range: DayRange, maxDays: number): void {
  assertOrder(range);
  const days = countDays(range.startDate, range.endDate);
  if (days > maxDays)
    throw new TallyError('DATE_RANGE_TOO_LARGE', `The range has ${days} days; at most ${maxDays} are allowed.`);
}
