import { addDays, type Day, eachDay, monthOf, startOfDay, trimesterOf, yearOf } from '@tally/contracts';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planMeter } from './meter-reader.ts';

const GRAINS = ['year', 'trimester', 'month', 'day'] as const;
const quarterHours = fc.array(fc.integer({ min: 0, max: 96 * 800 }), { minLength: 2, maxLength: 5 });

test('a plan has every day once, whole only inside of one window, and as coarse as the windows allow', () => {
  fc.assert(
    fc.property(quarterHours, fc.boolean(), (steps, wholeDays) => {
      const size = wholeDays ? 86_400_000 : 900_000;
      const bounds = [
        ...new Set(steps.map((step) => startOfDay('2025-11-20') + Math.floor(step / (wholeDays ? 96 : 1)) * size)),
      ];
      bounds.sort((a, b) => a - b);
      if (bounds.length < 2) return;
      const [starts, end] = [bounds.slice(0, -1), bounds.at(-1)!];
      const { whole, cut } = planMeter({ starts, end });
      const daysOf = (ranges: readonly { first: Day; last: Day }[]) =>
        ranges.flatMap(({ first, last }) => eachDay(first, last));
      const found = new Map<Day, string>(cut.map((day) => [day, 'cut']));
      for (const grain of GRAINS) for (const day of daysOf(whole[grain])) found.set(day, grain);
      const all = [...GRAINS.flatMap((grain) => daysOf(whole[grain])), ...cut].sort();
      expect(all).toEqual(
        eachDay(new Date(starts[0]!).toISOString().slice(0, 10), new Date(end - 1).toISOString().slice(0, 10)),
      );
      /** Whether no window begins or ends inside of these days. */
      const isWhole = ({ startDate, endDate }: { startDate: Day; endDate: Day }) => {
        const [from, to] = [startOfDay(startDate), startOfDay(addDays(endDate, 1))];
        return from >= starts[0]! && to <= end && bounds.every((at) => at <= from || at >= to);
      };
      const wrong: Day[] = [];
      for (const day of all) {
        const coarse = [yearOf, trimesterOf, monthOf].findIndex((periodOf) => isWhole(periodOf(day)));
        const wanted = GRAINS.at(coarse);
        if (found.get(day) !== (isWhole({ startDate: day, endDate: day }) ? wanted : 'cut')) wrong.push(day);
      }
      expect(wrong).toEqual([]);
    }),
    { numRuns: 40 },
  );
});
