import { type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { TallyError } from '@tally/contracts';
import { errorShape } from '../errors/errors.ts';

/** The URL and the headers of a request together: room for a thousand ids in the filters of a GET. */
export const MAX_HEADER_BYTES = 64 * 1024;

/**
 * Answers requests that Node cannot parse, or that do not arrive in time, with a status and an error like all others;
 * Node's own answers have no body. Closes their connections.
 */
export function answerBrokenRequests(server: Server): void {
  const answering = new WeakMap<Duplex, ServerResponse>();
  server.on('request', ({ socket }, response) => void answering.set(socket, response));
  server.on('clientError', ({ code }: NodeJS.ErrnoException, socket) => {
    const response = answering.get(socket);
    // In the middle of an answer, another one would look like a part of it.
    const isFree = response === undefined || response.writableFinished || !response.headersSent;
    if (code === 'ECONNRESET' || !socket.writable || !isFree) return void socket.destroy();
    const error = errorShape(errorOf(code));
    const body = JSON.stringify({ error });
    const status = error.data.httpStatus;
    const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}`;
    socket.end(`${head}\r\nconnection: close\r\n\r\n${body}`, () => socket.destroy());
  });
}

function errorOf(code: string | undefined): TallyError {
  if (code === 'HPE_HEADER_OVERFLOW')
    return new TallyError(
      'HEADERS_TOO_LARGE',
      `The URL and the headers are larger than ${MAX_HEADER_BYTES} bytes together.`,
    );
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new TallyError('BODY_TIMEOUT', 'The request did not arrive completely in time.');
  return new TallyError('INVALID_INPUT', 'The request is not readable as HTTP.');
}
