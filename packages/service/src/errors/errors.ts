import { ERRORS, type ErrorCode, isTallyError, TallyError, type TallyErrorShape } from '@tally/contracts';
import { getTRPCErrorFromUnknown, type TRPC_ERROR_CODE_KEY, TRPCError } from '@trpc/server';
import { TRPC_ERROR_CODES_BY_KEY } from '@trpc/server/rpc';
import { ZodError } from 'zod';
import { problemsOf } from './problems.ts';
import { isServiceUnavailable, isStatementTimeout, storeFaultOf } from './store-errors.ts';

const UNEXPECTED = 'An unexpected error. The log of this service has the details.';

/** Converts anything thrown during a call to the domain's error. */
export function understand(error: unknown): TallyError {
  if (isTallyError(error)) return error;
  const cause = (error as { cause?: unknown } | null)?.cause;
  if (isTallyError(cause)) return cause;
  const stores = storeFaultOf(error);
  if (stores) return unavailable(stores.message, error);
  if (isServiceUnavailable(error)) return unavailable('Another service of Tally is unavailable.', error);
  if (isStatementTimeout(error))
    return new TallyError('QUERY_TIMEOUT', 'The database cancelled the query at its time limit.', { cause: error });
  if (error instanceof TRPCError) {
    if (error.code === 'BAD_REQUEST' && cause instanceof ZodError) return invalidInput(cause);
    // zod passes problems as arguments of one call, of which the stack holds some 100,000.
    if (error.code === 'BAD_REQUEST' && cause instanceof RangeError)
      return new TallyError('INVALID_INPUT', 'The input has more problems than can be named.', { cause });
    if (error.code === 'BAD_REQUEST' && cause instanceof SyntaxError)
      return new TallyError('INVALID_JSON', 'The request is not valid JSON.', { cause });
    const code = BY_TRPC_CODE[error.code];
    if (code === 'INVALID_JSON') return new TallyError(code, 'The request is not valid JSON.', { cause: error });
    if (code === 'INTERNAL') return new TallyError(code, UNEXPECTED, { cause: error });
    if (code === 'NOT_FOUND') return new TallyError(code, `${cut(error.message)}; ${LISTED}`, { cause: error });
    return new TallyError(code ?? 'INTERNAL', code ? error.message : UNEXPECTED, { cause: error });
  }
  if (error instanceof ZodError) return invalidInput(error);
  return new TallyError('INTERNAL', UNEXPECTED, { cause: error });
}

const unavailable = (message: string, cause: unknown) =>
  new TallyError('UNAVAILABLE', message, { cause, details: { retryAfter: 1 } });

function invalidInput(error: ZodError): TallyError {
  const { message, fields } = problemsOf(error);
  return new TallyError(codeOf(error), message, { details: { fields } });
}

function codeOf(error: ZodError): ErrorCode {
  const [issue] = error.issues;
  const field = issue?.path.at(-1);
  if (issue?.code === 'too_big' && field === 'entries') return 'BATCH_TOO_LARGE';
  if (field === 'date' || field === 'startDate' || field === 'endDate') return 'INVALID_DATE_FORMAT';
  return 'INVALID_INPUT';
}

const BY_TRPC_CODE: Partial<Record<TRPC_ERROR_CODE_KEY, ErrorCode>> = {
  PARSE_ERROR: 'INVALID_JSON',
  BAD_REQUEST: 'INVALID_INPUT',
  NOT_FOUND: 'NOT_FOUND',
  METHOD_NOT_SUPPORTED: 'METHOD_NOT_ALLOWED',
  UNSUPPORTED_MEDIA_TYPE: 'UNSUPPORTED_MEDIA_TYPE',
  PAYLOAD_TOO_LARGE: 'BODY_TOO_LARGE',
};

const TRPC_CODE_BY_STATUS: Record<number, TRPC_ERROR_CODE_KEY> = {
  400: 'BAD_REQUEST',
  401: 'UNAUTHORIZED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  405: 'METHOD_NOT_SUPPORTED',
  408: 'TIMEOUT',
  409: 'CONFLICT',
  410: 'NOT_FOUND',
  413: 'PAYLOAD_TOO_LARGE',
  415: 'UNSUPPORTED_MEDIA_TYPE',
  416: 'BAD_REQUEST',
  429: 'TOO_MANY_REQUESTS',
  431: 'BAD_REQUEST',
  500: 'INTERNAL_SERVER_ERROR',
  502: 'BAD_GATEWAY',
  503: 'SERVICE_UNAVAILABLE',
};

/** Builds the body of an error, inside and outside of tRPC. `path`: the procedure, or the path as sent. */
export function errorShape(error: TallyError, path?: string): TallyErrorShape {
  const { code, message, details } = error;
  const { status } = ERRORS[code];
  const trpcCode = TRPC_CODE_BY_STATUS[status]!;
  return {
    message,
    code: TRPC_ERROR_CODES_BY_KEY[trpcCode],
    data: {
      code,
      trpcCode,
      httpStatus: status,
      ...(path === undefined ? {} : { path }),
      action: actionOf(error, path),
      ...(details === undefined ? {} : { details }),
    },
  };
}

/** Returns what the caller may do about an error, with details known only in some cases. */
function actionOf({ code, details }: TallyError, path: string | undefined): string {
  if (code === 'UNAVAILABLE' && (path === 'usage.record' || path === 'usage.track'))
    return 'Nothing was acknowledged. Send it again after `Retry-After` seconds: events with an id are counted once.';
  if (code === 'INVALID_INPUT' && Array.isArray((details as { fields?: unknown } | undefined)?.fields))
    return 'Correct the fields named in `details` and send it again.';
  return ERRORS[code].action;
}

const LISTED = "`GET /openapi.json` and the console's page /docs list all.";
const cut = (text: string) => text.slice(0, 200);

/** Builds the error for a call of an unknown procedure. */
export const noProcedure = (name: string) =>
  new TallyError('NOT_FOUND', `There is no procedure \`${cut(name)}\`; ${LISTED}`);

/** The seconds to wait that an error names. */
export function retryAfterOf({ details }: { details?: unknown }): number | undefined {
  const seconds = (details as { retryAfter?: unknown } | undefined)?.retryAfter;
  return typeof seconds === 'number' ? seconds : undefined;
}

/** Returns anything thrown in tRPC's form, with the status of a known error. */
export function asTrpcError(error: unknown): TRPCError {
  const thrown = getTRPCErrorFromUnknown(error);
  const known = thrown.cause;
  if (!isTallyError(known)) return thrown;
  return new TRPCError({ code: TRPC_CODE_BY_STATUS[ERRORS[known.code].status]!, message: known.message, cause: known });
}
