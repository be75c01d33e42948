import type { UsageEntry } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FAULT_POINTS } from '../src/faults.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

/** Batches with several copies of an event, equal and different, in any order: the event that has the id decides. */
const RUNS = runsOf({ short: 20, long: 60 });

type Point = (typeof FAULT_POINTS)[number];
let ingest: Fixture;
let armed: Point | undefined;
let serial = 0;

beforeAll(async () => {
  ingest = await startIngest({ DEDUPLICATION_MEMORY_SHARE: '0' }, (point) => {
    if (point === armed) throw new Error(`Redis fails at ${point}`);
  });
});
afterAll(() => ingest.close());

/** A copy of event `id` with one of three contents. */
type Copy = { id: number; content: number };
const copy: fc.Arbitrary<Copy> = fc.record({
  id: fc.integer({ min: 0, max: 1 }),
  content: fc.integer({ min: 0, max: 2 }),
});
const step = fc.record({
  copies: fc.array(copy, { minLength: 1, maxLength: 6 }),
  path: fc.constantFrom('redis' as const, 'redis' as const, 'journal' as const),
  flushed: fc.boolean(),
});

const entryOf = (merchantId: string, { id, content }: Copy): UsageEntry => ({
  ...{ id: `e${id}`, merchantId, time: '2026-11-22T11:00:00Z' },
  metrics: { prompt_tokens: String(content + 1) },
});

/** What each store knows of an event: Redis the contents it took, the journal the one that it counts. */
class Model {
  readonly taken = new Map<number, Set<number>>();
  readonly counted = new Map<number, number>();
  waiting: Copy[] = [];

  answer(copies: readonly Copy[], path: 'redis' | 'journal'): string[] {
    const results: string[] = new Array(copies.length);
    for (const id of new Set(copies.map((each) => each.id))) {
      const own = [...copies.entries()].filter(([, each]) => each.id === id);
      const known = new Set(
        path === 'redis' ? this.taken.get(id) : [this.counted.get(id)].filter((content) => content !== undefined),
      );
      for (const [place, { content }] of own) {
        if (known.has(content)) results[place] = 'duplicate';
        else if (known.size > 0 && (path === 'journal' || own.some(([, each]) => known.has(each.content))))
          results[place] = 'ID_CONFLICT';
        else {
          results[place] = 'accepted';
          known.clear();
          known.add(content);
          this.take({ id, content }, path);
        }
      }
    }
    return results;
  }

  private take(one: Copy, path: 'redis' | 'journal'): void {
    if (path === 'journal') return void this.counted.set(one.id, one.content);
    this.taken.set(one.id, new Set([...(this.taken.get(one.id) ?? []), one.content]));
    this.waiting.push(one);
  }

  flush(): void {
    for (const { id, content } of this.waiting) if (!this.counted.has(id)) this.counted.set(id, content);
    this.waiting = [];
  }
}

test('answers each copy in a batch by the event that has the id, in any order, and counts that one', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 6 }), async (history) => {
      const merchantId = `m${serial++}`;
      const model = new Model();
      for (const { copies, path, flushed } of history) {
        armed = path === 'journal' ? 'record.before-redis' : undefined;
        const outcome = await ingest.admin.usage.record.mutate({
          entries: copies.map((each) => entryOf(merchantId, each)),
        });
        armed = undefined;
        const expected = model.answer(copies, path);
        const results: string[] = new Array(copies.length).fill('counted or known');
        for (const { index, code } of outcome.rejected) results[index] = code;
        const known = (result: string) => (result === 'ID_CONFLICT' ? result : 'counted or known');
        expect(results).toEqual(expected.map(known));
        expect(outcome.duplicates).toBe(expected.filter((each) => each === 'duplicate').length);
        if (!flushed) continue;
        await ingest.admin.flush.drain.mutate({ merchantIds: [merchantId] });
        model.flush();
      }
      await ingest.admin.flush.drain.mutate({ merchantIds: [merchantId] });
      model.flush();
      const { rows } = await ingest.admin.usage.recent.query({ merchantId, limit: 10 });
      const counted = rows.map(({ id, metrics }) => [Number(id.slice(1)), Number(metrics.prompt_tokens) - 1]);
      expect(new Map(counted as [number, number][])).toEqual(model.counted);
    }),
    { numRuns: RUNS },
  );
});
