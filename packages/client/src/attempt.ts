import type { Kind } from './group.ts';

/** One entry or counter in the form sent: JSON, and the number of records it stands for. */
export type Item = { readonly json: string; readonly records: number };

/** The outcome of one request. Items in `again` are sent again unchanged; Tally drops those it has. */
export type Outcome =
  | { kind: 'answered'; duplicates: number; refused: RefusedItem[]; again: Item[]; error?: AttemptError }
  /**
   * It is unknown what was stored. `slow`: only a person can fix the cause, so retries are rare. `keyRejected`: a 401
   * or 403; servers count requests with a bad key per address, so retries stay slow even for a waiting caller.
   */
  | { kind: 'again'; slow: boolean; keyRejected?: boolean; afterMs: number; error: AttemptError }
  /** Too large, or refused as a whole because of some item: halves are sent. */
  | { kind: 'split'; tooLarge: boolean; error: AttemptError };

export type RefusedItem = { item: Item; code: string; message: string };

/** The error of a request; also passed to `onError`. */
export type AttemptError = { code: string; message: string; status?: number };

export type AttemptOptions = {
  url: string;
  key: string;
  fetch: typeof fetch;
  timeoutMs: number;
  authFailure: 'retry' | 'reject';
  onRequest(bytes: number): void;
};

export type Attempts = {
  /** Sends items in one request; never rejects. */
  send(kind: Kind, items: readonly Item[]): Promise<Outcome>;
  /** Ends the requests in flight; their effect is unknown. */
  abort(): void;
};

type Answer = { status: number; afterMs: number; body: unknown };

const TOO_LARGE = new Set(['BATCH_TOO_LARGE', 'BODY_TOO_LARGE']);

