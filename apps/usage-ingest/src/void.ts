import { type Adjustment, addDays, DAY_MS, type Day, dayOf, eachDay, isTallyError, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { Adjust } from './adjust.ts';
import type { Scales } from './meters/registry.ts';
import { presentLine, typesOf } from './recent.ts';

export type VoidCall = { merchantId: string; id: string; date?: Day | undefined; reason: string };

/**
 * Takes one event back: records an adjustment by its amounts, once. The event stays in the journal. Without `date`,
 * takes the only event with this id. Throws NOT_FOUND for an unknown id, UNAVAILABLE if the event may still wait in
 * Redis, CONFLICT if several days have one or it is voided for another reason, and JOURNAL_DROPPED if the events of the
 * day were dropped.
 */
export type VoidEvent = (call: VoidCall, actor: string) => Promise<Adjustment>;

export function createVoidEvent({
  db,
  adjust,
  scales,
  flushSoon,
  retentionDays,
  now,
}: {
  db: Pick<Db, 'events' | 'partitions'>;
  adjust: Adjust;
  scales: Scales;
  /** Flushes pending events of these merchants, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
  retentionDays: number;
  now: () => number;
}): VoidEvent {
  /** Returns the days of which events may be kept: within the retention, and older ones that were backfilled. */
  async function daysOf(merchantId: string): Promise<Day[]> {
    const first = addDays(dayOf(now()), -retentionDays);
    return [...(await db.events.daysBefore(merchantId, first)), ...eachDay(first, dayOf(now() + DAY_MS))];
  }

  return async ({ merchantId, id, date, reason }, actor) => {
    // An event that waits in Redis can be voided too.
    const complete = await flushSoon([merchantId]);
    const dates = date ? [date] : await daysOf(merchantId);
    const lines = await db.events.withId(merchantId, id, dates);
    const scaleOf = await scales(typesOf(lines));
    const found = lines.map((line) => presentLine(line, true, scaleOf));
    const [event, ...others] = found;
    if (!event) {
      if (date && (await db.partitions.isClosed(date)))
        throw new TallyError(
          'JOURNAL_DROPPED',
          `The events of ${date} are past the retention; adjust its sums instead.`,
        );
      if (!complete)
        throw new TallyError(
          'UNAVAILABLE',
          `Event ${id} is not counted yet: events of merchant ${merchantId} still wait to be flushed. Call again.`,
        );
      throw new TallyError('NOT_FOUND', `Merchant ${merchantId} has no event ${id}${date ? ` on ${date}` : ''}.`);
    }
    if (others.length > 0) {
      const days = found.map((each) => each.date);
      throw new TallyError('CONFLICT', `Events of ${days.length} days have this id: name the date.`, {
        details: { days },
      });
    }
    const dimensions = Object.fromEntries(
      (['userId', 'apiKey', 'model', 'provider'] as const).flatMap((name) =>
        event[name] === null ? [] : [[name, event[name]]],
      ),
    );
    const metrics = Object.fromEntries(Object.entries(event.metrics).map(([type, amount]) => [type, `-${amount}`]));
    const call = {
      id: `void:${event.date}:${id}`,
      merchantId,
      date: event.date,
      metrics,
      dimensions,
      reason,
      voids: { id, time: event.time },
    };
    return adjust(call, actor).catch((error: unknown) => {
      if (!isTallyError(error) || error.code !== 'CONFLICT') throw error;
      throw new TallyError(
        'CONFLICT',
        `Event ${id} of ${event.date} is voided already, for another reason or by another key.`,
      );
    });
  };
}
