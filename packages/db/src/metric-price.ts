import type { Expr, MetricQuery } from './metric-query.ts';

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
  switch (expr.kind) {
    case 'percentile':
      return 1;
    case 'count':
      return expr.distinct ? 1 : 0;
    case 'binary':
    case 'nullif':
      return sortsIn(expr.left) + sortsIn(expr.right);
    case 'negate':
    case 'not':
    case 'isNull':
      return sortsIn(expr.arg);
    case 'in':
      return sum([expr.arg, ...expr.items]);
    case 'case':
      return sum([...expr.whens.flatMap(({ when, result }) => [when, result]), expr.otherwise]);
    case 'coalesce':
      return sum(expr.args);
    case 'column':
    case 'literal':
    case 'metric':
    case 'property':
    case 'fold':
      return 0;
  }
}

const sum = (all: readonly Expr[]): number => all.reduce((total, each) => total + sortsIn(each), 0);
