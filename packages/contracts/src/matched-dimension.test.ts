import { expect, test } from 'vitest';
import { budgets } from './budgets.ts';
import { prices } from './prices.ts';

const price = { component: 'input', amount: '1', validFrom: '2026-01-01T00:00:00Z' };
const budget = { measure: 'cost', limit: '1', period: 'day', enforcement: 'hard' };

test.each(['provider', 'model'])('a price of the %s `unknown` is refused, as it would price nothing', (name) => {
  expect(prices.set.input.safeParse({ ...price, [name]: 'unknown' }).error?.issues[0]?.path).toEqual([name]);
  for (const value of ['', 'openai'])
    expect(prices.set.input.safeParse({ ...price, [name]: value }).success).toBe(true);
});

test.each(['userId', 'apiKey', 'model'])('a budget of the %s `unknown` is refused, as nothing would count', (name) => {
  const parsed = (value: string) => budgets.create.input.safeParse({ ...budget, scope: { [name]: value } });
  expect(parsed('unknown').error?.issues[0]?.path).toEqual(['scope', name]);
  for (const value of ['', 'ada']) expect(parsed(value).success).toBe(true);
});
