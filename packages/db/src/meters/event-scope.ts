import type { Bind } from '../run-sql.ts';

/** A part of a quarter hour of a day: from one moment (inclusive) to another (exclusive). */
export type Edge = { date: string; from: string; until: string };

/** From one quarter hour (inclusive) to another (exclusive). */
export type QuarterHours = { from: string; until: string };

/** Selects the events to read. */
export type EventScope =
  /** Events of flushes, between these days. */
  | { of: 'flushes'; ids: readonly string[]; first: string; last: string }
  /** Events of flushes that are not derived yet, within `inner`, and all of the `edges`, whether derived or not. */
  | {
      of: 'pending';
      merchantIds?: readonly string[] | undefined;
      first: string;
      last: string;
      inner?: QuarterHours;
      edges?: readonly Edge[] | undefined;
    }
  /** Those within `range` that were counted, and adjustments that were made, until a moment. */
  | {
      of: 'known';
      on: string;
      merchantIds?: readonly string[] | undefined;
      first: string;
      last: string;
      range: Omit<Edge, 'date'>;
    }
  /** Derived events of merchants' day and its adjustments; with `within`, only some quarter hours. */
  | { of: 'day'; merchantIds: readonly string[]; date: string; within?: QuarterHours | undefined }
  /** The history of a meter on a day: events derived before its run, of merchants after one and up to another. */
  | { of: 'history'; date: string; after: string; upTo: string | null; before: string }
  /** Some adjustments. */
  | { of: 'adjustments'; merchantId: string; ids: readonly string[] };

const EVENT = `false as adjusted, event.merchant_id, event.date, event.id, event.time, event.failed, event.user_id,
    event.api_key, event.model, event.provider, event.requests, event.failed_requests, event.prompt_tokens,
    event.completion_tokens, event.cost, event.metrics, event.properties, event.folded`;
/** It has a day but no time: intraday it counts at the start of its day. */
const ADJUSTMENT = `true as adjusted, event.merchant_id, event.date, event.id,
    event.date::timestamp at time zone 'UTC' as time, null::boolean as failed, event.user_id, event.api_key,
    event.model, event.provider, event.requests, event.failed_requests, event.prompt_tokens, event.completion_tokens,
    event.cost, event.metrics, null::jsonb as properties, event.folded`;
/** The event is voided; `more`: a further condition on its void. */
const voided = (more = '') => `exists (
    select from usage_adjustments as voided
    where voided.void_of is not null and voided.merchant_id = event.merchant_id and voided.date = event.date
      and voided.void_of = event.id${more})`;
const NOT_VOIDED = `not ${voided()}`;

/** The unchanged rows of the journal to read, without voided ones. */
export function rawEvents(scope: EventScope, bind: Bind): string {
  switch (scope.of) {
    case 'flushes':
      return eventsOfFlushes(scope, bind);
    case 'pending':
      return pendingEvents(scope, bind);
    case 'known':
      return knownEvents(scope, bind);
    case 'day':
      return eventsOfDay(scope, bind);
    case 'history':
      return historyEvents(scope, bind);
    case 'adjustments':
      return addedAdjustments(scope, bind);
  }
}

type ScopeOf<Kind extends EventScope['of']> = Extract<EventScope, { of: Kind }>;

