import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { coalesce, coalesceBy } from './coalesce.ts';

test('a caller gets a run for what it asked for, which began after it asked; two of a kind never run at once', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ asked: fc.constantFrom('a', 'b', undefined), pause: fc.boolean() }), { maxLength: 20 }),
      fc.scheduler(),
      async (calls, scheduler) => {
        let clock = 0;
        const running = new Set<string | undefined>();
        const ask = coalesceBy(async (asked: string | undefined) => {
          const began = ++clock;
          expect(running.has(asked)).toBe(false);
          running.add(asked);
          await scheduler.schedule(Promise.resolve());
          running.delete(asked);
          if (began % 5 === 0) throw new Error('failed');
          return { asked, began };
        });
        const answers: Promise<void>[] = [];
        for (const { asked, pause } of calls) {
          if (pause) await scheduler.waitNext(Math.min(1, scheduler.count()));
          const at = ++clock;
          const answer = ask(asked).then((run) => {
            expect(run.asked).toBe(asked);
            expect(run.began).toBeGreaterThan(at);
          });
          answers.push(answer.catch((error: Error) => expect(error.message).toBe('failed')));
        }
        await scheduler.waitFor(Promise.all(answers));
      },
    ),
    { numRuns: 200 },
  );
});

test('callers at the same time share a run', async () => {
  let runs = 0;
  const ask = coalesceBy(async (_: string) => ++runs);
  expect(await Promise.all(['a', 'a', 'a', 'b'].map(ask))).toEqual([1, 1, 1, 2]);
  expect(await ask('a')).toBe(3);
});

test('a run of several callers waits for those of the last one, and one caller alone waits for nobody', async () => {
  let [runs, gathered, go] = [0, 0, () => {}];
  const gather = () => {
    gathered++;
    return new Promise<void>((resolve) => {
      go = resolve;
    });
  };
  const ask = coalesce(async () => ++runs, gather);
  expect([await ask(), await ask(), gathered]).toEqual([1, 2, 0]);

  const first = [ask(), ask()];
  await vi.waitUntil(() => gathered === 1);
  const late = ask();
  go();
  expect(await Promise.all([...first, late])).toEqual([3, 3, 3]);

  const next = ask();
  await vi.waitUntil(() => gathered === 2);
  go();
  expect([await next, await ask(), gathered]).toEqual([4, 5, 2]);
});
