import { type Coverage, type DayRange, type PlanPart, parseTime, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';

/** A query as the numbers were known at a moment; undefined: as they are now. */
export type KnownOn = { asKnownOn?: string | undefined };

/** Returns the parts to subtract from the rollups of a range: what was counted after the moment. */
export const laterThan = ({ asKnownOn }: KnownOn, { startDate, endDate }: DayRange): PlanPart[] =>
  asKnownOn === undefined ? [] : [{ cube: 'usage_later', startDate, endDate, less: true }];

/** Returns the coverage of an answer that shows nothing counted after the moment. */
export function knownOn(coverage: Coverage, { asKnownOn }: KnownOn): Coverage {
  if (asKnownOn === undefined || coverage.asOf === null) return coverage;
  return { ...coverage, asOf: new Date(Math.min(parseTime(asKnownOn)!, Date.parse(coverage.asOf))).toISOString() };
}

/**
 * Throws if a moment cannot be answered: INVALID_INPUT if it is ahead, JOURNAL_DROPPED if events of the range that were
 * counted later are no longer in the journal. Returns the moment from which the journal has all that was counted; null
 * if it has everything.
 */
export async function assertKnown(
  { asKnownOn }: KnownOn,
  range: DayRange,
  { db, now }: { db: Pick<Db, 'usage'>; now: () => number },
): Promise<Date | null> {
  if (asKnownOn === undefined) return null;
  const moment = parseTime(asKnownOn)!;
  if (moment > now()) throw new TallyError('INVALID_INPUT', 'asKnownOn: Expected a moment that is not in the future.');
  const from = await db.usage.knownFrom(range);
  if (from === null || moment >= Number(from)) return from;
  throw new TallyError(
    'JOURNAL_DROPPED',
    `Events of ${range.startDate} to ${range.endDate} that were counted after ${asKnownOn} are no longer in the journal; ` +
      `these days can be answered as known on ${from.toISOString()} or later.`,
    { details: { knownFrom: from.toISOString() } },
  );
}
