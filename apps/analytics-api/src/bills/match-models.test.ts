import { expect, test } from 'vitest';
import { familyOf, matchModels } from './match-models.ts';

test.each([
  ['Claude Haiku 4.5', 'claude-haiku-4-5'],
  ['claude-haiku-4-5-20251001', 'claude-haiku-4-5'],
  ['anthropic/claude-haiku-4-5', 'claude-haiku-4-5'],
  ['Claude 3.5 Sonnet 2024-10-22', 'claude-3-5-sonnet'],
  ['gpt-4o-2024-08-06', 'gpt-4o'],
  ['claude-3-5-sonnet-latest', 'claude-3-5-sonnet'],
  ['gpt-4o-mini', 'gpt-4o-mini'],
])('%s is of the family %s', (name, family) => {
  expect(familyOf(name)).toBe(family);
});

test('joins names only where the other side has no model of the same name', () => {
  const { ofBill, ofOurs } = matchModels(
    ['gpt-4o-2024-08-06', 'gpt-4o-2024-11-20', 'o1-2024-12-17', 'whisper-1'],
    ['gpt-4o-2024-08-06', 'gpt-4o', 'o1', 'o3'],
  );
  expect(Object.fromEntries(ofBill)).toEqual({
    'gpt-4o-2024-08-06': 'gpt-4o-2024-08-06',
    'gpt-4o-2024-11-20': 'gpt-4o',
    'o1-2024-12-17': 'o1',
    'whisper-1': 'whisper-1',
  });
  expect(Object.fromEntries(ofOurs)).toEqual({
    'gpt-4o-2024-08-06': 'gpt-4o-2024-08-06',
    'gpt-4o': 'gpt-4o',
    o1: 'o1',
    o3: 'o3',
  });
});
