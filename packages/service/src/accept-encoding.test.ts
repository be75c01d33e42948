import { expect, test } from 'vitest';
import { acceptsEncoding } from './accept-encoding.ts';

test.each([
  [undefined, false],
  ['', false],
  ['br', false],
  ['gzip', true],
  ['br, GZIP;q=0.5', true],
  ['gzip;q=0, *', false],
  ['gzip ; q=0.0, br', false],
  ['br, *', true],
  ['br, *;q=0', false],
  ['x-gzip', false],
])('accept-encoding %j allows gzip: %j', (header, allowed) => {
  expect(acceptsEncoding(header, 'gzip')).toBe(allowed);
});
