import { expect, test } from 'vitest';
import { understand } from './errors.ts';

const failed = (message: string, fields: object = {}) => Object.assign(new Error(message), fields);
const postgres = (code: string) => failed('x', { driverError: failed('words of the database', { code }) });

const CASES: [how: string, error: unknown, code: string][] = [
  ['refused', failed('connect ECONNREFUSED 127.0.0.1:5432', { code: 'ECONNREFUSED' }), 'UNAVAILABLE'],
  ['broken', failed('Connection terminated unexpectedly'), 'UNAVAILABLE'],
  ['lost between two statements', failed('Query runner already released. Cannot run queries anymore.'), 'UNAVAILABLE'],
  ['lost within a call', failed('x', { cause: failed('reset', { code: 'ECONNRESET' }) }), 'UNAVAILABLE'],
  ['not reached in time', new DOMException('The operation timed out.', 'TimeoutError'), 'UNAVAILABLE'],
  ...[
    ...['53100', '53200', '53300', '53400', '25006', '25P03', '25P04', '57P01', '57P02', '57P03', '57P04', '57P05'],
    ...['58030', '08006', '08P01'],
  ].map((code) => [code, postgres(code), 'UNAVAILABLE'] as [string, unknown, string]),
  ...[
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    'LOADING Redis is loading the dataset in memory',
    'CLUSTERDOWN The cluster is down',
    'MISCONF Errors writing to the AOF file: No space left on device',
    'NOREPLICAS Not enough good replicas to write.',
    'Command timed out',
    'Connection is closed.',
    'Reached the max retries per request limit (which is 0). Refer to "maxRetriesPerRequest" option for details.',
    "Stream isn't writeable and enableOfflineQueue options is false",
  ].map((words) => [words, failed(words), 'UNAVAILABLE'] as [string, unknown, string]),
  [
    'full within a MULTI',
    failed('EXECABORT Transaction discarded', { previousErrors: [failed('OOM command not allowed')] }),
    'UNAVAILABLE',
  ],
  [
    'away from the service that was called',
    failed('words of the database', { name: 'TRPCClientError', data: { httpStatus: 503 } }),
    'UNAVAILABLE',
  ],
  ['slow', postgres('57014'), 'QUERY_TIMEOUT'],
  ['asked wrongly', postgres('42601'), 'INTERNAL'],
  ['asked wrongly', failed('WRONGTYPE Operation against a key holding the wrong kind of value'), 'INTERNAL'],
  ['no error at all', 'a text', 'INTERNAL'],
];

test.each(CASES)('a store that was %s is recognised by its code, never by its message', (_, error, code) => {
  const told = understand(error);
  expect(told.code).toBe(code);
  expect(told.message).not.toMatch(/ECONN|127|words|terminat|memory|syntax|a text/);
  if (code === 'UNAVAILABLE') expect(told.details).toEqual({ retryAfter: 1 });
});

test('reports the true state of each store', () => {
  const messageOf = (code: string) => understand(postgres(code)).message;
  expect(messageOf('08006')).toBe('A data store is unavailable.');
  expect([messageOf('53100'), messageOf('25006')]).toEqual(
    Array(2).fill('A data store takes no writes at the moment.'),
  );
  expect(messageOf('53300')).toBe('A data store is overloaded.');
});
