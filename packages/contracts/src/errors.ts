/**
 * Every error a caller can get, with its HTTP status and what to do about it. `error.data.code` has the code; the
 * message describes this request.
 */
export const ERRORS = {
  // Whole requests
  INVALID_JSON: { status: 400, action: 'Send a JSON body.' },
  INVALID_INPUT: { status: 400, action: 'Correct what the message names and send it again.' },
  BATCH_TOO_LARGE: { status: 400, action: 'Split the batch; the message names the limit.' },
  INVALID_DATE_FORMAT: { status: 400, action: 'Write dates as YYYY-MM-DD; the day must exist.' },
  INVALID_DATE_ORDER: { status: 400, action: 'Put the earlier date first.' },
  DATE_RANGE_TOO_LARGE: { status: 400, action: 'Ask for the ranges in `details.suggestedRanges` one by one.' },
  GRAIN_NOT_KEPT: {
    status: 400,
    action: 'Ask for what `details.ask` names; such fine sums are not kept for these days.',
  },
  TOO_MANY_ROWS: {
    status: 400,
    action: 'Ask for a shorter range, for fewer merchants, or without users and API keys.',
  },
  TOO_MANY_POINTS: { status: 400, action: 'Ask for a longer interval or a shorter range.' },
  INVALID_CURSOR: { status: 400, action: 'Start again without a cursor; a cursor belongs to one query.' },
  UNAUTHORIZED: {
    status: 401,
    action: 'Send `Authorization: Bearer <key>` or `x-api-key: <key>` with a key that is neither revoked nor expired.',
  },
  FORBIDDEN: { status: 403, action: 'Use a key whose role has this access.' },
  MERCHANT_FORBIDDEN: {
    status: 403,
    action: 'Name only the merchant of the key. Platform-wide procedures need a key that is bound to no merchant.',
  },
  NOT_FOUND: { status: 404, action: 'Check the name or the id.' },
  METHOD_NOT_ALLOWED: { status: 405, action: 'Call mutations by POST, and queries by GET or POST.' },
  CONFLICT: {
    status: 409,
    action: 'Change what the message names, or use another id: something that exists stands against this.',
  },
  BODY_TIMEOUT: { status: 408, action: 'Send the body without pauses.' },
  BODY_TOO_LARGE: { status: 413, action: 'Send less at once.' },
  HEADERS_TOO_LARGE: {
    status: 431,
    action: 'Send a query as POST with its input as the body, or name fewer values in the URL.',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    status: 415,
    action: 'Send `Content-Type: application/json`, and no `Content-Encoding` but gzip.',
  },
  RANGE_NOT_SATISFIABLE: {
    status: 416,
    action: 'Ask for bytes of the file; `Content-Range` names its size. A file of that size is complete.',
  },
  RATE_LIMITED: { status: 429, action: 'Wait for the seconds in `Retry-After`.' },
  INTERNAL: { status: 500, action: 'Try again. If it fails again, report the request id.' },
  UNAVAILABLE: { status: 503, action: 'Try again after `Retry-After` seconds.' },
  // Sources that are pulled from
  SOURCE_NOT_SET: { status: 400, action: 'Set the address and the key of the source, then restart the service.' },
  SOURCE_BUSY: { status: 409, action: 'Wait until the running pull has ended; `litellm.status` shows it.' },
  SOURCE_REFUSED: { status: 502, action: 'Check the key of the source: it rejected our credentials.' },
  SOURCE_UNREADABLE: { status: 502, action: 'Check the address and the version of the source.' },
  SOURCE_AWAY: { status: 503, action: 'Try again when the source is available; what was recorded stays recorded.' },
  // Formulas of custom metrics; `details` has the position in the text and what is allowed
  FORMULA_SYNTAX: { status: 400, action: 'Correct the formula at `details.offset`.' },
  FORMULA_FORBIDDEN: { status: 400, action: 'Use only what `details.allowed` names.' },
  FORMULA_TYPE: { status: 400, action: 'Correct the types of the values at `details.offset`.' },
  FORMULA_TOO_COMPLEX: { status: 400, action: 'Write a shorter formula, or make two metrics of it.' },
  FORMULA_TOO_COSTLY: { status: 400, action: 'Ask for a shorter range, a filter or a coarser source.' },
  FORMULA_FAILED: { status: 400, action: 'Keep intermediate values within the range of numbers.' },
  QUERY_TIMEOUT: { status: 503, action: 'Ask for a shorter range, a filter or a coarser source.' },
  // Single events of a batch, or the date of a request
  INVALID_ENTRY: { status: 400, action: 'Correct the entry; the message names the field.' },
  RESERVED_METRIC: { status: 400, action: 'Leave it out: Tally derives requests, failed_requests and total_tokens.' },
  TIME_IN_FUTURE: { status: 400, action: 'Correct the clock of the producer: at most 10 minutes ahead.' },
  TIME_TOO_OLD: { status: 400, action: 'Ask an admin to send it with `backfill: true`.' },
  DAY_CLOSED: { status: 400, action: 'The entries of that day are gone; correct its sums with usage.adjust.' },
  DAY_TOLD_BY_SUMS: { status: 400, action: 'Nothing: the daily sums of that day are counted, so its calls are not.' },
  ID_CONFLICT: {
    status: 409,
    action: 'An event with this id is counted already and differs; send different usage under an id of its own.',
  },
  CARDINALITY_LIMIT: {
    status: 400,
    action: 'Use fewer distinct names: of metric types, users, keys, models or labels; or raise the limit.',
  },
  JOURNAL_DROPPED: { status: 410, action: 'The sums of that day are kept, its entries are not; ask for sums.' },
  TOTAL_LIMIT: { status: 400, action: 'A sum would pass 9·10^18 units; count in a larger unit.' },
} as const satisfies Record<string, { status: number; action: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** The longest message. Messages quote input, which may be long. */
const MAX_MESSAGE = 2_000;

/** An expected failure in the domain's terms. Each edge (tRPC, HTTP, command line) prints it in its own form. */
export class TallyError extends Error {
  readonly code: ErrorCode;
  readonly details: unknown;

  constructor(code: ErrorCode, message: string, options: { details?: unknown; cause?: unknown } = {}) {
    super(
      message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = 'TallyError';
    this.code = code;
    this.details = options.details;
  }
}

/** Returns true for a TallyError, also one made by another copy of this module. */
export function isTallyError(error: unknown): error is TallyError {
  return error instanceof Error && error.name === 'TallyError' && 'code' in error && (error.code as string) in ERRORS;
}

/** Returns the message of anything thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
