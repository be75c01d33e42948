import type { Amount, Amounts } from './days.ts';
import { TallyError } from './errors.ts';
import { COST_DECIMALS, MAX_SUM_UNITS, type Units } from './quantity.ts';

/**
 * Returns the amounts of a row or group of a day snapshot in units, in any of its shapes; undefined if prompt or
 * completion tokens are missing. Throws INVALID_INPUT naming `where` for amounts that are contradictory, fractional or
 * too large.
 */
export function readAmounts(amounts: Amounts, where: string) {
  const whole = (amount: Amount | undefined) => (amount === undefined ? undefined : unitsOf(amount, 0, where));
  const { tokens } = amounts;
  const prompt = whole(tokens?.prompt ?? amounts.promptTokens);
  const completion = whole(tokens?.completion ?? amounts.completionTokens);
  const told = whole(tokens?.total ?? amounts.totalTokens);
  const total = told ?? (prompt ?? 0n) + (completion ?? 0n);
  if (prompt !== undefined && completion !== undefined && total !== prompt + completion)
    throw new TallyError('INVALID_INPUT', `${where}: ${total} tokens are not ${prompt} and ${completion}.`);
  const requests = unitsOf(amounts.totalRequests, 0, where);
  const failed = unitsOf(amounts.failedRequests ?? 0, 0, where);
  if (failed > requests) throw new TallyError('INVALID_INPUT', `${where}: more requests failed than there were.`);
  const cost = unitsOf(amounts.cost ?? amounts.totalCost ?? 0, COST_DECIMALS, where);
  return { requests, failed, prompt, completion, total, cost };
}

/** Reads the decimal text of an amount, also with an exponent. Rounds half up to whole units. */
function unitsOf(amount: Amount, decimals: number, where: string): Units {
  const [, whole, fraction = '', exponent = '0'] = /^(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(String(amount)) ?? [];
  if (whole === undefined) throw new TallyError('INVALID_INPUT', `${where}: ${amount} is not an amount.`);
  const shift = decimals + Number(exponent) - fraction.length;
  const digits = BigInt(whole + fraction);
  if (digits * 10n ** BigInt(Math.max(shift, 0)) > 10n ** BigInt(Math.max(-shift, 0)) * MAX_SUM_UNITS)
    throw new TallyError('INVALID_INPUT', `${where}: ${amount} is larger than Tally can store.`);
  if (shift >= 0) return digits * 10n ** BigInt(shift);
  const divisor = 10n ** BigInt(-shift);
  if (decimals === 0 && digits % divisor !== 0n)
    throw new TallyError('INVALID_INPUT', `${where}: ${amount} is not a whole number.`);
  return (digits * 2n + divisor) / (divisor * 2n);
}