/** Sends requests and interprets each answer for its items. */
export function createAttempts(options: AttemptOptions): Attempts {
  const base = `${options.url.replace(/\/+$/, '')}/trpc`;
  const { fetch: request } = options;
  const underWay = new Set<AbortController>();

  async function ask(path: string, body: string): Promise<Answer> {
    options.onRequest(body.length);
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), options.timeoutMs);
    underWay.add(controller);
    try {
      const response = await request(`${base}/${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${options.key}`, 'content-type': 'application/json' },
        body,
        redirect: 'manual',
        signal: controller.signal,
      });
      const text = await response.text();
      return { status: response.status, afterMs: retryAfter(response.headers.get('retry-after')), body: parse(text) };
    } finally {
      clearTimeout(timer);
      underWay.delete(controller);
    }
  }

  /** Interprets an answer that is no success. */
  function failed(answer: Answer, items: readonly Item[]): Outcome {
    const { code, message } = errorIn(Array.isArray(answer.body) ? answer.body[0] : answer.body);
    const { status } = answer;
    const error: AttemptError = {
      code: code ?? `HTTP_${status}`,
      message: message ?? `The answer was ${status}.`,
      status,
    };
    const refuse = (): Outcome => ({
      kind: 'answered',
      duplicates: 0,
      refused: items.map((item) => ({ item, code: error.code, message: error.message })),
      again: [],
      error,
    });
    if (status === 413 || (code !== undefined && TOO_LARGE.has(code))) {
      return items.length > 1 ? { kind: 'split', tooLarge: true, error } : refuse();
    }
    // Reported for a whole batch only if it is true for every entry.
    if (code === 'MERCHANT_FORBIDDEN') return refuse();
    if (status === 401 || status === 403) {
      return options.authFailure === 'reject'
        ? refuse()
        : { kind: 'again', slow: true, keyRejected: true, afterMs: answer.afterMs, error };
    }
    // One item may be refused (by Tally, or by something in front of it): the others must not wait for it.
    if (status === 400 || status === 422)
      return items.length > 1 ? { kind: 'split', tooLarge: false, error } : refuse();
    // Other answers below 500 come from a wrong address, not from the items.
    const slow = status < 500 && status !== 408 && status !== 425 && status !== 429;
    return { kind: 'again', slow, afterMs: answer.afterMs, error };
  }

  function recorded(answer: Answer, items: readonly Item[]): Outcome {
    const data = dataIn(answer.body) as { accepted?: unknown; duplicates?: unknown; rejected?: unknown } | undefined;
    const { accepted, duplicates } = data ?? {};
    const rejected = data?.rejected as { index: number; code: string; message: string }[] | undefined;
    const whole =
      typeof accepted === 'number' &&
      typeof duplicates === 'number' &&
      Array.isArray(rejected) &&
      accepted + duplicates + rejected.length === items.length;
    // This answer is not from Tally, which has stored nothing.
    if (!whole) return notTally(answer);
    const refused = rejected.map(({ index, code, message }) => ({ item: items[index]!, code, message }));
    return { kind: 'answered', duplicates, refused, again: [] };
  }

  function tracked(answer: Answer, items: readonly Item[]): Outcome {
    if (!Array.isArray(answer.body) || answer.body.length !== items.length) return notTally(answer);
    const refused: RefusedItem[] = [];
    const again: Item[] = [];
    let error: AttemptError | undefined;
    for (let at = 0; at < items.length; at++) {
      const one: unknown = answer.body[at];
      const item = items[at]!;
      if (typeof (dataIn(one) as { total?: unknown } | undefined)?.total === 'string') continue;
      const status = statusIn(one);
      const outcome = failed({ ...answer, status, body: one }, [item]);
      error ??= outcome.error;
      if (outcome.kind === 'answered') refused.push(...outcome.refused);
      else again.push(item);
    }
    if (again.length === items.length) return failed({ ...answer, status: statusIn(answer.body[0]) }, items);
    return { kind: 'answered', duplicates: 0, refused, again, ...(error ? { error } : {}) };
  }

  function notTally({ status }: Answer): Outcome {
    const message = 'The answer is not one of Tally; is the address right?';
    return { kind: 'again', slow: true, afterMs: 0, error: { code: 'NOT_TALLY', message, status } };
  }

  return {
    async send(kind, items) {
      const path = kind === 'record' ? 'usage.record' : `${'usage.track,'.repeat(items.length).slice(0, -1)}?batch=1`;
      const body =
        kind === 'record'
          ? `{"entries":[${items.map(({ json }) => json).join(',')}]}`
          : `{${items.map(({ json }, at) => `"${at}":${json}`).join(',')}}`;
      try {
        const answer = await ask(path, body);
        if (answer.status === 207 && kind === 'track') return tracked(answer, items);
        if (answer.status !== 200) return failed(answer, items);
        return kind === 'record' ? recorded(answer, items) : tracked(answer, items);
      } catch (cause) {
        const error = { code: 'NO_ANSWER', message: `No answer: ${reasonOf(cause)}` };
        return { kind: 'again', slow: false, afterMs: 0, error };
      }
    },
    abort() {
      for (const controller of underWay) controller.abort();
    },
  };
}

/** Parses seconds or a date to milliseconds from now; 0 if invalid. At most an hour. */
function retryAfter(header: string | null): number {
  if (!header) return 0;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), 3_600_000);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const dataIn = (body: unknown): unknown => (body as { result?: { data?: unknown } } | null | undefined)?.result?.data;

function errorIn(body: unknown): { code?: string; message?: string } {
  const error = (body as { error?: { message?: unknown; data?: { code?: unknown } } } | null | undefined)?.error;
  return {
    ...(typeof error?.data?.code === 'string' ? { code: error.data.code } : {}),
    ...(typeof error?.message === 'string' ? { message: error.message } : {}),
  };
}

function statusIn(body: unknown): number {
  const status = (body as { error?: { data?: { httpStatus?: unknown } } } | null)?.error?.data?.httpStatus;
  return typeof status === 'number' ? status : 500;
}

function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  return cause.cause instanceof Error ? `${cause.message}: ${cause.cause.message}` : cause.message;
}
