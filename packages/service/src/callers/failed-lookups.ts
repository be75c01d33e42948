import { isIPv6 } from 'node:net';
import { MINUTE_MS, TallyError } from '@tally/contracts';

/** Counts the unknown API keys that each address sent within the current minute. */
export type FailedLookups = {
  /** Throws RATE_LIMITED once the address has sent its number of unknown keys in this minute. */
  assertBelowLimit(address: string): void;
  count(address: string): void;
};

/** Beyond this many addresses per minute, the oldest is dropped. */
const MAX_ADDRESSES = 10_000;

/** Keeps at most 10,000 addresses; each minute of the clock starts empty. */
export function createFailedLookups({ limit, now }: { limit: number; now: () => number }): FailedLookups {
  let minute = 0;
  const failures = new Map<string, number>();

  function inThisMinute(): Map<string, number> {
    const current = Math.floor(now() / MINUTE_MS);
    if (current !== minute) failures.clear();
    minute = current;
    return failures;
  }

  return {
    assertBelowLimit(address) {
      if ((inThisMinute().get(networkOf(address)) ?? 0) < limit) return;
      const retryAfter = Math.max(1, Math.ceil(((minute + 1) * MINUTE_MS - now()) / 1000));
      throw new TallyError('RATE_LIMITED', `This address sent ${limit} unknown API keys within a minute.`, {
        details: { limit, windowSeconds: MINUTE_MS / 1000, retryAfter },
      });
    },
    count(address) {
      const network = networkOf(address);
      const counted = inThisMinute().get(network);
      if (counted === undefined && failures.size >= MAX_ADDRESSES) failures.delete(failures.keys().next().value!);
      failures.set(network, (counted ?? 0) + 1);
    },
  };
}

/** Returns the part of an address that one sender controls: an IPv4 address, or the /64 network of an IPv6 address. */
function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(address)) return address;
  const [head = '', tail] = address.split('%')[0]!.split('::');
  const groups = head === '' ? [] : head.split(':');
  const filled = tail === undefined ? groups : [...groups, ...Array<string>(8).fill('0')];
  return filled
    .slice(0, 4)
    .map((group) => group.toLowerCase().replace(/^0+(?=.)/, ''))
    .join(':');
}
