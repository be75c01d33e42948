import { expect, test } from 'vitest';
import { pile } from './pile.ts';

test('stacks what was used upwards, and what was taken back downwards', () => {
  expect(
    pile([
      [30, 10, null],
      [-40, 0, 5],
      [50, null, -1],
      [-2, 7, -2],
    ]),
  ).toEqual([
    [30, 10, 0],
    [-40, 10, 5],
    [80, 10, -1],
    [-42, 17, -3],
  ]);
});
