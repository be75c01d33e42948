import {
  ERRORS,
  type ErrorCode,
  HTTP_METHODS,
  isTallyError,
  MAX_BATCH,
  type Rejection,
  TallyError,
} from '@tally/contracts';
import type { SourceCounts, SourceRejection, SourcesStore } from '@tally/db';
import { REJECTIONS_KEPT } from '@tally/db';
import type { Admitted, Log, Route } from '@tally/service';
import { Counter, type Registry } from 'prom-client';
import type { Accept, Accepted } from '../accept.ts';
import { decoration } from './naming.ts';
import type { EventsRoute, Item, OtherRoute, Outcome, Source, SourceRequest } from './source.ts';

export type Recording = {
  /** The only merchant whose events may be counted; null: any. */
  boundTo: string | null;
  /** Who sent the events; by default the source itself. */
  callerId?: string;
  backfill: boolean;
  /** See `Source.comparesReports`. */
  isCompared: boolean;
};

export type Pipeline = {
  /** Returns the routes of a source. */
  routes(source: Source): Route[];
  /**
   * Counts items of a source that pulls or reads files. Resolves when each is stored or rejected. Throws UNAVAILABLE if
   * that is uncertain: the same items can be recorded again.
   */
  record(source: string, items: readonly Item[], options: Recording): Promise<Outcome>;
  /** Saves what was received since the last save. */
  save(): Promise<void>;
};

const MAX_ID = 128;

/**
 * Creates the one path from a source to the journal: checks and counts events like `usage.record`, and stores the
 * counts and the last rejections of each source.
 */
export function createPipeline({
  accept,
  store,
  registry,
  log,
  now,
}: {
  accept: Pick<Accept, 'record'>;
  store: Pick<SourcesStore, 'add'>;
  registry: Registry;
  log: Log;
  now: () => number;
}): Pipeline {
  const events = new Counter({
    name: 'tally_source_events_total',
    help: 'Events of sources by what became of them; a request that cannot be read is one rejected event; without_tokens: accepted calls whose source does not report tokens.',
    labelNames: ['source', 'result'],
    registers: [registry],
  });
  let counts = new Map<string, SourceCounts>();
  let rejections: SourceRejection[] = [];

  function note(source: string, outcome: Omit<Outcome, 'results'>, merchantId: string | null): void {
    const { accepted, duplicates, skipped, rejected } = outcome;
    events.inc({ source, result: 'accepted' }, accepted);
    events.inc({ source, result: 'duplicate' }, duplicates);
    events.inc({ source, result: 'rejected' }, rejected.length);
    events.inc({ source, result: 'skipped' }, skipped);
    const at = new Date(now());
    const none = { source, accepted: 0, duplicates: 0, rejected: 0, skipped: 0, firstSeenAt: at };
    const before = counts.get(source) ?? none;
    counts.set(source, {
      ...before,
      accepted: before.accepted + accepted,
      duplicates: before.duplicates + duplicates,
      rejected: before.rejected + rejected.length,
      skipped: before.skipped + skipped,
      lastSeenAt: at,
    });
    if (rejected.length === 0) return;
    const kept = rejected.slice(-REJECTIONS_KEPT).map(({ id, code, message }) => ({
      source,
      at,
      merchantId,
      // Ids and texts of rejected events can have what Postgres does not store.
      eventId: id === null ? null : decoration(id),
      code,
      message: decoration(message),
    }));
    const own = [...rejections.filter((each) => each.source === source), ...kept].slice(-REJECTIONS_KEPT);
    rejections = [...rejections.filter((each) => each.source !== source), ...own];
    log.warn({ source, rejected: rejected.length, first: kept[0] }, 'events of a source were not counted');
  }

  let saving: Promise<void> = Promise.resolve();

  async function saveCounts(): Promise<void> {
    const [saved, kept] = [counts, rejections];
    if (saved.size === 0) return;
    counts = new Map();
    rejections = [];
    try {
      await store.add([...saved.values()], kept);
    } catch (error) {
      // Bounded: one row per source, and a limited number of rejections of each.
      for (const [source, before] of saved) counts.set(source, merged(before, counts.get(source)));
      rejections = [...kept, ...rejections].slice(-REJECTIONS_KEPT * counts.size);
      throw error;
    }
  }

  async function record(source: string, items: readonly Item[], options: Recording): Promise<Outcome> {
    const results: Outcome['results'] = [];
    const readable: number[] = [];
    for (const [index, item] of items.entries()) {
      if (item === 'skipped') results.push('skipped');
      else if ('refused' in item) results.push(rejectionOf(index, item.id ?? null, item.refused));
      else {
        results.push('accepted');
        readable.push(index);
      }
    }
    for (let start = 0; start < readable.length; start += MAX_BATCH) {
      const piece = readable.slice(start, start + MAX_BATCH);
      const { repeats, rejected } = await recordPiece(
        piece.map((index) => entryOf(items[index]!)),
        { callerId: source, ...options },
      );
      for (const place of repeats) results[piece[place]!] = 'duplicate';
      for (const each of rejected) results[piece[each.index]!] = { ...each, index: piece[each.index]! };
    }
    for (const index of readable) results[index] = bySource(results[index]!, index, items[index]!);
    const outcome = outcomeOf(results);
    const lacking = readable.filter((index) => results[index] === 'accepted' && lacksTokens(items[index]!)).length;
    if (lacking > 0) events.inc({ source, result: 'without_tokens' }, lacking);
    note(source, outcome, options.boundTo);
    return outcome;
  }

  /** Rejects events of other merchants one by one, even if the whole batch is theirs. */
  async function recordPiece(
    entries: object[],
    { boundTo, callerId, backfill, isCompared }: Required<Recording>,
  ): Promise<Accepted> {
    try {
      return await accept.record({ entries, boundTo, callerId, backfill, isCompared });
    } catch (error) {
      if (!isTallyError(error) || error.code !== 'MERCHANT_FORBIDDEN') throw error;
      const { rejected } = error.details as { rejected: Rejection[] };
      return { accepted: 0, repeats: [], rejected, warnings: [] };
    }
  }

  /** The result of an event with an earlier report known to the source. */
  function bySource(result: Outcome['results'][number], index: number, item: Item): Outcome['results'][number] {
    if (item === 'skipped' || !('entry' in item) || !item.seen) return result;
    const { differs } = item.seen;
    const isRepeat = result === 'duplicate' || (typeof result === 'object' && result.code === 'ID_CONFLICT');
    if (!isRepeat) return result;
    if (differs === undefined) return 'duplicate';
    return { index, id: item.entry.id, code: 'ID_CONFLICT', message: differs };
  }

  function eventsRoute(source: Source, route: EventsRoute): Route {
    const { path, maxBodyBytes, maxItems, binaryType, read, answer } = route;
    return {
      ...common(source),
      method: 'POST',
      path,
      access: 'record',
      anyType: true,
      ...(maxBodyBytes && { maxBodyBytes }),
      ...(maxItems && { maxItems }),
      ...(binaryType && { binaryType }),
      async answer(c, admitted) {
        const request = requestOf(c, admitted, now());
        const { merchantId, id: callerId } = admitted.caller;
        let items: readonly Item[];
        try {
          items = await read(request);
        } catch (error) {
          if (isTallyError(error) && ERRORS[error.code].status < 500)
            note(source.name, { ...NOTHING, rejected: [rejectionOf(0, null, error)] }, merchantId);
          throw error;
        }
        const outcome = await record(source.name, items, {
          boundTo: merchantId,
          callerId,
          backfill: false,
          isCompared: source.comparesReports ?? false,
        });
        const { rejected } = outcome;
        if (rejected.length > 0 && rejected.length === items.length && rejected.every(isForbidden))
          throw new TallyError('MERCHANT_FORBIDDEN', rejected[0]!.message, { details: { rejected } });
        return answer(outcome, request);
      },
    };
  }

  const otherRoute = (source: Source, { method, path, access, maxBodyBytes, answer }: OtherRoute): Route => ({
    ...common(source),
    method,
    path,
    access,
    anyType: true,
    ...(maxBodyBytes && { maxBodyBytes }),
    answer: (c, admitted) => answer(requestOf(c, admitted, now())),
  });

  return {
    record,
    routes: (source) => [
      ...source.events.map((route) => eventsRoute(source, route)),
      ...(source.others ?? []).map((route) => otherRoute(source, route)),
      ...(source.prefixes ?? []).flatMap((prefix) =>
        HTTP_METHODS.map(
          (method): Route => ({
            ...common(source),
            method,
            path: `${prefix}/*`,
            access: 'key',
            anyType: true,
            answer(c) {
              throw new TallyError('NOT_FOUND', `Tally does not have ${method} ${c.req.path}.`);
            },
          }),
        ),
      ),
    ],
    save() {
      // One after the other: a save that finds nothing to add must not answer before the counts of another are stored.
      saving = saving.then(saveCounts, saveCounts);
      return saving;
    },
  };
}

