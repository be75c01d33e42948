import { expect, test } from 'vitest';
import { MeterDefinition } from './meters.ts';

const messagesOf = (filters: Record<string, string[]>) =>
  MeterDefinition.safeParse({ key: 'failed', aggregation: 'COUNT', filters }).error?.issues.map((each) => each.message);

test('refuses a filter that no event can match', () => {
  for (const status of ['ok', 'FAILURE', 'unknown', ''])
    expect(messagesOf({ status: ['failure', status] })).toEqual(['Expected success or failure']);
  for (const name of ['user', 'property:region'])
    expect(messagesOf({ [name]: [''] })).toEqual(['Expected a value; `unknown` stands for events without one']);
});

test('takes filters of both statuses and of absent values', () => {
  expect(messagesOf({ status: ['success', 'failure'], user: ['unknown', 'ada'] })).toBeUndefined();
});
