import { expect, test } from 'vitest';
import { demoTraffic } from './traffic.ts';

test('a day has the same events on every day that the demo runs', () => {
  const first = new Map([...demoTraffic('2026-11-01', '2026-11-07')].map((entry) => [keyOf(entry), entry]));
  const next = [...demoTraffic('2026-11-02', '2026-11-08')].filter(({ time }) => time! < '2026-11-08');
  expect(next.length).toBeGreaterThan(1_000);
  for (const entry of next) expect(first.get(keyOf(entry))).toEqual(entry);
});

test('no event has the id of another one of its merchant', () => {
  const entries = [...demoTraffic('2026-11-01', '2026-11-07')];
  expect(new Set(entries.map(keyOf)).size).toBe(entries.length);
});

const keyOf = ({ merchantId, id }: { merchantId: string; id?: string | undefined }) => `${merchantId} ${id}`;
