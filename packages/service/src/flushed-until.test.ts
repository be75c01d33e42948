import { expect, test } from 'vitest';
import { createFlushedUntil } from './flushed-until.ts';

const [one, two, three] = ['2026-11-20T10:00:01.000Z', '2026-11-20T10:00:02.000Z', '2026-11-20T10:00:03.000Z'];

test('knows nothing before the first flush', () => {
  const flushed = createFlushedUntil();
  expect(flushed.of(undefined)).toBeNull();
  expect(flushed.of(['acme'])).toBeNull();
});

test('a flush of one merchant says nothing about others', () => {
  const flushed = createFlushedUntil();
  flushed.note(['acme'], two);
  expect(flushed.of(['acme'])).toBe(two);
  expect(flushed.of(['acme', 'globex'])).toBeNull();
  expect(flushed.of(['globex', 'acme'])).toBeNull();
  expect(flushed.of(['acme', 'globex', 'acme'])).toBeNull();
  expect(flushed.of(undefined)).toBeNull();
});

test('answers the earliest moment of the merchants, each at its latest flush', () => {
  const flushed = createFlushedUntil();
  flushed.note(['acme'], three);
  flushed.note(['acme'], one);
  flushed.note(undefined, two);
  flushed.note([], three);
  expect(flushed.of(['acme'])).toBe(three);
  expect(flushed.of(['globex', 'acme'])).toBe(two);
  expect(flushed.of(['acme', 'globex'])).toBe(two);
  expect(flushed.of([])).toBe(two);
  flushed.note(['globex'], one);
  expect(flushed.of(['globex'])).toBe(two);
});

test('forgets the merchants that were flushed longest ago', () => {
  const flushed = createFlushedUntil();
  const ids = Array.from({ length: 10_001 }, (_, index) => `m${index}`);
  for (const id of ids) flushed.note([id], one);
  expect(flushed.of(['m0'])).toBeNull();
  expect(flushed.of(['m1', 'm10000'])).toBe(one);
});
