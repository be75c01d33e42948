import { expect, test } from 'vitest';
import { createBreaker } from './breaker.ts';

/** A store whose probe a test answers, delays or refuses. */
function setUp() {
  const store = { state: 'fine' as 'fine' | 'hangs' | 'refuses', probes: 0, changes: [] as string[] };
  const release: (() => void)[] = [];
  const breaker = createBreaker({
    name: 'The store',
    async probe() {
      store.probes++;
      if (store.state === 'refuses') throw new Error('it evicts keys');
      if (store.state === 'hangs') await new Promise<void>((resolve) => release.push(resolve));
    },
    onChange: (reason) => store.changes.push(reason?.message ?? 'used again'),
  });
  const goOn = () => {
    store.state = 'fine';
    for (const each of release.splice(0)) each();
  };
  return { store, breaker, goOn };
}

const never = () => new Promise<never>(() => {});

test('all work under way fails once when a store hangs; later work is not begun until the store answers', async () => {
  const { store, breaker, goOn } = setUp();
  store.state = 'hangs';
  const failed = await Promise.allSettled(Array.from({ length: 50 }, () => breaker.run(never)));
  for (const each of failed)
    expect(each).toMatchObject({ reason: { code: 'ETIMEDOUT', message: 'The store does not answer.' } });
  let begun = 0;
  const later = Array.from({ length: 50 }, () =>
    breaker.run(async () => {
      begun++;
    }),
  );
  for (const each of later) await expect(each).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  expect(begun).toBe(0);
  // A store that hangs is probed once, and not again until it answers.
  expect(store.probes).toBe(1);
  goOn();
  await expect.poll(() => breaker.run(async () => 'done').catch(() => 'refused')).toBe('done');
  expect(store.changes).toEqual(['The store does not answer.', 'used again']);
  breaker.stop();
});

test('slow work of a store that answers its probe goes on', async () => {
  const { store, breaker } = setUp();
  let finish = (_: string) => {};
  const slow = breaker.run(
    () =>
      new Promise<string>((resolve) => {
        finish = resolve;
      }),
  );
  await expect.poll(() => store.probes).toBeGreaterThan(1);
  finish('done');
  expect(await slow).toBe('done');
  expect(store.changes).toEqual([]);
  breaker.stop();
});

test('a store that must not be used says why, and is used as soon as it may be', async () => {
  const { store, breaker, goOn } = setUp();
  store.state = 'refuses';
  await breaker.look();
  await expect(breaker.run(never)).rejects.toThrow('The store is not used: it evicts keys');
  goOn();
  await expect.poll(() => breaker.run(async () => 'done').catch(() => 'refused')).toBe('done');
  breaker.stop();
});

test('errors of the work itself change nothing', async () => {
  const { store, breaker } = setUp();
  const broken = breaker.run(() => Promise.reject(new Error('out of range')));
  await expect(broken).rejects.toThrow('out of range');
  expect(await breaker.run(async () => 1)).toBe(1);
  expect(store).toMatchObject({ probes: 0, changes: [] });
  breaker.stop();
});
