import { addDays, startOfDay } from '@tally/contracts';
import { idOf, merchantOf } from '../sources/naming.ts';
import {
  type Comparison,
  createReader,
  decimal,
  type Foreign,
  type ForeignEvent,
  type Json,
  MAX_EVENTS,
} from './foreign.ts';

const PAGE = 100;

/** OpenMeter's meter of the same slug, by subject and further group-by keys. OpenMeter lists events of 32 days. */
export function openmeter(options: { url: string; key: string; meter: string }, comparison: Comparison): Foreign {
  const read = createReader(options);
  const { startDate, endDate, by } = comparison;
  const further = by.slice(1).map((dimension) => dimension.replace(/^property:/, ''));
  const merchant = (subject: unknown) => merchantOf(String(subject ?? '')) ?? 'unknown';
  let subjects = new Map<string, string>();
  let definition: Json;

  return {
    name: 'OpenMeter',
    measures: [options.meter],
    async sums() {
      definition = await read(`/api/v1/meters/${encodeURIComponent(options.meter)}`);
      const { data } = await read(`/api/v1/meters/${encodeURIComponent(options.meter)}/query`, {
        from: iso(startOfDay(startDate)),
        to: iso(startOfDay(addDays(endDate, 1))),
        windowSize: 'DAY',
        windowTimeZone: 'UTC',
        groupBy: ['subject', ...further],
      });
      subjects = new Map(data.map((row: Json) => [merchant(row.subject), String(row.subject ?? '')]));
      return data.map((row: Json) => ({
        measure: options.meter,
        date: String(row.windowStart).slice(0, 10),
        group: [merchant(row.subject), ...further.map((key) => row.groupBy?.[key] || 'unknown')],
        value: decimal(row.value),
      }));
    },

    async events(group, date) {
      const found = new Map<string, ForeignEvent>();
      /** Those of other types among them: a page may have no others. */
      const listed = new Set<string>();
      let to = startOfDay(addDays(date, 1));
      // Newest first; the next page starts at the end of this one.
      for (;;) {
        const page = await read('/api/v1/events', {
          subject: subjects.get(group[0]!) ?? group[0]!,
          from: iso(startOfDay(date)),
          to: iso(to),
          limit: String(PAGE),
        });
        const known = listed.size;
        for (const { event, ingestedAt } of page) {
          listed.add(`${event.source} ${event.id}`);
          const at = Date.parse(event.time);
          if (!(at < startOfDay(addDays(date, 1)) && at >= startOfDay(date)) || event.type !== definition.eventType)
            continue;
          const data = typeof event.data === 'string' ? JSON.parse(event.data) : event.data;
          found.set(`${event.source} ${event.id}`, {
            ids: [idOf(`ce:${event.source} ${event.id}`)],
            at,
            ...(ingestedAt ? { arrived: Date.parse(ingestedAt) } : {}),
            value: String(valueAt(data, definition.valueProperty) ?? 1),
            group: [group[0]!, ...further.map((key) => String(valueAt(data, definition.groupBy?.[key]) ?? 'unknown'))],
          });
        }
        if (page.length < PAGE || listed.size === known || listed.size >= MAX_EVENTS) break;
        to = Math.min(...page.map(({ event }: Json) => Date.parse(event.time))) + 1;
      }
      return [...found.values()].filter((event) => event.group.every((value, at) => value === group[at]));
    },
  };
}

const iso = (ms: number) => new Date(ms).toISOString();

/** Reads a path such as `$.usage.tokens` of an event's data. */
const valueAt = (data: Json, path: string | undefined): unknown =>
  path
    ?.replace(/^\$\.?/, '')
    .split('.')
    .reduce((value: Json, key) => value?.[key], data);
