import { setTimeout as wait } from 'node:timers/promises';
import { type Day, isTallyError, TallyError } from '@tally/contracts';
import { parseExactly } from '@tally/service';
import { z } from 'zod';

export type LitellmOptions = {
  url: string;
  key: string;
  timeoutMs: number;
  /** The largest answer to read, in bytes. */
  maxBodyBytes: number;
  /** First pause between two attempts; it doubles. */
  backoffMs?: number;
  /** Returns a signal that aborts after some milliseconds. */
  deadline?: (ms: number) => AbortSignal;
};

export type SpendLogPage = { rows: unknown[]; total: number | undefined; totalPages: number | undefined };

export type LitellmClient = {
  /**
   * Reads one page of /spend/logs/v2: rows that started from `start` to `end`, both included, in milliseconds of whole
   * seconds. `isTooLarge` returns true for an error that a smaller page may avoid.
   */
  spendLogs(
    page: { start: number; end: number; page: number; pageSize: number; order: 'asc' | 'desc' },
    signal: AbortSignal,
  ): Promise<SpendLogPage>;
  /** Reads one page of /user/daily/activity: a part of the rows of a day. */
  dailyActivity(page: { date: Day; page: number }, signal: AbortSignal): Promise<ActivityPage>;
};

const ATTEMPTS = 6;
const BACKOFF_MS = 500;
const MAX_PAUSE_MS = 60_000;

const Count = z.string().regex(/^\d{1,15}$/);
const Pages = z.object({
  data: z.array(z.unknown()),
  total: Count.nullish().catch(null),
  total_pages: Count.nullish().catch(null),
});

const Metrics = z.object({
  spend: z.string().nullish(),
  prompt_tokens: z.string().nullish(),
  completion_tokens: z.string().nullish(),
  api_requests: z.string().nullish(),
  failed_requests: z.string().nullish(),
});
const Keys = z.record(
  z.string(),
  z.object({
    metrics: Metrics,
    metadata: z
      .object({
        key_alias: z.string().nullish(),
        team_id: z.string().nullish(),
        user_id: z.string().nullish().catch(null),
        user_email: z.string().nullish().catch(null),
      })
      .nullish(),
  }),
);
const ActivityPage = z.object({
  results: z.array(
    z.object({
      date: z.string(),
      metrics: Metrics,
      breakdown: z
        .object({
          models: z.record(z.string(), z.object({ metrics: Metrics, api_key_breakdown: Keys.nullish() })).nullish(),
        })
        .nullish(),
    }),
  ),
  metadata: z.object({ has_more: z.boolean().nullish(), total_pages: Count.nullish() }).nullish(),
});
export type ActivityPage = z.infer<typeof ActivityPage>;
export type ActivityMetrics = z.infer<typeof Metrics>;

/** Creates a client of LiteLLM's API, bounded in time and size. Retries temporary failures, never a rejection. */
export function createLitellmClient(options: LitellmOptions): LitellmClient {
  const base = options.url.replace(/\/+$/, '');
  const { backoffMs = BACKOFF_MS, deadline = AbortSignal.timeout } = options;

  async function ask(path: string, query: Record<string, string>, signal: AbortSignal): Promise<unknown> {
    const url = `${base}${path}?${new URLSearchParams(query).toString().replaceAll('+', '%20')}`;
    for (let attempt = 1; ; attempt++) {
      try {
        return await once(url, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (!isTallyError(error) || error.code !== 'SOURCE_AWAY' || attempt === ATTEMPTS) throw error;
        const named = (error.details as { retryAfterMs?: number } | undefined)?.retryAfterMs;
        const pause = named ?? backoffMs * 2 ** (attempt - 1) * (0.5 + Math.random() / 2);
        await wait(Math.min(pause, MAX_PAUSE_MS), undefined, { signal });
      }
    }
  }

  async function once(url: string, signal: AbortSignal): Promise<unknown> {
    const limit = AbortSignal.any([signal, deadline(options.timeoutMs)]);
    let response: Response;
    let text: string;
    try {
      // Sends both headers: LiteLLM's version decides which one is read. A redirect would reveal the key to another
      // server.
      const headers = { authorization: `Bearer ${options.key}`, 'x-litellm-api-key': options.key };
      response = await fetch(url, { headers, signal: limit, redirect: 'error' });
      text = await bounded(response, options.maxBodyBytes);
    } catch (error) {
      if (isTallyError(error)) throw error;
      throw new TallyError('SOURCE_AWAY', 'LiteLLM is unavailable: no complete answer.', { cause: error });
    }
    if (response.ok) {
      try {
        return parseExactly(text);
      } catch (error) {
        throw new TallyError('SOURCE_UNREADABLE', `LiteLLM's answer is not JSON: ${quoted(text)}`, { cause: error });
      }
    }
    throw refusal(response, text);
  }

  return {
    async spendLogs({ start, end, page, pageSize, order }, signal) {
      const query = {
        start_date: secondsText(start),
        end_date: secondsText(end),
        page: String(page),
        page_size: String(pageSize),
        sort_by: 'startTime',
        sort_order: order,
      };
      const { data, total, total_pages } = read(Pages, await ask('/spend/logs/v2', query, signal));
      return { rows: data, total: numberOf(total), totalPages: numberOf(total_pages) };
    },
    async dailyActivity({ date, page }, signal) {
      const query = { start_date: date, end_date: date, page: String(page), page_size: '1000' };
      return read(ActivityPage, await ask('/user/daily/activity', query, signal));
    },
  };
}

function refusal(response: Response, text: string): TallyError {
  const { status } = response;
  const message = `LiteLLM answered ${status}: ${quoted(text)}`;
  if (status === 401 || status === 403)
    return new TallyError('SOURCE_REFUSED', `LiteLLM rejected our credentials (${status}): ${quoted(text)}`);
  if (status === 429 || status >= 500) {
    const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
    const retryAfterMs = Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
    return new TallyError('SOURCE_AWAY', message, { details: { retryAfterMs } });
  }
  // Older versions return at most 100 rows per page.
  const tooLarge = status === 422 && text.includes('page_size');
  return new TallyError('SOURCE_UNREADABLE', message, { details: { tooLarge } });
}

/** Returns true if a smaller page may work. */
export function isTooLarge(error: unknown): boolean {
  return isTallyError(error) && (error.details as { tooLarge?: boolean } | undefined)?.tooLarge === true;
}

async function bounded(response: Response, maxBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    size += chunk.byteLength;
    if (size > maxBytes)
      throw new TallyError('SOURCE_UNREADABLE', `LiteLLM's answer is larger than ${maxBytes} bytes.`, {
        details: { tooLarge: true },
      });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function read<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new TallyError(
    'SOURCE_UNREADABLE',
    `LiteLLM's answer has an unexpected form: ${issue!.path.join('.')} ${issue!.message}`,
  );
}

const numberOf = (text: string | null | undefined) => (text == null ? undefined : Number(text));

/** Formats a time as the handler parses it: `2026-11-22 10:00:00`. */
const secondsText = (ms: number) => new Date(ms).toISOString().slice(0, 19).replace('T', ' ');

const quoted = (text: string) => JSON.stringify(text.slice(0, 200));
