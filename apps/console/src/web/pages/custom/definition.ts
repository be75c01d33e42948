/** The parts of a custom metric, in words. */
export type Kind = 'COUNT' | 'SUM' | 'AVERAGE' | 'DISTINCT_COUNT' | 'PERCENTILE' | 'RATIO' | 'MAX' | 'MIN';
export type Visibility = 'PRIVATE' | 'TEAM' | 'ORGANIZATION' | 'PUBLIC';

export const SOURCES: readonly { value: string; label: string; note: string }[] = [
  { value: 'events', label: 'Events', note: 'every event the journal keeps' },
  { value: 'usage', label: 'Daily usage', note: 'sums by day, for years' },
  { value: 'daily_metrics', label: 'Daily rollups', note: 'with growth' },
  { value: 'weekly_metrics', label: 'Weekly rollups', note: 'with growth' },
  { value: 'monthly_metrics', label: 'Monthly rollups', note: 'with growth' },
];
export const KINDS: readonly { value: Kind; label: string }[] = [
  { value: 'RATIO', label: 'Ratio' },
  { value: 'SUM', label: 'Sum' },
  { value: 'COUNT', label: 'Count' },
  { value: 'DISTINCT_COUNT', label: 'Distinct count' },
  { value: 'AVERAGE', label: 'Average' },
  { value: 'PERCENTILE', label: 'Percentile' },
  { value: 'MAX', label: 'Maximum' },
  { value: 'MIN', label: 'Minimum' },
];
export const VISIBILITIES: readonly { value: Visibility; label: string; note: string }[] = [
  { value: 'PRIVATE', label: 'Only me', note: 'the key that made it' },
  { value: 'TEAM', label: 'My team', note: 'keys of the same team' },
  { value: 'ORGANIZATION', label: 'My merchant', note: 'keys of the same merchant' },
  { value: 'PUBLIC', label: 'Everyone', note: 'every key that may read' },
];
export const visibilityText = (value: string) => VISIBILITIES.find((each) => each.value === value)?.label ?? value;

const NAMES = ['date', 'merchant_id', 'user_id', 'api_key', 'model', 'provider'];
const SUMS = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'total_tokens', 'cost'];
export const COLUMNS = {
  events: ['time', ...NAMES, 'status', ...SUMS, "metric('…')", "property('…')"],
  usage: [...NAMES, ...SUMS],
} as const;
/** Metrics to begin with. */
export const EXAMPLES: readonly { name: string; metricType: Kind; formula: string }[] = [
  { name: 'Cost per user', metricType: 'RATIO', formula: 'SUM(cost) / COUNT(DISTINCT user_id)' },
  { name: 'Failed calls', metricType: 'COUNT', formula: "COUNT(*) FILTER (WHERE status = 'failure')" },
  {
    name: '95th percentile of tokens',
    metricType: 'PERCENTILE',
    formula: 'PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY total_tokens)',
  },
];

/** Days of a preview, until today. */
export const PREVIEW_DAYS = 7;

export type Definition = {
  id: string;
  name: string;
  description?: string | undefined;
  metricType: Kind;
  dataSource: string;
  calculationFormula: string;
  dimensions?: string[] | undefined;
  visibility: Visibility;
  version: number;
  ownerId?: string | undefined;
  merchantId?: string | null | undefined;
};

/** A definition while it is edited. */
export type Draft = {
  id: string | null;
  name: string;
  description: string;
  metricType: Kind;
  dataSource: string;
  formula: string;
  dimensions: string;
  visibility: Visibility;
};
/** What every part of the form needs. */
export type Part = { draft: Draft; change: (next: Partial<Draft>) => void };
export const EMPTY: Draft = {
  id: null,
  name: '',
  description: '',
  metricType: 'RATIO',
  dataSource: 'events',
  formula: '',
  dimensions: '',
  visibility: 'PRIVATE',
};
export const draftOf = (metric: Definition): Draft => ({
  id: metric.id,
  name: metric.name,
  description: metric.description ?? '',
  metricType: metric.metricType,
  dataSource: metric.dataSource,
  formula: metric.calculationFormula,
  dimensions: (metric.dimensions ?? []).join(', '),
  visibility: metric.visibility,
});
