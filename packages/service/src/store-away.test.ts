import { expect, test } from 'vitest';
import { understand } from './trpc.ts';

const failed = (message: string, fields: object = {}) => Object.assign(new Error(message), fields);

test.each([
  ['refused', failed('connect ECONNREFUSED 127.0.0.1:5432', { code: 'ECONNREFUSED' }), 'UNAVAILABLE'],
  ['shut down', failed('x', { driverError: failed('terminating', { code: '57P01' }) }), 'UNAVAILABLE'],
  ['broken', failed('Connection terminated unexpectedly'), 'UNAVAILABLE'],
  ['lost within a call', failed('x', { cause: failed('reset', { code: 'ECONNRESET' }) }), 'UNAVAILABLE'],
  ['given up', failed('x', { driverError: failed('canceling', { code: '57014' }) }), 'QUERY_TIMEOUT'],
  ['wrong', failed('syntax', { driverError: failed('syntax', { code: '42601' }) }), 'INTERNAL'],
  ['no error at all', 'a text', 'INTERNAL'],
])('a store that was %s is told by its code, never by its words', (_, error, code) => {
  const told = understand(error);
  expect(told.code).toBe(code);
  expect(told.message).not.toMatch(/ECONN|127|terminat|cancel|syntax|a text/);
});