function eventsOfFlushes(scope: ScopeOf<'flushes'>, bind: Bind): string {
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        where event.flush_id = any(${bind(scope.ids)}::bigint[])
          and event.date between ${bind(scope.first)}::date and ${bind(scope.last)}::date and ${NOT_VOIDED}`;
}

function pendingEvents(scope: ScopeOf<'pending'>, bind: Bind): string {
  const merchants = scope.merchantIds ? `and event.merchant_id = any(${bind(scope.merchantIds)}::text[])` : '';
  const edges = (scope.edges ?? []).map(({ date, ...edge }) => ({
    date: `event.date = ${bind(date)}::date`,
    isWithin: (moment: string) =>
      `${moment} >= ${bind(edge.from)}::timestamptz and ${moment} < ${bind(edge.until)}::timestamptz`,
  }));
  const { inner } = scope;
  const within = inner
    ? `and event.time >= ${bind(inner.from)}::timestamptz and event.time < ${bind(inner.until)}::timestamptz`
    : '';
  const pending = `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_flushes as flush
        join usage_events as event
          on event.flush_id = flush.id and event.date between flush.first_date and flush.last_date
        where flush.metered is null ${merchants}
          and event.date between ${bind(scope.first)}::date and ${bind(scope.last)}::date and ${NOT_VOIDED}
          ${within}`;
  return [
    pending,
    ...edges.flatMap(({ date, isWithin }) => [
      `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        where ${date} ${merchants} and ${isWithin('event.time')} and ${NOT_VOIDED}`,
      `select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${date} ${merchants} and event.void_of is null and ${isWithin("(event.date::timestamp at time zone 'UTC')")}`,
    ]),
  ].join('\n        union all\n        ');
}

function knownEvents(scope: ScopeOf<'known'>, bind: Bind): string {
  const [on, first, last] = [`${bind(scope.on)}::timestamptz`, bind(scope.first), bind(scope.last)];
  const merchants = scope.merchantIds ? `and event.merchant_id = any(${bind(scope.merchantIds)}::text[])` : '';
  const [from, until] = [`${bind(scope.range.from)}::timestamptz`, `${bind(scope.range.until)}::timestamptz`];
  const isWithin = (moment: string) =>
    `event.date between ${first}::date and ${last}::date ${merchants} and ${moment} >= ${from} and ${moment} < ${until}`;
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where ${isWithin('event.time')} and flush.started_at <= ${on}
          and not ${voided(` and voided.created_at <= ${on}`)}
        union all
        select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${isWithin("(event.date::timestamp at time zone 'UTC')")} and event.void_of is null
          and event.created_at <= ${on}`;
}

function eventsOfDay(scope: ScopeOf<'day'>, bind: Bind): string {
  const [merchants, date] = [`${bind(scope.merchantIds)}::text[]`, bind(scope.date)];
  const bounds = scope.within && [bind(scope.within.from), bind(scope.within.until)];
  const within = bounds ? `and event.time >= ${bounds[0]}::timestamptz and event.time < ${bounds[1]}::timestamptz` : '';
  const first = bounds ? `and ${bounds[0]}::timestamptz = ${date}::date::timestamp at time zone 'UTC'` : '';
  return `select ${EVENT}, event.flush_id as place, flush.metered as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where event.merchant_id = any(${merchants}) and event.date = ${date}::date and flush.metered is not null ${within}
          and ${NOT_VOIDED}
        union all
        select ${ADJUSTMENT}, 0, coalesce(event.metered, 0)
        from usage_adjustments as event
        where event.merchant_id = any(${merchants}) and event.date = ${date}::date and event.void_of is null ${first}`;
}

function historyEvents(scope: ScopeOf<'history'>, bind: Bind): string {
  const upTo = scope.upTo === null ? '' : `and event.merchant_id <= ${bind(scope.upTo)}`;
  const where = `event.date = ${bind(scope.date)}::date and event.merchant_id > ${bind(scope.after)} ${upTo}`;
  const before = bind(scope.before);
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where ${where} and flush.metered < ${before}::bigint and ${NOT_VOIDED}
        union all
        select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${where} and event.void_of is null and coalesce(event.metered, 0) < ${before}::bigint`;
}

function addedAdjustments(scope: ScopeOf<'adjustments'>, bind: Bind): string {
  // Each looked up by itself: else Postgres reads all adjustments of the merchant, if it believes them to be few.
  return `select ${ADJUSTMENT}, 0 as place, null::bigint as run
        from unnest(${bind(scope.ids)}::text[]) as added (added_id)
        cross join lateral (
          select * from usage_adjustments where merchant_id = ${bind(scope.merchantId)} and id = added_id limit 1
        ) as event`;
}
