import { type CheckedEntry, EVENT_TYPE_PROPERTY, MAX_ENTRY_UNITS, parseQuantity } from '@tally/contracts';
import type { Registry } from './registry.ts';

/** Returns why an amount does not fit its metric type; the message names the meter it would need. */
export function metricProblem(metrics: Record<string, string>, { scaleOf, hasScales }: Registry): string | undefined {
  for (const type in metrics) {
    const amount = metrics[type]!;
    if (type === 'cost' || (!hasScales && !amount.includes('.') && amount.length < 16)) continue;
    const units = parseQuantity(type, amount, scaleOf);
    if (units === undefined) {
      const [decimals, scale] = [amount.length - amount.indexOf('.') - 1, scaleOf(type)];
      return scale === 0
        ? `metrics.${type}: ${amount} has decimals. Create a meter with metricType ${type} and scale ${decimals} before its first event, or send whole numbers.`
        : `metrics.${type}: ${amount} has ${decimals} decimals; the scale of ${type} is ${scale} and cannot change.`;
    }
    if (units > MAX_ENTRY_UNITS) return `metrics.${type}: Expected at most 10^15 units of ${scaleOf(type)} decimals.`;
  }
  return undefined;
}

const NUMBER = /^-?\d{1,15}(?:\.(\d{1,30}))?$/;

/** Returns why a property is no number that a meter can count: it would be left out, or rounded. */
export function propertyProblem(entry: CheckedEntry, { values }: Registry): string | undefined {
  if (values.length === 0 || !entry.properties) return undefined;
  for (const { meter, merchantId, eventType, property, scale } of values) {
    const value = entry.properties[property];
    if (value === undefined || (merchantId !== '' && merchantId !== entry.merchantId)) continue;
    if (eventType !== null && String(entry.properties[EVENT_TYPE_PROPERTY]) !== eventType) continue;
    const parts = NUMBER.exec(String(value));
    const decimals = parts?.[1]?.replace(/0+$/, '').length ?? 0;
    if (parts && decimals <= scale) continue;
    return `properties.${property}: Expected a number with at most ${scale} decimals, since the meter ${meter} counts it.`;
  }
  return undefined;
}
