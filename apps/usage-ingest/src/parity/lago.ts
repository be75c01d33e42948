import { addDays, dayOf, startOfDay } from '@tally/contracts';
import { idOf, merchantOf } from '../sources/naming.ts';
import {
  add,
  type Cell,
  type Comparison,
  createReader,
  decimal,
  type Foreign,
  type ForeignEvent,
  MAX_EVENTS,
} from './foreign.ts';

const PAGE = 100;

/** Lago's events of a billable metric, summed by day and subscription: its own sums cover whole billing periods. */
export function lago(
  options: { url: string; key: string; meter: string },
  { startDate, endDate }: Comparison,
): Foreign {
  const read = createReader(options);
  const events: ForeignEvent[] = [];

  return {
    name: 'Lago',
    measures: [options.meter],
    async sums() {
      const { billable_metric: metric } = await read(`/billable_metrics/${encodeURIComponent(options.meter)}`);
      if (metric.aggregation_type !== 'sum_agg' && metric.aggregation_type !== 'count_agg')
        throw new Error(
          `${options.meter} is a ${metric.aggregation_type}: only sum_agg and count_agg can be compared.`,
        );
      const cells = new Map<string, Cell>();
      for (let page = 1; ; page++) {
        const answer = await read('/events', {
          code: options.meter,
          timestamp_from: new Date(startOfDay(startDate)).toISOString(),
          timestamp_to: new Date(startOfDay(addDays(endDate, 1)) - 1).toISOString(),
          page: String(page),
          per_page: String(PAGE),
        });
        for (const event of answer.events) {
          const at = Date.parse(event.timestamp);
          const date = dayOf(at);
          if (date < startDate || date > endDate || event.code !== options.meter) continue;
          const group = [merchantOf(String(event.external_subscription_id ?? '')) ?? 'unknown'];
          const value = decimal(
            metric.aggregation_type === 'count_agg' ? 1 : (event.properties?.[metric.field_name] ?? 0),
          );
          const key = JSON.stringify([date, group]);
          const cell = cells.get(key);
          cells.set(key, { measure: options.meter, date, group, value: cell ? add(cell.value, value) : value });
          events.push({
            ids: [idOf(`lago:${event.transaction_id}`)],
            at,
            ...(event.created_at ? { arrived: Date.parse(event.created_at) } : {}),
            value: value.text,
            group,
          });
        }
        if (events.length > MAX_EVENTS * 10)
          throw new Error(
            `Lago has over ${MAX_EVENTS * 10} events of ${options.meter} in this range; compare fewer days.`,
          );
        if (answer.events.length < PAGE && !answer.meta?.next_page) break;
        if (answer.meta && !answer.meta.next_page) break;
      }
      return [...cells.values()];
    },
    events: async (group, date) => events.filter((event) => event.group[0] === group[0] && dayOf(event.at) === date),
  };
}
