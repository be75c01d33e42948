import { setTimeout as wait } from 'node:timers/promises';
import { type Day, formatUnits } from '@tally/contracts';
import { parseExactly, unitsOf } from '@tally/service';

/** Days from the first to the last, both included; the dimensions; and the merchants, or none for all. */
export type Comparison = {
  startDate: Day;
  endDate: Day;
  days: readonly Day[];
  by: readonly string[];
  merchants: readonly string[];
};

/** A product's sum for one group on a day. The group has a value for each of `by`. */
export type Cell = {
  measure: string;
  date: Day;
  group: readonly string[];
  value: Decimal;
  /** The number of added amounts, each of which may have been rounded. */
  events?: bigint;
};

/** One event as the product has it. `ids` are those under which Tally may know it. */
export type ForeignEvent = {
  ids: readonly string[];
  at: number;
  arrived?: number;
  value: string;
  group: readonly string[];
};

/** Another product whose sums are compared with ours. */
export type Foreign = {
  name: string;
  /** The meters of Tally to compare with. */
  measures: readonly string[];
  sums(): Promise<Cell[]>;
  /** Lists the events of a group on a day; absent if the product cannot. */
  events?: (group: readonly string[], date: Day, measure: string) => Promise<ForeignEvent[]>;
};

/** Decimals of the compared numbers: the most that a meter can have. */
const DECIMALS = 9;

/** A number in units of 10^-9; `exact` is false where its text has more decimals. */
export type Decimal = { nanos: bigint; text: string; exact: boolean };

/** The most events that are read for one day of a group. */
export const MAX_EVENTS = 100_000;

/** Parses a decimal number, which may be negative or have an exponent. Throws for anything else. */
export function decimal(text: unknown): Decimal {
  const written = String(text);
  const isNegative = written.startsWith('-');
  const read = unitsOf(isNegative ? written.slice(1) : written, DECIMALS);
  if (!read) throw new Error(`${written.slice(0, 60)} is not a number.`);
  return { nanos: isNegative ? -read.units : read.units, text: written, exact: !read.rest };
}

export const add = (a: Decimal, b: Decimal): Decimal => {
  const nanos = a.nanos + b.nanos;
  return { nanos, text: decimalText(nanos), exact: a.exact && b.exact };
};

/** Prints units of 10^-9 as the shortest decimal. */
export const decimalText = (nanos: bigint): string => formatUnits(nanos, DECIMALS);

const ATTEMPTS = 4;

// biome-ignore lint/suspicious/noExplicitAny: foreign JSON; each number in it is text.
export type Json = any;

/** Creates a reader of a product's HTTP API. Numbers come as the text that they were written in. */
export function createReader({ url, key, timeoutMs = 60_000 }: { url: string; key: string; timeoutMs?: number }) {
  const base = url.replace(/\/+$/, '');
  return async (path: string, query: Record<string, string | readonly string[] | undefined> = {}): Promise<Json> => {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query))
      for (const each of value === undefined ? [] : [value].flat()) search.append(name, each);
    const address = `${base}${path}${search.size > 0 ? `?${search}` : ''}`;
    for (let attempt = 1; ; attempt++) {
      const { status, text, pauseMs } = await once(address, key, timeoutMs);
      if (status === 200) return parseExactly(text);
      const isTemporary = status === 429 || status >= 500;
      if (!isTemporary || attempt === ATTEMPTS)
        throw new Error(`${address.slice(0, 200)} answered ${status}: ${text.slice(0, 200)}`);
      await wait(pauseMs ?? 250 * 2 ** attempt);
    }
  };
}

async function once(address: string, key: string, timeoutMs: number) {
  try {
    const headers = { authorization: `Bearer ${key}`, accept: 'application/json' };
    const response = await fetch(address, { headers, redirect: 'error', signal: AbortSignal.timeout(timeoutMs) });
    const seconds = Number(response.headers.get('retry-after') || Number.NaN);
    const pauseMs = seconds >= 0 ? Math.min(seconds, 60) * 1000 : undefined;
    return { status: response.status, text: await response.text(), pauseMs };
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
    throw new Error(`${address.slice(0, 200)} does not answer: ${cause}`);
  }
}
