import { addDays, dayOf, formatCost, STATED_MEASURES, startOfDay } from '@tally/contracts';
import { fromDailySums, fromSpendLog, type Rules } from '../sources/litellm/call.ts';
import { createLitellmClient } from '../sources/litellm/client.ts';
import { readDailySums } from '../sources/litellm/daily.ts';
import { add, type Cell, type Comparison, decimal, type Foreign, type ForeignEvent, MAX_EVENTS } from './foreign.ts';

const COMPARED = ['requests', ...STATED_MEASURES] as const;
const PAGE = 100;
const MAX_BODY_BYTES = 64 * 1024 * 1024;
const RULES: Rules = { merchantFrom: 'fixed', merchant: 'litellm', eventType: 'litellm_tokens' };

/** LiteLLM's own daily sums by model; its spend logs name the calls behind them. */
export function litellm(options: { url: string; key: string }, { days }: Comparison): Foreign {
  const client = createLitellmClient({ ...options, timeoutMs: 60_000, maxBodyBytes: MAX_BODY_BYTES });
  const never = new AbortController().signal;
  const modelOf = (model: string) => {
    const none = { prompt_tokens: 0n, completion_tokens: 0n, cost: 0n };
    const [row] = fromDailySums(
      { date: '2000-01-01', model, apiKey: '', requests: 1n, failed: 0n, metrics: none },
      RULES,
    );
    return row?.entry.model ?? 'unknown';
  };

  return {
    name: 'LiteLLM',
    measures: [...COMPARED],
    async sums() {
      const cells = new Map<string, Cell>();
      for (const date of days) {
        const { parts } = await readDailySums(client, date, never);
        for (const { model, sums } of parts) {
          const group = [modelOf(model)];
          const values = { ...sums, cost: formatCost(sums.cost) };
          for (const measure of COMPARED) {
            const value = decimal(values[measure]);
            if (value.nanos === 0n) continue;
            const key = JSON.stringify([measure, date, group]);
            const known = cells.get(key);
            const events = (known?.events ?? 0n) + (measure === 'cost' ? sums.requests : 0n);
            cells.set(key, { measure, date, group, value: known ? add(known.value, value) : value, events });
          }
        }
      }
      return [...cells.values()];
    },

    async events(group, date, measure) {
      const found: ForeignEvent[] = [];
      for (let page = 1; found.length < MAX_EVENTS; page++) {
        // Ends are of whole seconds: calls in the last second of the day begin after its last whole one.
        const range = { start: startOfDay(date), end: startOfDay(addDays(date, 1)) };
        const { rows, totalPages } = await client.spendLogs({ ...range, page, pageSize: PAGE, order: 'asc' }, never);
        for (const row of rows) {
          const call = fromSpendLog(row, RULES);
          if ((call.entry.model ?? 'unknown') !== group[0] || dayOf(call.at) !== date) continue;
          const value = measure === 'requests' ? '1' : (call.entry.metrics[measure] ?? '0');
          found.push({ ids: call.ids.all, at: call.at, value, group });
        }
        if (rows.length < PAGE || (totalPages !== undefined && page >= totalPages)) break;
      }
      return found;
    },
  };
}
