import { isTallyError } from '@tally/contracts';
import { expect, test } from 'vitest';
import { assertRange, periodBefore, suggestRanges } from './dates.ts';

const problem = (startDate: string, endDate: string) => {
  try {
    assertRange({ startDate, endDate }, 90);
    return 'none';
  } catch (error) {
    if (!isTallyError(error)) throw error;
    return error;
  }
};

test('both ends of a range count against the limit', () => {
  expect(problem('2025-01-01', '2025-03-31')).toBe('none');
  expect(problem('2024-02-01', '2024-02-29')).toBe('none');
  expect(problem('2025-01-01', '2025-01-01')).toBe('none');
  expect(problem('2025-01-01', '2025-04-01')).toMatchObject({
    code: 'DATE_RANGE_TOO_LARGE',
    message: 'Date range too large. Maximum allowed is 90 days, requested 91 days.',
    details: {
      requestedDays: 91,
      maxAllowedDays: 90,
      suggestion: 'Break your request into 2 smaller date ranges',
      suggestedRanges: [
        { startDate: '2025-01-01', endDate: '2025-03-31' },
        { startDate: '2025-04-01', endDate: '2025-04-01' },
      ],
    },
  });
  expect(problem('2025-01-01', '2025-12-31')).toMatchObject({ details: { requestedDays: 365 } });
  expect(problem('2025-02-01', '2025-01-01')).toMatchObject({ code: 'INVALID_DATE_ORDER' });
});

test('suggested ranges follow each other to the last day', () => {
  const ranges = suggestRanges('2025-01-01', '2025-12-31', 90).map((range) => `${range.startDate}..${range.endDate}`);
  expect(ranges).toEqual([
    '2025-01-01..2025-03-31',
    '2025-04-01..2025-06-29',
    '2025-06-30..2025-09-27',
    '2025-09-28..2025-12-26',
    '2025-12-27..2025-12-31',
  ]);
});

test.each([
  ['2025-01-15', '2025-01-21', '2025-01-08', '2025-01-14'],
  ['2025-02-01', '2025-03-02', '2025-01-02', '2025-01-31'],
  ['2025-01-15', '2025-01-15', '2025-01-14', '2025-01-14'],
  ['2025-01-01', '2025-01-07', '2024-12-25', '2024-12-31'],
  ['2025-01-20', '2025-01-27', '2025-01-12', '2025-01-19'],
  ['2025-01-01', '2025-01-31', '2024-12-01', '2024-12-31'],
  ['2025-03-01', '2025-03-31', '2025-01-29', '2025-02-28'],
])('%s to %s is compared with %s to %s', (startDate, endDate, previousStart, previousEnd) => {
  expect(periodBefore({ startDate, endDate })).toEqual({ startDate: previousStart, endDate: previousEnd });
});
