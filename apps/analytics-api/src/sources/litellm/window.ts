import { DAY_MS, TallyError } from '@tally/contracts';
import { z } from 'zod';
import { startOf } from './call.ts';
import { isTooLarge, type LitellmClient, type SpendLogPage } from './client.ts';

export type Window = {
  /** Rows that started in it, each once. */
  rows: unknown[];
  /** Rows that LiteLLM counted and did not show, however often it was asked. */
  missing: number;
  /** Where the window ends; not included. */
  end: number;
};

export type Windows = {
  /** Reads rows that started from `start` on, up to `end` at most; how far, the number of rows decides. */
  read(start: number, end: number): Promise<Window>;
};

/** Deep pages are slow, and rows that come late move them: a window with more rows is halved. */
const MAX_ROWS = 20_000;
const MAX_PAGES = 2_000;
const READS = 3;
const SECOND_MS = 1_000;
const PAGE_SIZES = [1000, 100, 10, 1];

const Identity = z.object({ request_id: z.string().nullish(), startTime: z.string() });

/**
 * Reads LiteLLM's rows in windows of time. Pages are by offset, so a row can be shown twice or not at all while others
 * come in or go: a window is read again, from its other end too, until all that is counted was seen.
 */
export function createWindows(client: LitellmClient, signal: AbortSignal): Windows {
  let width = DAY_MS;
  let size = 0;

  /** One pass over the pages; false where the window has too many rows. */
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
    // LiteLLM includes both ends; a row at the end is the next window's.
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

/** A row without an id is kept, to be rejected by name. */
function identityOf(row: unknown): string {
  const id = (row as { request_id?: unknown } | null)?.request_id;
  return typeof id === 'string' && id !== '' ? id : JSON.stringify(row);
}

/** Undefined where it cannot be read: such a row is rejected in the window that shows it. */
function startTimeOf(row: unknown): number | undefined {
  const parsed = Identity.safeParse(row);
  if (!parsed.success) return undefined;
  try {
    return startOf(parsed.data.startTime);
  } catch {
    return undefined;
  }
}
