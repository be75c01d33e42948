import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createJsonCounter, MAX_FIELDS } from './json-limits.ts';

/** Counts items and depth of the parsed value. An array or object counts as an item too, and an empty one as one. */
function measure(value: unknown): { items: number; depth: number } {
  if (typeof value !== 'object' || value === null) return { items: 0, depth: 0 };
  const inner = Object.values(value).map(measure);
  const own = Math.max(1, inner.length);
  return {
    items: own + inner.reduce((sum, { items }) => sum + items, 0),
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
  };
}

const passes = (pieces: Uint8Array[], maxItems: number, maxDepth: number) => {
  const count = createJsonCounter({ maxItems, maxDepth });
  try {
    for (const piece of pieces) count(piece);
    return true;
  } catch {
    return false;
  }
};

test('JSON passes exactly when its items and its depth are within the limits, however it is cut', () => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom('"', '\\', '\\"', '[', '{,', '\\\\"]'),
    fc.string({ unit: 'binary' }),
  );
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof({ maxDepth: 4 }, text, fc.integer(), fc.constant(null), tie('list'), tie('object')),
    list: fc.array(tie('value'), { maxLength: 4 }),
    object: fc.dictionary(text, tie('value'), { maxKeys: 4 }),
  }));
  fc.assert(
    fc.property(value, fc.integer({ min: 1, max: 7 }), fc.boolean(), (json, size, isWide) => {
      const bytes = Buffer.from(JSON.stringify(json, null, isWide ? 2 : 0));
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
        bytes.subarray(n * size, (n + 1) * size),
      );
      const { items, depth } = measure(json);
      expect(passes(pieces, items, depth)).toBe(true);
      if (items > 0) expect(passes(pieces, items - 1, depth)).toBe(false);
      if (depth > 0) expect(passes(pieces, items, depth - 1)).toBe(false);
    }),
  );
});

test('it stops at the item that is too many', () => {
  const count = createJsonCounter({ maxItems: 1_000, maxDepth: 64 });
  let pieces = 0;
  expect(() => {
    for (; pieces < 16_000; pieces++) count(Buffer.from('[1,1,1,1,1],'.repeat(10)));
  }).toThrow('1000 items');
  expect(pieces).toBe(16);
});

test('no object has more fields than may be, and a longer array is none', () => {
  const limits = [1_000_000, 8] as const;
  const fields = (count: number) => Array.from({ length: count }, (_, index) => `"f${index}":[1,2]`).join(',');
  expect(passes([Buffer.from(`{"a":[{},{${fields(MAX_FIELDS)}}],"b":1}`)], ...limits)).toBe(true);
  expect(passes([Buffer.from(`{"a":[{},{${fields(MAX_FIELDS + 1)}}]}`)], ...limits)).toBe(false);
  expect(passes([Buffer.from(`{"a":[${'{},'.repeat(MAX_FIELDS)}{}]}`)], ...limits)).toBe(true);
});