/** Returns a rejection as an error, for products that answer one event with an error of its own. */
export const refusalOf = ({ code, message }: Rejection): TallyError => new TallyError(code as ErrorCode, message);

const NOTHING = { accepted: 0, duplicates: 0, skipped: 0, rejected: [] };

const common = ({ errorBody, requestIdHeader }: Source) => ({
  source: true as const,
  ...(errorBody && { errorBody }),
  ...(requestIdHeader && { requestIdHeader }),
});

const isForbidden = ({ code }: Rejection) => code === 'MERCHANT_FORBIDDEN';

const lacksTokens = (item: Item) => item !== 'skipped' && 'lacks' in item && item.lacks === 'tokens';

const entryOf = (item: Item) => (item as Extract<Item, { entry: unknown }>).entry;

const rejectionOf = (
  index: number,
  id: string | null,
  { code, message }: Pick<Rejection, 'code' | 'message'>,
): Rejection => ({
  index,
  id: id?.slice(0, MAX_ID) ?? null,
  code,
  message,
});

function outcomeOf(results: Outcome['results']): Outcome {
  const count = (wanted: string) => results.filter((result) => result === wanted).length;
  const rejected = results.filter((result) => typeof result === 'object');
  return { results, accepted: count('accepted'), duplicates: count('duplicate'), skipped: count('skipped'), rejected };
}

function merged(before: SourceCounts, after: SourceCounts | undefined): SourceCounts {
  if (!after) return before;
  return {
    source: before.source,
    accepted: before.accepted + after.accepted,
    duplicates: before.duplicates + after.duplicates,
    rejected: before.rejected + after.rejected,
    skipped: before.skipped + after.skipped,
    firstSeenAt: before.firstSeenAt,
    lastSeenAt: after.lastSeenAt,
  };
}

function requestOf(c: Parameters<Route['answer']>[0], { caller, body, call }: Admitted, now: number): SourceRequest {
  const { url, headers } = c.req.raw;
  return { caller, body, headers, params: c.req.param(), query: new URL(url).searchParams, now, call };
}
