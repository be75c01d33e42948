import { ERRORS } from '@tally/contracts';
import type { ErrorBody } from '@tally/service';

/** Presents an error as problem details (RFC 9457), which senders of CloudEvents parse, plus our error code. */
export const problemDetails: ErrorBody = ({ code, message }) => {
  const { status, action } = ERRORS[code];
  const body = { type: 'about:blank', title: code, status, detail: message, code, action };
  return { type: 'application/problem+json', body };
};
