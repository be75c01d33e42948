/** Why a store failed. Each case is the store's fault and may pass. */
type Fault = 'unreachable' | 'readOnly' | 'overloaded';

const MESSAGES: Record<Fault, string> = {
  unreachable: 'A data store is unavailable.',
  readOnly: 'A data store takes no writes at the moment.',
  overloaded: 'A data store is overloaded.',
};

/** Error codes of Postgres, and of connections in Node and undici. */
const CODES: [RegExp, Fault][] = [
  [
    /^(ECONNREFUSED|ECONNRESET|ECONNABORTED|ENOTFOUND|EAI_AGAIN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)$/,
    'unreachable',
  ],
  [/^UND_ERR_(SOCKET|CLOSED|CONNECT_TIMEOUT|HEADERS_TIMEOUT|BODY_TIMEOUT)$/, 'unreachable'],
  // Connection exceptions; shut down, crashed, starting, dropped, idle too long; a transaction idle or open too long.
  [/^(08...|57P0[1-5]|25P0[34])$/, 'unreachable'],
  // Disk full; read-only; I/O error.
  [/^(53100|25006|58030)$/, 'readOnly'],
  // Out of memory, of connections, of another limit; serialization and deadlock; a lock that is not free.
  [/^(53200|53300|53400|40001|40P01|55P03)$/, 'overloaded'],
];

/** TypeORM, until it has connected for the first time. */
const NEVER_CONNECTED = /^(Driver not Connected|No metadata for )/;

/** Messages of pg and ioredis without a code. Redis errors start with a word for their kind. */
const WORDS: [RegExp, Fault][] = [
  [NEVER_CONNECTED, 'unreachable'],
  // TypeORM, when a connection breaks between two statements.
  [/^Query runner already released/, 'unreachable'],
  [
    /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error)/,
    'unreachable',
  ],
  [/^(Connection is closed|Stream isn't writeable|Failed to refresh slots cache|None of startup nodes)/, 'unreachable'],
  [/^(Reached the max retries per request|Command aborted due to connection close|All sentinels are)/, 'unreachable'],
  [/^(Query read timeout|Command timed out)/, 'unreachable'],
  [/^-?(LOADING|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOREPLICAS|NOAUTH|WRONGPASS) /, 'unreachable'],
  [/^-?(READONLY|MISCONF) /, 'readOnly'],
  [/^-?(OOM|BUSY) /, 'overloaded'],
];

const SQLSTATE = /^[0-9A-Z]{5}$/;
const REDIS = /^-?[A-Z]{3,} /;
const CANCELED = '57014';

export type StoreFault = {
  fault: Fault;
  /** Set if the error contains it. */
  store: 'postgres' | 'redis' | undefined;
  /** For callers: answers never contain the store's own words. */
  message: string;
  /** For logs: the store's own words, without the place in the code that used it. */
  reason: string;
};

/** Returns why a store failed; undefined for any other error. */
export function storeFaultOf(error: unknown): StoreFault | undefined {
  for (const { code, message, name } of chain(error)) {
    const byCode = CODES.find(([pattern]) => pattern.test(String(code)));
    const found = byCode ?? WORDS.find(([pattern]) => pattern.test(String(message)));
    const fault = found?.[1] ?? (name === 'TimeoutError' ? 'unreachable' : undefined);
    if (!fault) continue;
    const store = SQLSTATE.test(String(code)) ? 'postgres' : REDIS.test(String(message)) ? 'redis' : undefined;
    const reason = NEVER_CONNECTED.test(String(message))
      ? 'Postgres has not answered since this process started.'
      : String(message || code || name);
    return { fault, store, message: MESSAGES[fault], reason };
  }
  return undefined;
}

/** Returns true if another Tally service answered that it is temporarily unavailable. */
export function isServiceUnavailable(error: unknown): boolean {
  return chain(error).some(
    ({ name, data }) => name === 'TRPCClientError' && [429, 502, 503, 504].includes(data?.httpStatus ?? 0),
  );
}

/** Returns true if Postgres cancelled a statement at its time limit. */
export function isStatementTimeout(error: unknown): boolean {
  return chain(error).some(({ code }) => code === CANCELED);
}

type Cause = {
  name?: string;
  code?: unknown;
  message?: unknown;
  cause?: unknown;
  driverError?: unknown;
  previousErrors?: unknown[];
  lastNodeError?: unknown;
  data?: { httpStatus?: number };
};

/** Yields an error and those it wraps: of TypeORM, undici, a MULTI and a cluster. */
function chain(error: unknown): Cause[] {
  const found: Cause[] = [];
  for (let each = error; each instanceof Error && found.length < 5; ) {
    const cause: Cause = each;
    found.push(cause);
    each = cause.driverError ?? cause.cause ?? cause.lastNodeError ?? cause.previousErrors?.[0];
  }
  return found;
}
