import { expect, test } from 'vitest';
import { complete, completionsOf } from './completion.ts';

const COLUMNS = ['cost', 'completion_tokens', 'user_id', "metric('…')"];
const words = (text: string) => completionsOf(text, text.length, COLUMNS).options.map(({ word }) => word);

test('offers columns before functions, whatever their case', () => {
  expect(words('SUM(co').slice(0, 2)).toEqual(['cost', 'completion_tokens']);
  expect(words('CO')).toContain('COUNT(*)');
  expect(words('user')).toEqual(['user_id']);
});

test('offers nothing where nothing was typed, in a text, or for a whole word', () => {
  expect([words(''), words('SUM('), words("status = 'fai"), words('user_id')]).toEqual([[], [], [], []]);
});

test('looks at the word before the caret only', () => {
  expect(completionsOf('us / cost', 2, COLUMNS)).toMatchObject({ start: 0, options: [{ word: 'user_id' }] });
});

test.each([
  ['SUM(co) / 2', 6, 4, 'cost', 'SUM(cost|) / 2'],
  ['su', 2, 0, 'SUM()', 'SUM(|)'],
  ['cou', 3, 0, 'COUNT(*)', 'COUNT(*)|'],
  ['cou', 3, 0, 'COUNT(DISTINCT )', 'COUNT(DISTINCT |)'],
  ['fil', 3, 0, 'FILTER (WHERE )', 'FILTER (WHERE |)'],
  ['case', 4, 0, 'CASE WHEN  THEN  ELSE  END', 'CASE WHEN | THEN  ELSE  END'],
])('completes %s at %i', (formula, caret, start, word, expected) => {
  const completed = complete(formula, caret, start, word);
  expect(`${completed.formula.slice(0, completed.caret)}|${completed.formula.slice(completed.caret)}`).toBe(expected);
});
