import { addDays, dayOf, startOfDay } from '@tally/contracts';
import { merchantOf } from '../sources/naming.ts';
import { type Cell, type Comparison, createReader, decimal, type Foreign, type Json } from './foreign.ts';

/**
 * Stripe's meter of the same event name, for each customer. Stripe lists no meter events, so none are compared by id.
 */
export function stripe(
  options: { url: string; key: string; meter: string; customers: readonly string[] },
  { startDate, endDate }: Comparison,
): Foreign {
  const read = createReader(options);

  /** Reads all pages of a list. */
  async function* list(path: string, query: Record<string, string>): AsyncGenerator<Json> {
    for (let after: string | undefined; ; ) {
      const { data, has_more } = await read(path, { ...query, limit: '100', starting_after: after });
      yield* data;
      after = data.at(-1)?.id;
      if (has_more !== true || after === undefined) return;
    }
  }

  async function meterId(): Promise<string> {
    for await (const meter of list('/v1/billing/meters', {})) if (meter.event_name === options.meter) return meter.id;
    throw new Error(`Stripe has no meter of the event name ${options.meter}.`);
  }

  return {
    name: 'Stripe',
    measures: [options.meter],
    async sums() {
      const id = await meterId();
      const customers = [...options.customers];
      if (customers.length === 0) for await (const customer of list('/v1/customers', {})) customers.push(customer.id);
      const cells: Cell[] = [];
      for (const customer of customers) {
        const summaries = list(`/v1/billing/meters/${encodeURIComponent(id)}/event_summaries`, {
          customer,
          start_time: String(startOfDay(startDate) / 1000),
          end_time: String(startOfDay(addDays(endDate, 1)) / 1000),
          value_grouping_window: 'day',
        });
        for await (const { start_time, aggregated_value } of summaries)
          cells.push({
            measure: options.meter,
            date: dayOf(Number(start_time) * 1000),
            group: [merchantOf(customer) ?? 'unknown'],
            value: decimal(aggregated_value),
          });
      }
      return cells;
    },
  };
}
