/** The column by whose value Citus places a row on a node. */
export const DISTRIBUTION_COLUMN = 'merchant_id';

/**
 * Tables that Citus spreads over its nodes by merchant, all in one colocation group: those that grow with events. A merchant's
 * rows of all of them are on one node, so whatever names the merchant runs there. The first one decides the placement.
 */
export const DISTRIBUTED = [
  'usage_events',
  'usage_daily',
  'usage_quarter_hours',
  'usage_daily_models',
  'usage_monthly',
  'usage_monthly_models',
  'usage_yearly',
  'merchant_usage',
  'usage_adjustments',
  'usage_journal_closings',
  'usage_admitted_values',
  'usage_midnight_days',
  'meter_days',
  'meter_months',
  'meter_quarters',
  'meter_values',
] as const;

/** Small tables that every node has whole, since statements on distributed tables read them. */
export const REFERENCE = ['usage_closed_days', 'usage_rolled_up'] as const;
