import type { Trend, Units } from '@tally/contracts';

/** A change of at most this many percent counts as none. */
const STABLE_PERCENT = 1n;

/** Compares `current` with `previous`; exact until the one rounding of the percentage. */
export function trendOf(current: Units, previous: Units, format: (units: Units) => string): Trend {
  const quantities = { current: format(current), previous: format(previous) };
  if (previous === 0n) {
    const percentageChange = current > 0n ? 100 : current < 0n ? -100 : 0;
    return { ...quantities, percentageChange, direction: direct(current) };
  }
  const base = previous < 0n ? -previous : previous;
  const change = current - previous;
  const stable = (change < 0n ? -change : change) * 100n <= base * STABLE_PERCENT;
  return {
    ...quantities,
    percentageChange: Number(floorDivide(change * 20_000n + base, base * 2n)) / 100,
    direction: stable ? 'stable' : direct(change),
  };
}

const direct = (change: Units) => (change > 0n ? 'up' : change < 0n ? 'down' : 'stable');

/** Divides and rounds towards minus infinity, so that halves round like in Math.round. */
function floorDivide(dividend: bigint, divisor: bigint): bigint {
  const quotient = dividend / divisor;
  return dividend % divisor !== 0n && dividend < 0n ? quotient - 1n : quotient;
}
