import { type BillClass, parseTime } from '@tally/contracts';
import {
  amountOf,
  assertUsd,
  dayIn,
  decimalsIn,
  type ExportFormat,
  type Fields,
  fieldsOf,
  hasAny,
  type ReadLine,
  shown,
  textOf,
  unreadable,
  usageLines,
  wholeIn,
  wholeOf,
} from './fields.ts';

/**
 * Exports of Anthropic:
 *
 * - JSON pages of `GET /v1/organizations/cost_report` (`amount` is a decimal string in cents; `model` and `token_type`
 *   with `group_by[]=description`) and of `GET /v1/organizations/usage_report/messages` (`model` with
 *   `group_by[]=model`): https://platform.claude.com/docs/en/api/admin/cost_report/retrieve and
 *   https://platform.claude.com/docs/en/build-with-claude/usage-cost-api
 * - CSV of the Console's pages Cost and Usage. Anthropic does not document the columns; files have `usage_date_utc`,
 *   `model`, `token_type`, `cost_usd`, `cost_type` for costs, and `model_version`, `usage_input_tokens_no_cache` and
 *   the like for usage.
 */
export const anthropic: ExportFormat = {
  bucket: ({ starting_at, ending_at }) => ({
    start: momentOf(starting_at, 'starting_at'),
    end: momentOf(ending_at, 'ending_at'),
  }),
  dayOfRow: ({ usage_date_utc }) => dayIn(usage_date_utc, 'usage_date_utc'),
  kindOf(fields) {
    if (fields.amount !== undefined || fields.cost_usd !== undefined) return 'cost';
    return hasAny(fields, TOKENS) ? 'usage' : undefined;
  },
  linesOf(kind, fields, source) {
    if (source === 'json') return kind === 'cost' ? [reportedCost(fields)] : reportedUsage(fields);
    return kind === 'cost' ? [costRow(fields)] : usageRow(fields);
  },
  decimalsOf: ({ amount, cost_usd }) => (amount === undefined ? decimalsIn(cost_usd) : decimalsIn(amount) + 2),
};

const TOKENS = [
  ...['uncached_input_tokens', 'cache_creation', 'cache_read_input_tokens', 'output_tokens'],
  ...['usage_input_tokens_no_cache', 'usage_input_tokens_cache_read', 'usage_output_tokens'],
  ...['usage_input_tokens_cache_write', 'usage_input_tokens_cache_write_5m', 'usage_input_tokens_cache_write_1h'],
];

function momentOf(value: unknown, name: string): number {
  const ms = typeof value === 'string' ? parseTime(value) : undefined;
  if (ms === undefined) throw unreadable(`${name}: expected a time such as 2026-11-01T00:00:00Z, got ${shown(value)}.`);
  return ms;
}

const CLASSES: ReadonlyMap<string, BillClass> = new Map(
  Object.entries({
    uncached_input_tokens: 'input',
    cache_read_input_tokens: 'cached_input',
    'cache_creation.ephemeral_5m_input_tokens': 'cache_write',
    'cache_creation.ephemeral_1h_input_tokens': 'cache_write',
    output_tokens: 'output',
    input_no_cache: 'input',
    input_cache_read: 'cached_input',
    input_cache_write: 'cache_write',
    input_cache_write_5m: 'cache_write',
    input_cache_write_1h: 'cache_write',
    output: 'output',
  }),
);

/** The class of a cost. What is no tokens has its description as its name; without any it is a sum of all models. */
function itemOf(fields: Fields): Pick<ReadLine, 'model' | 'class'> {
  const [model, tokens] = [textOf(fields.model), textOf(fields.token_type)];
  const kind = textOf(fields.cost_type);
  const name = tokens === null ? undefined : CLASSES.get(tokens);
  if (model && name) return { model, class: name };
  if (model && kind !== null && !/^tokens?$/.test(kind)) return { model, class: 'other' };
  if (model) return { model, class: tokens === null ? 'all' : 'other' };
  const item = textOf(fields.description) ?? kind ?? textOf(fields.usage_type);
  return item === null ? { model: '', class: 'all' } : { model: item, class: 'other' };
}

function reportedCost(fields: Fields): ReadLine {
  assertUsd(fields.currency);
  return { ...itemOf(fields), quantity: null, amount: amountOf(fields.amount, 7) };
}

const costRow = (row: Fields): ReadLine => ({ ...itemOf(row), quantity: null, amount: amountOf(row.cost_usd, 9) });

function reportedUsage(fields: Fields): ReadLine[] {
  const written = fieldsOf(fields.cache_creation);
  return usageLines(textOf(fields.model) ?? '', {
    input: wholeOf(fields, 'uncached_input_tokens'),
    cached_input: wholeIn(fields, 'cache_read_input_tokens'),
    cache_write: wholeIn(written, 'ephemeral_5m_input_tokens') + wholeIn(written, 'ephemeral_1h_input_tokens'),
    output: wholeOf(fields, 'output_tokens'),
  });
}

const usageRow = (row: Fields): ReadLine[] =>
  usageLines(textOf(row.model_version) ?? textOf(row.model) ?? '', {
    input: wholeOf(row, 'usage_input_tokens_no_cache'),
    cached_input: wholeIn(row, 'usage_input_tokens_cache_read'),
    cache_write:
      wholeIn(row, 'usage_input_tokens_cache_write') +
      wholeIn(row, 'usage_input_tokens_cache_write_5m') +
      wholeIn(row, 'usage_input_tokens_cache_write_1h'),
    output: wholeOf(row, 'usage_output_tokens'),
  });
