import { ERRORS, type ErrorCode } from '@tally/contracts';

/** An error as every part of Tally answers it, with or without tRPC. */
export type Problem = {
  error: { message: string; code: number; data: { code: ErrorCode; httpStatus: number } & Record<string, unknown> };
};

const JSON_RPC_CODES: Partial<Record<ErrorCode, number>> = { NOT_FOUND: -32004, BODY_TOO_LARGE: -32013 };
const JSON_RPC_INTERNAL = -32603;
const JSON_RPC_INVALID = -32600;

/** Builds the body of an error; `path` is the procedure. */
export function problemOf(code: ErrorCode, message: string, facts: { path?: string; details?: unknown } = {}): Problem {
  const { status, action } = ERRORS[code];
  const known = JSON_RPC_CODES[code] ?? (status >= 500 ? JSON_RPC_INTERNAL : JSON_RPC_INVALID);
  return { error: { message, code: known, data: { code, httpStatus: status, action, ...facts } } };
}

/** Seconds after which a caller may try again; set on every 503. */
export const RETRY_AFTER_SECONDS = 1;

/** The error for a service that did not answer. */
export const unavailable = (service: string, path?: string): Problem =>
  problemOf('UNAVAILABLE', `${service} does not answer.`, {
    ...(path === undefined ? {} : { path }),
    details: { service, retryAfter: RETRY_AFTER_SECONDS },
  });
