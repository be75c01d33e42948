import { parseExactly } from '@tally/service';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readItems } from './items.ts';

const json = fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const exactly = (value: unknown) => ({ value: parseExactly(JSON.stringify(value)) });

test('an array has the items that it has when it is parsed whole, however it is written', async () => {
  const odd = fc.array(fc.constantFrom('[', ']', '{', '}', ',', '"', '\\"', '\\', ' ', '1', '"a"', 'null', '\n'), {
    maxLength: 8,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.array(json).map((list) => JSON.stringify(list, null, 1)),
        odd.map((parts) => `[${parts.join('')}`),
      ),
      async (text) => {
        let whole: unknown;
        try {
          whole = parseExactly(text);
        } catch {
          await expect(readItems(Buffer.from(text))).rejects.toMatchObject({ code: 'INVALID_JSON' });
          return;
        }
        expect(await readItems(Buffer.from(text))).toEqual((whole as unknown[]).map((value) => ({ value })));
      },
    ),
    { numRuns: 1_000 },
  );
});

test('lines are items, and one that is no JSON rejects itself', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(json, { minLength: 2 }), async (values) => {
      const text = `\ufeff${values.map((value) => JSON.stringify(value)).join('\n\r\n')}\n`;
      // A line that begins like an array begins an array.
      fc.pre(!Array.isArray(values[0]));
      expect(await readItems(Buffer.from(text))).toEqual(values.map(exactly));
      const [first, ...others] = await readItems(Buffer.from(`{"a":\n${text.slice(1)}`));
      expect(first).toMatchObject({ error: { code: 'INVALID_ENTRY' } });
      expect(others).toEqual(values.map(exactly));
    }),
  );
});

test('other work gets its turn while a large body is read', async () => {
  const call = { id: 'x', messages: 'y'.repeat(10_000), cost: 0.1 };
  const body = Buffer.from(JSON.stringify(Array.from({ length: 1_000 }, () => call)));
  let turns = 0;
  let isRead = false;
  const count = () => {
    turns++;
    if (!isRead) setImmediate(count);
  };
  setImmediate(count);
  expect(await readItems(body)).toHaveLength(1_000);
  isRead = true;
  expect(turns).toBeGreaterThanOrEqual(Math.floor(body.length / (600 * 1024)));
});

test.each([
  ['nothing', ' \n ', 'INVALID_JSON'],
  ['a number with rubbish', '1 x', 'INVALID_JSON'],
  ['too many items', `[${'1,'.repeat(10_000)}1]`, 'BATCH_TOO_LARGE'],
])('a body with %s is refused', async (_, text, code) => {
  await expect(readItems(Buffer.from(text))).rejects.toMatchObject({ code });
});

test('long texts are not read, and what is too large beside them rejects itself', async () => {
  const long = `a"\\${'x'.repeat(600 * 1024)}`;
  const call = { id: 'x', messages: [long, 'short', `${long}\\`], cost: 0.5 };
  const [read] = await readItems(Buffer.from(JSON.stringify(call)));
  expect(read).toEqual({ value: { id: 'x', messages: ['', 'short', ''], cost: '0.5' } });
  const large = { id: 'y', messages: Array.from({ length: 150 }, () => 'y'.repeat(60 * 1024)) };
  const [first, second, third] = await readItems(Buffer.from(JSON.stringify([call, large, { id: 'z' }])));
  expect([first, third]).toEqual([read, { value: { id: 'z' } }]);
  expect(second).toMatchObject({ error: { code: 'BODY_TOO_LARGE' } });
  const lines = [large, call].map((each) => JSON.stringify(each)).join('\n');
  expect(await readItems(Buffer.from(lines))).toMatchObject([{ error: { code: 'BODY_TOO_LARGE' } }, read!]);
  await expect(readItems(Buffer.from(JSON.stringify(large)))).rejects.toMatchObject({ code: 'BODY_TOO_LARGE' });
});
