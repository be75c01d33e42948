import { type Expr, type MetricQuery, partsOf } from './metric-query.ts';

/** The planner's own cost of a comparison in a sort: two operators. */
const COMPARISON = 0.005;
/** The planner's own cost of reading a row and evaluating a few operators on it. */
const ROW = 0.02;

/**
 * Returns the price of a formula in the planner's units. The planner prices only some of the sorts inside aggregates
 * (`planned`), and expects few rows of a table without statistics: `rows` is the expected or counted number.
 */
export function priceOf(
  { formula, dimensions }: Pick<MetricQuery, 'formula' | 'dimensions'>,
  { planCost, rows, planned }: { planCost: number; rows: number; planned: number },
): number {
  const sort = rows * Math.log2(Math.max(2, rows)) * COMPARISON;
  // Over all rows, and by the dimensions.
  const sorts = sortsIn(formula) * (dimensions.length > 0 ? 2 : 1);
  return Math.round((Math.max(planCost, rows * ROW) + Math.max(0, sorts - planned) * sort) * 100) / 100;
}

/** Counts the aggregates of a formula that sort their rows. */
function sortsIn(expr: Expr): number {
  const sorts = expr.kind === 'percentile' || (expr.kind === 'count' && expr.distinct) ? 1 : 0;
  return partsOf(expr).reduce((total, part) => total + sortsIn(part), sorts);
}
