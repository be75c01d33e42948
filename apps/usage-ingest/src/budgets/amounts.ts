import { formatQuantity, MAX_SUM_UNITS, parseQuantity, TallyError, type Units } from '@tally/contracts';
import { type BudgetRow, scaleOfBudget, unitOfBudget } from '@tally/db';

type Measured = Pick<BudgetRow, 'measure' | 'meter'>;

/** Returns how to print an amount of a budget. */
export const formatOf = (budget: Measured) => (units: Units) =>
  formatQuantity(budget.measure, units, scaleOfBudget(budget));

/** Parses an amount of a budget. Throws INVALID_INPUT. */
export function unitsOf(budget: Measured, text: string, field: string): Units {
  const units = parseQuantity(budget.measure, text, scaleOfBudget(budget));
  if (units !== undefined && units <= MAX_SUM_UNITS / 10n) return units;
  const decimals = budget.measure === 'cost' ? 9 : (budget.meter?.scale ?? 0);
  const rule = decimals === 0 ? 'a whole number' : `${unitOfBudget(budget)} with at most ${decimals} decimals`;
  throw new TallyError(
    'INVALID_INPUT',
    `${field}: Expected ${rule}, from 0 to ${formatOf(budget)(MAX_SUM_UNITS / 10n)}.`,
  );
}
