import fc from 'fast-check';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { decodeCursor, encodeCursor } from './cursor.ts';

const Place = z.tuple([z.string(), z.string()]);
const refused = expect.objectContaining({ code: 'INVALID_CURSOR' });
const stored = fc.string({ unit: 'binary' }).filter((text) => !text.includes('\u0000'));
const place = fc.tuple(stored, stored);

test('a cursor gives back its place, to its own question alone', () => {
  fc.assert(
    fc.property(place, fc.jsonValue(), fc.jsonValue(), (at, question, other) => {
      const cursor = encodeCursor(at, question);
      expect(decodeCursor(cursor, question, Place)).toEqual(at);
      if (JSON.stringify(other) !== JSON.stringify(question))
        expect(() => decodeCursor(cursor, other, Place)).toThrow(refused);
    }),
  );
});

test('refuses a made-up cursor', () => {
  const anything = fc.oneof(
    fc.string(),
    fc.string().map((text) => Buffer.from(text).toString('base64url')),
    fc.jsonValue().map((value) => Buffer.from(JSON.stringify(value)).toString('base64url')),
  );
  fc.assert(
    fc.property(anything, (cursor) => {
      expect(() => decodeCursor(cursor, {}, Place)).toThrow(refused);
    }),
  );
  expect(() => decodeCursor(encodeCursor(['one'], {}), {}, Place)).toThrow(refused);
});

test.each(['\u0000', 'a\ud800b'])('a made-up place with text that cannot be stored is no place: %j', (text) => {
  expect(() => decodeCursor(encodeCursor(['one', text], {}), {}, Place)).toThrow(refused);
});
