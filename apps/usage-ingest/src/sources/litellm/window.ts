import { DAY_MS, TallyError } from '@tally/contracts';
import { z } from 'zod';
import { startOf } from './call.ts';
import { isTooLarge, type LitellmClient, type SpendLogPage } from './client.ts';

export type Window = {
  /** The rows that started in it, each once. */
  rows: unknown[];
  /** Rows that LiteLLM counted but did not return, however often they were requested. */
  missing: number;
  /** The end of the window; not included. */
  end: number;
};

export type Windows = {
  /** Reads rows that started from `start` up to `end`, or less if there are too many rows. */
  read(start: number, end: number): Promise<Window>;
};

/** A window with more rows is halved: deep pages are slow, and late rows move them. */
const MAX_ROWS = 20_000;
const MAX_PAGES = 2_000;
const READS = 3;
const SECOND_MS = 1_000;
const PAGE_SIZES = [1000, 100, 10, 1];

const Identity = z.object({ request_id: z.string().nullish(), startTime: z.string() });

/**
 * Reads LiteLLM's rows in windows of time. Pages are by offset, so a row can be on two pages or on none while others
 * are added or deleted: a window is read again, also in reverse order, until every row that LiteLLM counts was read.
 */
export function createWindows(client: LitellmClient, signal: AbortSignal): Windows {
  let width = DAY_MS;
  let size = 0;

  /** Reads all pages once; returns 'too many' if the window has too many rows. */
  async function pass(start: number, end: number, order: 'asc' | 'desc', rows: Map<string, unknown>) {
    let first: SpendLogPage | undefined;
    for (let page = 1; page <= MAX_PAGES; page++) {
      const answer = await client.spendLogs({ start, end, page, pageSize: PAGE_SIZES[size]!, order }, signal);
      first ??= answer;
      if (page === 1 && (answer.total ?? 0) > MAX_ROWS && end - start > SECOND_MS) return 'too many' as const;
      for (const row of answer.rows) rows.set(identityOf(row), row);
      const last = answer.totalPages === undefined ? answer.rows.length < PAGE_SIZES[size]! : page >= answer.totalPages;
      if (last || answer.rows.length === 0) return { total: answer.total, steady: answer.total === first.total };
    }
    throw new TallyError('SOURCE_UNREADABLE', `LiteLLM shows over ${MAX_PAGES} pages of one window.`);
  }

  async function attempt(start: number, end: number): Promise<Window | 'too many'> {
    const rows = new Map<string, unknown>();
    let missing = 0;
    for (let reads = 1; reads <= READS; reads++) {
      const passed = await pass(start, end, reads === 2 ? 'desc' : 'asc', rows);
      if (passed === 'too many') return passed;
      missing = Math.max(0, (passed.total ?? 0) - rows.size);
      if (missing === 0 && passed.steady) break;
    }
    // LiteLLM includes both ends; a row at the end belongs to the next window.
    const own = [...rows.values()].filter((row) => {
      const at = startTimeOf(row);
      return at === undefined || (at >= start && at < end);
    });
    return { rows: own, missing, end };
  }

  return {
    async read(start, end) {
      for (;;) {
        const until = Math.min(end, start + width);
        let window: Window | 'too many';
        try {
          window = await attempt(start, until);
        } catch (error) {
          if (!isTooLarge(error) || size === PAGE_SIZES.length - 1) throw error;
          size++;
          continue;
        }
        if (window === 'too many') {
          width = Math.max(SECOND_MS, Math.floor((until - start) / 2 / SECOND_MS) * SECOND_MS);
          continue;
        }
        if (window.rows.length < MAX_ROWS / 4) width = Math.min(DAY_MS, width * 2);
        return window;
      }
    },
  };
}

/** Returns the same text for a row on two pages, and another text for every other row, whatever its id. */
function identityOf(row: unknown): string {
  const { request_id: id, startTime } = (row ?? {}) as { request_id?: unknown; startTime?: unknown };
  const isIdentified = typeof id === 'string' && id !== '' && typeof startTime === 'string';
  return isIdentified ? `${id}\n${startTime}` : JSON.stringify(row);
}

/** Returns undefined if the start is unreadable: such a row is rejected in the window that contains it. */
function startTimeOf(row: unknown): number | undefined {
  const parsed = Identity.safeParse(row);
  if (!parsed.success) return undefined;
  try {
    return startOf(parsed.data.startTime);
  } catch {
    return undefined;
  }
}
