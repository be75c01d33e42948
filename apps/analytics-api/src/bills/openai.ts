import { type BillClass, dayOf } from '@tally/contracts';
import { unitsOf } from '@tally/service';
import {
  amountOf,
  assertUsd,
  dayWithin,
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
 * Exports of OpenAI:
 *
 * - JSON pages of `GET /v1/organization/costs` (`amount.value` in USD, `line_item` and `quantity` with
 *   `group_by=line_item`) and of `GET /v1/organization/usage/completions` and `/embeddings` (`input_tokens` with cached
 *   ones, `model` with `group_by=model`): https://platform.openai.com/docs/api-reference/usage
 * - CSV of the usage page of the console. OpenAI does not document its columns; files have `start_time`,
 *   `amount_value`, `amount_currency`, `quantity`, `line_item` for costs, and for usage the fields of the API.
 */
export const openai: ExportFormat = {
  bucket: ({ start_time, end_time }) => ({
    start: secondsOf(start_time, 'start_time'),
    end: secondsOf(end_time, 'end_time'),
  }),
  dayOfRow({ start_time, end_time }) {
    const start = secondsOf(start_time, 'start_time');
    return end_time === undefined ? dayOf(start) : dayWithin({ start, end: secondsOf(end_time, 'end_time') });
  },
  kindOf(fields) {
    if (fields.amount !== undefined || fields.amount_value !== undefined) return 'cost';
    return hasAny(fields, ['input_tokens', 'output_tokens']) ? 'usage' : undefined;
  },
  linesOf: (kind, fields) => (kind === 'cost' ? [costLine(fields)] : reportedUsage(fields)),
  decimalsOf: (fields) => decimalsIn(amountIn(fields)),
};

const MAX_SECONDS = 100_000_000_000;

/** Unix seconds, as milliseconds. */
function secondsOf(value: unknown, name: string): number {
  const seconds = typeof value === 'string' && /^\d{1,12}$/.test(value) ? Number(value) : Number.NaN;
  if (!(seconds < MAX_SECONDS)) throw unreadable(`${name}: expected a time in Unix seconds, got ${shown(value)}.`);
  return seconds * 1000;
}

const amountIn = (fields: Fields): unknown => fields.amount_value ?? fieldsOf(fields.amount).value;

function costLine(fields: Fields): ReadLine {
  assertUsd(fields.amount_currency ?? fieldsOf(fields.amount).currency);
  const item = itemOf(textOf(fields.line_item));
  return { ...item, quantity: tokensOf(item.class, fields.quantity), amount: amountOf(amountIn(fields), 9) };
}

/** A quantity has the unit of its line item; that of token classes is tokens. Null where it is no whole number. */
function tokensOf(name: BillClass, quantity: unknown): bigint | null {
  const units = TOKENS.has(name) && typeof quantity === 'string' ? unitsOf(quantity, 0) : undefined;
  return units && !units.rest ? units.units : null;
}

const TOKENS: ReadonlySet<BillClass> = new Set(['input', 'cached_input', 'cache_write', 'output']);

const CLASSES: ReadonlyMap<string, BillClass> = new Map(
  Object.entries({
    input: 'input',
    'cached input': 'cached_input',
    'cache write': 'cache_write',
    'cache writes': 'cache_write',
    output: 'output',
  }),
);

/**
 * The model and the class of a line item, such as `gpt-4o-2024-08-06, cached input` or `priority | gpt-5, output, long
 * context`. Items of audio, images and tools are `other`; a model alone is `all`.
 */
export function itemOf(item: string | null): Pick<ReadLine, 'model' | 'class'> {
  if (item === null) return { model: '', class: 'all' };
  const text = item.replace(/^(?:batch|flex|priority|scale) \| /i, '').replace(/, long context$/i, '');
  const [, model, kind] = /^([^\s,|]+), (.+)$/.exec(text) ?? [];
  const name =
    kind &&
    CLASSES.get(
      kind
        .toLowerCase()
        .replaceAll('_', ' ')
        .replace(/ tokens$/, ''),
    );
  if (model && name) return { model, class: name };
  // A model has a digit or a dash; `embeddings` or `Completions` name kinds of calls.
  if (/^[^\s,|]*[\d-][^\s,|]*$/.test(text)) return { model: text, class: 'all' };
  return { model: item, class: 'other' };
}

function reportedUsage(fields: Fields): ReadLine[] {
  const [all, cached] = [wholeOf(fields, 'input_tokens'), wholeIn(fields, 'input_cached_tokens')];
  if (cached > all) throw unreadable(`input_cached_tokens is ${cached}, more than input_tokens, which contains it.`);
  return usageLines(textOf(fields.model) ?? '', {
    input: all - cached,
    cached_input: cached,
    // Embeddings have none.
    output: wholeIn(fields, 'output_tokens'),
    requests: wholeIn(fields, 'num_model_requests'),
  });
}
