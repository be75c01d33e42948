import { addDays, BUILT_IN_METERS, type Day, EVENT_TYPE_PROPERTY, type Meter, startOfDay } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { type Cell, type Comparison, decimal, MAX_EVENTS } from './foreign.ts';

export type OurEvent = { id: string; date: Day; group: readonly string[]; value: string | undefined };

export type Ours = ReturnType<typeof createOurs>;

const MAX_BYTES_OF_LINE = 1024 * 1024;

/** Reads what Tally counted. */
export function createOurs(
  options: { analyticsUrl: string; ingestUrl: string; key: string },
  { startDate, endDate, by, merchants: asked }: Comparison,
) {
  const { key } = options;
  const { analytics } = createAnalyticsClient({ url: options.analyticsUrl, key });
  const ingest = createIngestClient({ url: options.ingestUrl, key });
  const only = asked.length > 0 ? { merchantIds: [...asked] } : {};
  const groupBy = [...by];

  /** Narrows a query to one group. */
  function ofGroup(group: readonly string[]) {
    const filters = Object.fromEntries(by.flatMap((name, at) => (name === 'merchant' ? [] : [[name, [group[at]!]]])));
    const merchant = by[0] === 'merchant' ? { merchantIds: [group[0]!] } : only;
    return { ...merchant, ...(Object.keys(filters).length > 0 ? { filters } : {}) };
  }

  return {
    async meter(measure: string): Promise<Meter> {
      const builtIn = BUILT_IN_METERS.find((each) => each.key === measure);
      if (builtIn) return builtIn;
      const { rows } = await ingest.meters.list.query();
      const meter = rows.find((each) => each.key === measure);
      if (!meter) throw new Error(`Tally has no meter ${measure}; create it with meters.create.`);
      if (meter.aggregation !== 'SUM' && meter.aggregation !== 'COUNT')
        throw new Error(`The meter ${measure} is a ${meter.aggregation}: only sums and counts can be compared.`);
      return meter;
    },

    async sums(measure: string): Promise<{ cells: Cell[]; complete: boolean }> {
      const query = { meter: measure, startDate, endDate, window: 'day' as const, groupBy, ...only };
      const { rows, coverage } = await analytics.meter.query(query);
      const cells = rows.map(({ start, group, value }) => ({
        measure,
        date: start.slice(0, 10),
        group: by.map((name) => group[name]!),
        value: decimal(value),
      }));
      return { cells, complete: coverage.complete };
    },

    /** Returns sums of a group by hour, from a day before the range to a day after it. */
    async hours(measure: string, group: readonly string[]): Promise<Map<number, bigint>> {
      const [from, to] = [addDays(startDate, -1), addDays(endDate, 2)].map((day) =>
        new Date(startOfDay(day)).toISOString(),
      );
      const { rows } = await analytics.meter.query({ meter: measure, from, to, window: 'hour', ...ofGroup(group) });
      return new Map(rows.map(({ start, value }) => [Date.parse(start), decimal(value).nanos]));
    },

    /**
     * Returns the events of a group's merchant from the day before to the day after: an event may count on another day.
     */
    async events(meter: Meter, group: readonly string[], date: Day): Promise<OurEvent[]> {
      const merchants = by[0] === 'merchant' ? [group[0]!] : asked;
      const query = new URLSearchParams({ startDate: addDays(date, -1), endDate: addDays(date, 1) });
      for (const merchant of merchants) query.append('merchantIds', merchant);
      const url = `${options.analyticsUrl.replace(/\/+$/, '')}/export/events.ndjson?${query}`;
      const response = await fetch(url, { headers: { authorization: `Bearer ${key}` } });
      if (!response.ok) throw new Error(`${url} answered ${response.status}: ${(await response.text()).slice(0, 200)}`);
      const events: OurEvent[] = [];
      for await (const line of linesOf(response)) {
        if (events.length >= MAX_EVENTS) throw new Error(`Over ${MAX_EVENTS} events around ${date}; name --merchants.`);
        const event = JSON.parse(line);
        events.push({
          id: event.id,
          date: event.date,
          group: by.map((name) => dimensionOf(event, name)),
          value: amountOf(event, meter),
        });
      }
      return events;
    },

    /**
     * Returns the reasons for rejected events of sources, by the id that they would have. Empty for keys without
     * access.
     */
    async rejections(): Promise<Map<string, string>> {
      const { rows } = await ingest.sources.rejections.query({ limit: 1000 }).catch(() => ({ rows: [] }));
      return new Map(rows.map(({ eventId, code, message }) => [eventId ?? '', `${code}: ${message}`]));
    },
  };
}

// biome-ignore lint/suspicious/noExplicitAny: a line of an export.
type Exported = any;

function dimensionOf(event: Exported, name: string): string {
  if (name.startsWith('property:')) return String(event.properties?.[name.slice(9)] ?? 'unknown');
  const field = { merchant: 'merchantId', user: 'userId' }[name] ?? name;
  return event[field] || 'unknown';
}

/** Returns what an event adds to a meter; undefined for an event that it does not count. */
function amountOf(event: Exported, meter: Meter): string | undefined {
  const { aggregation, metricType, valueProperty, eventType, filters } = meter;
  if (eventType !== null && event.properties?.[EVENT_TYPE_PROPERTY] !== eventType) return undefined;
  for (const [name, values] of Object.entries(filters))
    if (!values.includes(dimensionOf(event, name))) return undefined;
  if (aggregation === 'COUNT') return String(event.count ?? 1);
  const value = metricType === null ? event.properties?.[valueProperty!] : event.metrics?.[metricType];
  return value === undefined || value === null ? undefined : String(value);
}

async function* linesOf(response: Response): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    if (rest.length > MAX_BYTES_OF_LINE) throw new Error('A line of the export is too long.');
    yield* lines.filter((line) => line !== '');
  }
  if (rest !== '') yield rest;
}
