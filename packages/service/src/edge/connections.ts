import { type IncomingMessage, type RequestListener, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { TallyError } from '@tally/contracts';
import { errorShape } from '../errors/errors.ts';

/** The URL and the headers of a request together: room for a thousand ids in the filters of a GET. */
export const MAX_HEADER_BYTES = 64 * 1024;

/** Requests of one connection that may wait for the answer to an earlier one. */
const MAX_WAITING = 32;

/** The request of a connection that is being answered, and those that wait. */
type Turn = { response: ServerResponse; waiting: (() => void)[] };

/**
 * Handles the requests of a server, those of one connection one after the other: Node hands over all that a client
 * sends without waiting for answers, so one connection could do as much as thousands. Cuts off a client with more than
 * 32 waiting requests. Requests that Node cannot parse, or that do not arrive in time, get a status and an error like
 * all others, and their connections are closed; Node's own answers have no body.
 */
export function handleRequests(server: Server, handle: RequestListener): void {
  const turns = new WeakMap<Duplex, Turn>();

  server.on('request', (request, response) => {
    const { socket } = request;
    request.url = originForm(request);
    const turn = turns.get(socket);
    const start = () => {
      const waiting = turn?.waiting ?? [];
      turns.set(socket, { response, waiting });
      response.once('close', () => {
        const next = waiting.shift();
        if (socket.destroyed || !next) turns.delete(socket);
        else next();
      });
      handle(request, response);
    };
    if (!turn) start();
    else if (turn.waiting.push(start) > MAX_WAITING) socket.destroy();
  });

  server.on('clientError', ({ code }: NodeJS.ErrnoException, socket) => {
    const response = turns.get(socket)?.response;
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

/**
 * Returns the target of a request as a path: clients that speak to a proxy send `http://host/path`, which every server
 * must accept (RFC 9112, 3.2.2). One that names another host than the Host header, and other forms, stay as they are.
 */
function originForm({ url: target = '', headers: { host = '' } }: IncomingMessage): string {
  const [, named, path = '/', query = ''] = /^https?:\/\/([^/?#@\s]+)(\/[^?]*)?(\?.*)?$/is.exec(target) ?? [];
  return named?.toLowerCase() === host.toLowerCase() ? path + query : target;
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
