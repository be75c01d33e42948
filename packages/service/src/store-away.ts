const AWAY = /^(ECONNREFUSED|ECONNRESET|ENOTFOUND|EPIPE|ETIMEDOUT|EHOSTUNREACH|08...|57P0[123]|53300)$/;
/** What the driver says where it has no code. */
const BROKEN =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error)/;
const CANCELED = '57014';

/** Whether an error of a store says that it cannot be reached, or left in the middle; its words stay out of answers. */
export function isStoreAway(error: unknown): boolean {
  return chain(error).some(({ code, message }) => AWAY.test(String(code)) || BROKEN.test(String(message)));
}

/** Whether Postgres gave a statement up after its time. */
export function isStatementTimeout(error: unknown): boolean {
  return chain(error).some(({ code }) => code === CANCELED);
}

type Cause = { code?: unknown; message?: unknown; cause?: unknown; driverError?: unknown };

/** An error and what it wraps. */
function chain(error: unknown): Cause[] {
  const found: Cause[] = [];
  for (let each = error; each instanceof Error && found.length < 5; ) {
    const cause: Cause = each;
    found.push(cause);
    each = cause.driverError ?? cause.cause;
  }
  return found;
}
