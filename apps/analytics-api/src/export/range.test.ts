import { expect, test } from 'vitest';
import { rangeOf } from './range.ts';

test.each([
  ['bytes=0-', { from: 0, to: 100 }],
  ['bytes=40-', { from: 40, to: 100 }],
  ['bytes=40-59', { from: 40, to: 60 }],
  ['bytes=99-99', { from: 99, to: 100 }],
  ['bytes=40-1000', { from: 40, to: 100 }],
  ['bytes=-30', { from: 70, to: 100 }],
  ['bytes=-1000', { from: 0, to: 100 }],
  ['BYTES=1-2', { from: 1, to: 3 }],
])('reads %s of 100 bytes', (header, range) => {
  expect(rangeOf(header, 100)).toEqual(range);
});

test.each(['', 'bytes=-', 'bytes=5-4', 'bytes=0-1,3-4', 'lines=0-1', 'bytes=a-b', 'bytes=1'])(
  'ignores %j',
  (header) => {
    expect(rangeOf(header, 100)).toBeUndefined();
  },
);

test.each([
  ['bytes=100-', 100],
  ['bytes=1000-2000', 100],
  ['bytes=-0', 100],
  ['bytes=0-', 0],
  ['bytes=99999999999999999999-', 100],
])('rejects %s of a file without these bytes', (header, size) => {
  expect(() => rangeOf(header, size)).toThrow(
    expect.objectContaining({ code: 'RANGE_NOT_SATISFIABLE', details: { size } }),
  );
});
