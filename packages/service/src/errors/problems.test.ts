import { BreakdownBy, UsageEntry } from '@tally/contracts';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { problemsOf } from './problems.ts';

const schema = z.strictObject({
  startDate: z.string(),
  by: BreakdownBy,
  status: z.enum(['success', 'failure']).optional(),
  entries: z.array(z.unknown()).max(1_000).optional(),
  name: z.string().min(2).max(2_000).optional(),
  share: z.number().min(0).lt(1).optional(),
  either: z.union([z.string(), z.strictObject({ eq: z.number() })]).optional(),
  stated: z.string().max(1, 'Expected one letter').optional(),
  twice: z.string().max(2).max(2).optional(),
});

const GROUPINGS = '"user", "model", "provider", "apiKey", "merchant", "team"';

test.each<[message: string, field: string, input: object]>([
  ['startDate is missing', 'startDate', { startDate: undefined }],
  ['by is missing', 'by', { by: undefined }],
  ['startDate: Invalid input: expected string, received number', 'startDate', { startDate: 7 }],
  [`by: Expected one of ${GROUPINGS}`, 'by', { by: 'colour' }],
  [`by: Expected one of ${GROUPINGS}`, 'by', { by: 7 }],
  [`by.1: Expected one of ${GROUPINGS}`, 'by.1', { by: ['user', 'colour'] }],
  ['by: Expected two different groupings.', 'by', { by: ['user', 'user'] }],
  ['status: Expected one of "success", "failure"', 'status', { status: 'well' }],
  ['entries: Expected at most 1,000 items', 'entries', { entries: Array(1_001) }],
  ['name: Expected at least 2 characters', 'name', { name: 'x' }],
  ['name: Expected at most 2,000 characters', 'name', { name: 'x'.repeat(2_001) }],
  ['twice: Expected at most 2 characters', 'twice', { twice: 'xxx' }],
  ['share: Expected at least 0', 'share', { share: -0.5 }],
  ['share: Expected less than 1', 'share', { share: 1 }],
  ['either: expected string, received number; or: expected object, received number', 'either', { either: 7 }],
  ['either.eq is missing', 'either.eq', { either: {} }],
  ['stated: Expected one letter', 'stated', { stated: 'ab' }],
  ['Unrecognized key: "merchant"', 'merchant', { merchant: 'acme' }],
])('%s', (message, field, input) => {
  const { error } = schema.safeParse({ startDate: '2026-01-01', by: 'user', ...input });
  expect(problemsOf(error!)).toMatchObject({ message, fields: [{ field }] });
});

test.each<[message: RegExp, fields: object]>([
  [
    /^metrics\.promptTokens: Expected a lower-case letter .*, such as "prompt_tokens"$/,
    { metrics: { promptTokens: '1' } },
  ],
  [/^properties\.region: Expected text, a number, true or false$/, { properties: { region: { name: 'eu' } } }],
  [/^Unrecognized key: "user"; an event has id, merchantId, .* and properties$/, { user: 'ada' }],
  [/^properties: Expected at most 16 fields$/, { properties: Object.fromEntries([...'abcdefghijklmnopq'].entries()) }],
])('says what an event may have: %s', (message, fields) => {
  const { error } = UsageEntry.safeParse({ id: 'a', merchantId: 'acme', metrics: { queries: '1' }, ...fields });
  expect(problemsOf(error!).message).toMatch(message);
});

test('names an input that is missing as a whole', () => {
  expect(problemsOf(schema.safeParse(undefined).error!, 'entry').message).toBe('entry is missing');
  expect(problemsOf(schema.safeParse(undefined).error!).message).toBe('The input is missing');
});
