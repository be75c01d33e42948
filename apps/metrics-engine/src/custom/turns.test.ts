import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createTurns } from './turns.ts';

const nothing = async () => undefined;

test('never more run at once than there are places, nor more of a caller than it may have, and each ends', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.record({ caller: fc.constantFrom('a', 'b', 'c'), fails: fc.boolean() }), { maxLength: 30 }),
      fc.scheduler(),
      async (places, perCaller, calls, scheduler) => {
        const turns = createTurns({ places, perCaller, waitMs: 60_000 });
        const running = new Map<string, number>();
        const outcomes: string[] = [];
        const asked = calls.map(({ caller, fails }) =>
          turns(caller, {
            prepare: () => scheduler.schedule(Promise.resolve()),
            async work() {
              running.set(caller, (running.get(caller) ?? 0) + 1);
              expect(running.get(caller)).toBeLessThanOrEqual(perCaller);
              expect([...running.values()].reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(places);
              await scheduler.schedule(Promise.resolve());
              running.set(caller, running.get(caller)! - 1);
              if (fails) throw Object.assign(new Error('failed'), { code: 'failed' });
            },
          }).then(
            () => outcomes.push('ok'),
            (error) => outcomes.push(error.code),
          ),
        );
        await scheduler.waitFor(Promise.all(asked));
        expect(outcomes.every((each) => ['ok', 'failed', 'RATE_LIMITED'].includes(each))).toBe(true);
        // Each caller runs as many as it may have at once; all slots are free again.
        const again = await Promise.all(
          Array.from({ length: perCaller }, () => turns('d', { prepare: nothing, work: async () => 'ok' })),
        );
        expect(again).toEqual(Array.from({ length: perCaller }, () => 'ok'));
      },
    ),
    { numRuns: 100 },
  );
});

test('a caller with as much as it may have is refused at once, before anything is prepared', async () => {
  const turns = createTurns({ places: 3, perCaller: 1, waitMs: 60_000 });
  let end = () => {};
  const first = turns('a', { prepare: nothing, work: () => new Promise<void>((resolve) => (end = resolve)) });
  const prepare = () => Promise.reject(new Error('It was prepared.'));
  await expect(turns('a', { prepare, work: nothing })).rejects.toMatchObject({
    code: 'RATE_LIMITED',
    details: { limit: 1, retryAfter: 1 },
  });
  expect(await turns('b', { prepare: nothing, work: async () => 'other' })).toBe('other');
  end();
  await first;
});

test('a caller that waits too long for a place is refused, and the place goes to the next', async () => {
  const turns = createTurns({ places: 1, perCaller: 2, waitMs: 0 });
  let end = () => {};
  const first = turns('a', { prepare: nothing, work: () => new Promise<void>((resolve) => (end = resolve)) });
  await expect(turns('b', { prepare: nothing, work: nothing })).rejects.toMatchObject({ code: 'RATE_LIMITED' });
  end();
  await first;
  expect(await turns('b', { prepare: nothing, work: async () => 'next' })).toBe('next');
});
