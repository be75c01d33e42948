import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createFairQueue } from './fair-queue.ts';

/** No task takes any time, unless a test has a clock of its own. */
const options = { places: 3, waitingPerCaller: 100, waitMs: 60_000, clock: () => 0 };

/** Work that ends when it is told to. */
function held() {
  let end = () => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { work: () => ended, end };
}

test('runs no more at once than there are places, of one caller one less, and all of it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.record({ caller: fc.constantFrom('a', 'b', 'c'), fails: fc.boolean() }), { maxLength: 30 }),
      fc.scheduler(),
      async (places, calls, scheduler) => {
        const queue = createFairQueue({ ...options, places });
        const running = new Map<string, number>();
        const asked = calls.map(({ caller, fails }, index) =>
          queue(caller, async () => {
            running.set(caller, (running.get(caller) ?? 0) + 1);
            expect(running.get(caller)).toBeLessThanOrEqual(Math.max(1, places - 1));
            expect([...running.values()].reduce((sum, each) => sum + each, 0)).toBeLessThanOrEqual(places);
            await scheduler.schedule(Promise.resolve());
            running.set(caller, running.get(caller)! - 1);
            if (fails) throw new Error(`failed ${index}`);
            return index;
          }).catch((error: Error) => error.message),
        );
        const outcomes = await scheduler.waitFor(Promise.all(asked));
        expect(outcomes).toEqual(calls.map(({ fails }, index) => (fails ? `failed ${index}` : index)));
      },
    ),
    { numRuns: 100 },
  );
});

test('serves another caller at once, however much one has waiting', async () => {
  const queue = createFairQueue(options);
  const work = held();
  const many = Array.from({ length: 50 }, () => queue('busy', work.work));
  expect(await queue('other', async () => 'answer')).toBe('answer');
  work.end();
  await Promise.all(many);
});

test('callers take turns', async () => {
  const queue = createFairQueue({ ...options, places: 1 });
  const order: string[] = [];
  const first = held();
  const asked = [queue('a', first.work)];
  for (const caller of ['a', 'a', 'a', 'b', 'b', 'c']) asked.push(queue(caller, async () => void order.push(caller)));
  first.end();
  await Promise.all(asked);
  expect(order.slice(0, 3).sort()).toEqual(['a', 'b', 'c']);
  expect(order).toHaveLength(6);
  expect(order[5]).toBe('a');
});

test('a caller with nothing running is served when the first of the others ends', async () => {
  const queue = createFairQueue(options);
  const works = ['a', 'b', 'c'].map((caller) => ({ caller, ...held() }));
  const many = Array.from({ length: 10 }, () => works.map(({ caller, work }) => queue(caller, work))).flat();
  const later = ['d', 'e'].map((caller) => ({ caller, isBegun: false, ...held() }));
  const asked = later.map((each) =>
    queue(each.caller, () => {
      each.isBegun = true;
      return each.work();
    }),
  );
  works[0]!.end();
  await turn();
  expect(later.map(({ isBegun }) => isBegun)).toEqual([true, false]);
  works[1]!.end();
  await turn();
  expect(later.map(({ isBegun }) => isBegun)).toEqual([true, true]);
  for (const { end } of [...works, ...later]) end();
  await Promise.all([...many, ...asked]);
});

test('the caller that used the least time is next, however many tasks each has done', async () => {
  let now = 0;
  const queue = createFairQueue({ ...options, places: 1, clock: () => now });
  const order: string[] = [];
  const take = (caller: string, ms: number) =>
    queue(caller, async () => {
      order.push(caller);
      now += ms;
    });
  await Promise.all([
    ...Array.from({ length: 5 }, () => take('heavy', 2_000)),
    ...Array.from({ length: 50 }, () => take('light', 100)),
  ]);
  const shown = order.join(' ').replaceAll(/(?:light ?)+/g, (some) => `${some.trim().split(' ').length} `);
  expect(shown).toBe('heavy 20 heavy 20 heavy 10 heavy heavy');
});

test('callers with many tasks waiting leave the last slot to others', async () => {
  const queue = createFairQueue(options);
  const works = Array.from({ length: 60 }, held);
  const begun: number[] = [];
  const many = works.map(({ work }, index) =>
    queue('abc'.charAt(index / 20), () => {
      begun.push(index);
      return work();
    }),
  );
  await turn();
  // The first of b came alone.
  expect(begun).toEqual([0, 1, 20]);
  works[20]!.end();
  await many[20];
  await turn();
  expect(begun).toHaveLength(3);
  expect(await queue('quiet', async () => 'answer')).toBe('answer');
  for (const { end } of works) end();
  await Promise.all(many);
});

test('time that a caller used while nobody else asked is not held against it for longer', async () => {
  let now = 0;
  const queue = createFairQueue({ ...options, places: 1, clock: () => now });
  const order: string[] = [];
  const take = (caller: string, ms: number) =>
    queue(caller, async () => {
      order.push(caller);
      now += ms;
    });
  for (let count = 0; count < 10; count++) await take('early', 500);
  await Promise.all(['early', 'late', 'early', 'late'].map((caller) => take(caller, 500)));
  expect(order.slice(10)).toEqual(['early', 'late', 'early', 'late']);
});

test('callers whose tasks take long leave the last slot to others', async () => {
  let now = 0;
  const queue = createFairQueue({ ...options, clock: () => now });
  const begun: string[] = [];
  const hold = (caller: string) => {
    const work = held();
    const done = queue(caller, () => {
      begun.push(caller);
      return work.work();
    });
    return { ...work, done };
  };
  const first = ['a', 'b', 'c'].map(hold);
  now = 10_000;
  for (const { end } of first) end();
  await Promise.all(first.map(({ done }) => done));
  const again = ['a', 'b', 'c'].map(hold);
  const quick = hold('quick');
  await turn();
  expect(begun.slice(3)).toEqual(['a', 'b', 'quick']);
  // A task that runs for long, too, is long before it has ended.
  now = 20_000;
  const [more, other] = [hold('quick'), hold('other')];
  quick.end();
  await turn();
  expect(begun.slice(6)).toEqual(['other']);
  for (const each of [...again, quick, more, other]) each.end();
  await Promise.all([...again, quick, more, other].map(({ done }) => done));
});

test('refuses what is too much of one caller, and what waits too long; the place goes on', async () => {
  const first = held();
  const queue = createFairQueue({ places: 1, waitingPerCaller: 1, waitMs: 5 });
  const running = queue('a', first.work);
  const waiting = queue('a', async () => 'late');
  await expect(queue('a', async () => 'more')).rejects.toMatchObject({ code: 'RATE_LIMITED', details: { limit: 1 } });
  await expect(waiting).rejects.toMatchObject({ code: 'RATE_LIMITED', details: { retryAfter: 1 } });
  first.end();
  await running;
  expect(await queue('a', async () => 'next')).toBe('next');
});
