import type { BillClass, BillProvider, BillReason } from '@tally/contracts';

export type Provider = BillProvider;

export const PROVIDERS: readonly { value: Provider; label: string }[] = [
  { value: 'openai', label: 'OpenAI' },
  { value: 'anthropic', label: 'Anthropic' },
];

export const CLASS_NAMES: Record<BillClass, string> = {
  input: 'Input tokens',
  cached_input: 'Cached input',
  cache_write: 'Cache writes',
  output: 'Output tokens',
  requests: 'Requests',
  other: 'Not tokens',
  all: 'All tokens',
};

export const REASONS: Record<BillReason, string> = {
  equal: 'Equal',
  rounding: 'Rounding',
  day_boundary: 'Another day',
  quantity: 'Quantity',
  price: 'Price',
  quantity_and_price: 'Quantity and price',
  amount: 'Amount',
  unpriced: 'No price with us',
  only_on_bill: 'Only on the bill',
  only_with_us: 'Only with us',
  unknown: 'Unknown',
};

export const isReason = (value: unknown): value is BillReason =>
  typeof value === 'string' && Object.hasOwn(REASONS, value);

const HARMLESS: ReadonlySet<BillReason> = new Set<BillReason>(['equal', 'rounding']);

/** The colour of a reason: green where nothing is to be done. */
export const reasonTone = (reason: BillReason): 'good' | 'warn' | 'bad' =>
  HARMLESS.has(reason) ? 'good' : reason === 'day_boundary' ? 'warn' : 'bad';
