import { DIMENSIONS, MEASURES, PRICED_MEASURES } from '@tally/contracts';

// The measures and the dimensions, as statements write them.

export const list = MEASURES.join(', ');

/** A dimension of a journal row as rollups have it: a value beyond the limit of its day is `(other)`. */
export const rolled = (name, bit, row = '') =>
  `case when ${row}folded & ${1 << bit} <> 0 then '(other)' else ${row}${name} end`;
export const rolledDimensions = DIMENSIONS.map((name, bit) => `${rolled(name, bit)} as ${name}`);
/** Statements that change only some measures name only those. */
export const namedSums = (measures = MEASURES) => measures.map((name) => `units_sum(${name}) as ${name}`).join(', ');
export const numericSums = (measures = MEASURES) => measures.map((name) => `sum(${name}) as ${name}`).join(', ');
export const negative = MEASURES.map((name) => `-${name} as ${name}`).join(', ');
export const someAmount = (measures) => measures.map((name) => `${name} <> 0`).join(' or ');
export const someSum = (measures = MEASURES) => measures.map((name) => `units_sum(${name}) <> 0`).join(' or ');
export const numbers = (columns) => columns.map((_, index) => index + 1).join(', ');

export const indent = (text, by = 2) => text.trim().replaceAll('\n', `\n${' '.repeat(by)}`);

/** The measures of a row, each as a row (metric_type, metric_value). */
export const eachMeasure = (measures = MEASURES) => `cross join lateral (values
  ${measures.map((name) => `('${name}', ${name})`).join(', ')}
) as measure (metric_type, metric_value)`;

/** What Tally priced: a row for each size of calls, so that a price of long calls can be found again. */
export const PRICED_KEYS = ['merchant_id', 'date', ...DIMENSIONS, 'call_size'];
export const PRICED_AMOUNTS = [...PRICED_MEASURES, 'reratings'];
/** Columns of `rerate.sql`, with the types of their arrays; those of a row of what Tally priced, and its difference. */
export const RERATING = [
  ['date', 'date'],
  ...DIMENSIONS.map((name) => [name, 'text']),
  ['call_size', 'smallint'],
  ['reratings', 'integer'],
  ['difference', 'bigint'],
];
export const partsOf = (row) =>
  `usage_priced_parts(${['prompt_tokens', 'completion_tokens', 'calls', 'failed', 'metrics'].map((name) => `${row}${name}`).join(', ')}) as parts`;

export const ofMerchants = '($1::text[] is null or merchant_id = any($1))';
export const inRange = `${ofMerchants} and date between $2 and $3`;
