import { beforeEach, expect, test } from 'vitest';
import { createDirectWrites, type DirectWrites } from './direct-writes.ts';

let now = 0;
let writes: DirectWrites;
beforeEach(() => {
  now = 1_000;
  writes = createDirectWrites(() => now);
});

const acme = new Set(['acme']);
const written = async () => 'written';
const failed = async () => {
  throw new Error('no answer in time');
};

test('totals may be too low from the start of a direct write until a repair that began after its end', async () => {
  let end = () => {};
  const write = writes.track(acme, () => new Promise<void>((resolve) => (end = resolve)));
  expect(writes.mayBeBehind('acme')).toBe(true);
  expect(writes.mayBeBehind('globex')).toBe(false);
  now += 1_000;
  // It did not see this write.
  writes.settled(now);
  expect(writes.mayBeBehind('acme')).toBe(true);
  end();
  await write;
  writes.settled(now);
  expect(writes.mayBeBehind('acme')).toBe(true);
  writes.settled(now + 1);
  expect(writes.mayBeBehind('acme')).toBe(false);
});

test('a write that failed may still be committed, so that no repair ends its minute', async () => {
  await expect(writes.track(acme, failed)).rejects.toThrow('no answer in time');
  expect(await writes.track(acme, written)).toBe('written');
  now += 59_000;
  writes.settled(now);
  expect(writes.mayBeBehind('acme')).toBe(true);
  now += 1_000;
  expect(writes.mayBeBehind('acme')).toBe(false);
});

test('a repair ends what is known, once the minute of a failure has passed', async () => {
  await writes.track(acme, failed).catch(() => {});
  now += 61_000;
  await writes.track(acme, written);
  expect(writes.mayBeBehind('acme')).toBe(true);
  now += 1;
  writes.settled(now);
  expect(writes.mayBeBehind('acme')).toBe(false);
});
