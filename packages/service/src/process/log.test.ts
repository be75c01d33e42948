import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { createLog, failureLog } from './log.ts';

/** A log whose lines can be read. */
function open() {
  const lines: Record<string, unknown>[] = [];
  const destination = new Writable({
    write(chunk, _, done) {
      lines.push(JSON.parse(String(chunk)));
      done();
    },
  });
  return { log: createLog('test', 'info', destination), lines };
}

test('a store that does not answer is logged without a stack, in words that name it', () => {
  const { log, lines } = open();
  log.error({ err: new Error('Driver not Connected') }, 'a loop failed');
  log.error({ err: new Error('No metadata for "Alert" was found.') }, 'a loop failed');
  const refused = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:5432'), { code: 'ECONNREFUSED' });
  log.error({ err: refused }, 'a loop failed');
  // What Node throws when a name has two addresses.
  log.error({ err: Object.assign(new AggregateError([refused]), { code: 'ECONNREFUSED' }) }, 'a loop failed');
  const full = Object.assign(new Error('could not extend file: No space left on device'), { code: '53100' });
  log.error(
    { err: Object.assign(new Error('x'), { query: 'insert', parameters: ['a user'], driverError: full }) },
    'x',
  );
  const never = { type: 'Error', message: 'Postgres has not answered since this process started.' };
  expect(lines.map(({ err }) => err)).toEqual([
    never,
    never,
    { type: 'Error', message: 'connect ECONNREFUSED 127.0.0.1:5432', code: 'ECONNREFUSED' },
    { type: 'AggregateError', message: 'ECONNREFUSED', code: 'ECONNREFUSED' },
    { type: 'Error', message: 'could not extend file: No space left on device' },
  ]);
});

test('another error is logged with its stack', () => {
  const { log, lines } = open();
  log.error({ err: new TypeError('a fault of ours') }, 'a loop failed');
  expect(lines[0]).toMatchObject({ err: { type: 'TypeError', stack: expect.stringContaining('log.test.ts') } });
});

test('a failure that goes on is logged once a minute, and at once when its reason changes', () => {
  const { log, lines } = open();
  let at = 0;
  const failed = failureLog(log, 'the flush failed', { level: 'warn', now: () => at });
  for (; at < 150_000; at += 1_000) failed(new Error('Driver not Connected'));
  failed(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
  failed(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
  failed(new Error('a fault of ours'));
  expect(lines.map(({ level, msg, err }) => [level, msg, (err as Error).message])).toEqual([
    ...Array(3).fill(['warn', 'the flush failed', 'Postgres has not answered since this process started.']),
    ['warn', 'the flush failed', 'read ECONNRESET'],
    ['warn', 'the flush failed', 'a fault of ours'],
  ]);
});
