import { add } from '../../quantity.ts';

/** Returns the amount that an event or an adjustment adds to a metric. */
export function amountOf(metrics: Record<string, string>, metric: string): string {
  if (metric === 'total_tokens') return add(metrics.prompt_tokens ?? '0', metrics.completion_tokens ?? '0');
  return metrics[metric] ?? '0';
}

/** Returns the id of the event that an adjustment takes back; undefined for any other adjustment. */
export function voidedId(adjustmentId: string, date: string): string | undefined {
  const start = `void:${date}:`;
  return adjustmentId.startsWith(start) ? adjustmentId.slice(start.length) : undefined;
}
