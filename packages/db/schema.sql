table alert_firings (
  id bigint not null generated always as identity,
  rule text not null,
  period_start timestamp with time zone not null,
  threshold text not null,
  event text not null,
  data jsonb not null,
  fired_at timestamp with time zone not null,
  resolved_at timestamp with time zone,
  constraint alert_firings_pkey PRIMARY KEY (id),
  constraint alert_firings_rule_period_start_threshold_key UNIQUE (rule, period_start, threshold)
);

table alerts (
  id uuid not null default gen_random_uuid(),
  name text not null,
  "on" text not null,
  target text not null,
  condition jsonb not null,
  webhook_ids uuid[] not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  created_by text not null,
  removed_at timestamp with time zone,
  constraint alerts_pkey PRIMARY KEY (id)
);

table api_keys (
  id uuid not null default gen_random_uuid(),
  hash text not null,
  name text not null,
  role text not null,
  merchant_id text,
  team_id text,
  created_at timestamp with time zone not null default now(),
  revoked_at timestamp with time zone,
  created_by text,
  last_used_at timestamp with time zone,
  expires_at timestamp with time zone,
  rotated_at timestamp with time zone,
  previous_hash text,
  previous_expires_at timestamp with time zone,
  revoked_by text,
  kind text not null default 'key'::text,
  parent_id uuid,
  parent_hash text,
  constraint api_keys_hash_key UNIQUE (hash),
  constraint api_keys_kind_check CHECK ((kind = ANY (ARRAY['key'::text, 'session'::text]))),
  constraint api_keys_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint api_keys_pkey PRIMARY KEY (id),
  constraint api_keys_previous CHECK (((previous_hash IS NULL) = (previous_expires_at IS NULL))),
  constraint api_keys_previous_hash_key UNIQUE (previous_hash),
  constraint api_keys_role_check CHECK ((role = ANY (ARRAY['producer'::text, 'member'::text, 'viewer'::text, 'analyst'::text, 'admin'::text]))),
  constraint api_keys_session CHECK (
CASE kind
    WHEN 'session'::text THEN ((parent_hash IS NOT NULL) AND (expires_at IS NOT NULL))
    ELSE ((parent_hash IS NULL) AND (parent_id IS NULL))
END)
);
CREATE INDEX api_keys_created ON public.api_keys USING btree (created_at, id);
CREATE INDEX api_keys_sessions ON public.api_keys USING btree (parent_hash, expires_at) WHERE (kind = 'session'::text);

table audit_log (
  id bigint not null generated always as identity,
  at timestamp with time zone not null default clock_timestamp(),
  service text not null,
  action text not null,
  actor text not null,
  role text not null,
  actor_merchant_id text,
  merchant_ids text[] not null,
  target_id text,
  input jsonb not null,
  outcome text,
  duration_ms integer,
  constraint audit_log_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_log_action ON public.audit_log USING btree (action, id);
CREATE INDEX audit_log_actor ON public.audit_log USING btree (actor, id);
CREATE INDEX audit_log_at ON public.audit_log USING btree (at);

table bill_lines (
  bill_id bigint not null,
  date date not null,
  model text not null,
  class text not null,
  quantity numeric,
  amount numeric,
  lines integer not null,
  constraint bill_lines_bill_id_fkey FOREIGN KEY (bill_id) REFERENCES bills(id) ON DELETE CASCADE,
  constraint bill_lines_pkey PRIMARY KEY (bill_id, date, model, class)
);

table bills (
  id bigint not null generated always as identity,
  provider text not null,
  account text not null,
  kind text not null,
  format text not null,
  start_date date not null,
  end_date date not null,
  lines integer not null,
  amount numeric,
  tokens numeric,
  rounding bigint not null,
  file_hash text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  created_by text not null,
  constraint bills_check CHECK (((amount IS NOT NULL) OR (kind = 'usage'::text))),
  constraint bills_check1 CHECK ((start_date <= end_date)),
  constraint bills_pkey PRIMARY KEY (id),
  constraint bills_rounding_check CHECK ((rounding > 0))
);
CREATE INDEX bills_of_account ON public.bills USING btree (provider, account, kind, start_date);

table budget_list (
  version bigint not null,
  members bigint not null default 0
);

table budget_spend (
  budget_id uuid not null,
  period_start timestamp with time zone not null,
  units numeric not null,
  constraint budget_spend_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets(id),
  constraint budget_spend_pkey PRIMARY KEY (budget_id, period_start)
);

table budgets (
  id uuid not null default gen_random_uuid(),
  name text not null,
  merchant_id text not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  measure text not null,
  "limit" bigint not null,
  period text not null,
  time_zone text not null,
  enforcement text not null,
  when_unavailable text not null,
  thresholds integer[] not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  created_by text not null,
  removed_at timestamp with time zone,
  team text not null default ''::text,
  meter jsonb,
  thresholds_since timestamp with time zone not null default clock_timestamp(),
  constraint budgets_limit_check CHECK (("limit" >= 0)),
  constraint budgets_pkey PRIMARY KEY (id)
);
CREATE INDEX budgets_active ON public.budgets USING btree (merchant_id) WHERE (removed_at IS NULL);
CREATE INDEX budgets_found_by ON public.budgets USING btree (budget_key(budget_way(merchant_id, user_id, api_key, team, model), merchant_id, user_id, api_key, team, model)) WHERE (removed_at IS NULL);

table custom_metric_audit (
  id bigint not null generated always as identity,
  at timestamp with time zone not null default clock_timestamp(),
  definition_id uuid,
  version integer,
  action text not null,
  caller_id text not null,
  caller_merchant_id text,
  outcome text not null,
  details jsonb not null,
  constraint custom_metric_audit_pkey PRIMARY KEY (id)
);
CREATE INDEX custom_metric_audit_definition ON public.custom_metric_audit USING btree (definition_id, id DESC);

table custom_metric_definitions (
  id uuid not null default gen_random_uuid(),
  merchant_id text not null,
  owner_id text not null,
  team_id text,
  visibility text not null,
  name text not null,
  version integer not null,
  uses bigint not null default 0,
  last_used_at timestamp with time zone,
  created_at timestamp with time zone not null default now(),
  updated_at timestamp with time zone not null default now(),
  removed_at timestamp with time zone,
  constraint custom_metric_definitions_pkey PRIMARY KEY (id),
  constraint custom_metric_definitions_visibility_check CHECK ((visibility = ANY (ARRAY['PRIVATE'::text, 'TEAM'::text, 'ORGANIZATION'::text, 'PUBLIC'::text])))
);
CREATE INDEX custom_metric_definitions_merchant ON public.custom_metric_definitions USING btree (merchant_id);

table custom_metric_sources (
  name text not null,
  view text not null,
  columns jsonb not null,
  merchant_column text,
  date_column text not null,
  date_type text not null,
  created_at timestamp with time zone not null default now(),
  constraint custom_metric_sources_date_type_check CHECK ((date_type = ANY (ARRAY['date'::text, 'timestamp'::text, 'timestamptz'::text]))),
  constraint custom_metric_sources_pkey PRIMARY KEY (name)
);

table custom_metric_values (
  definition_id uuid not null,
  version integer not null,
  merchant_id text not null,
  period_type text not null,
  period_start date not null,
  period_end date not null,
  value numeric,
  rows jsonb not null,
  cost text not null,
  duration_ms double precision not null,
  calculated_by text not null,
  calculated_at timestamp with time zone not null default now(),
  constraint custom_metric_values_cost_check CHECK ((cost = ANY (ARRAY['low'::text, 'medium'::text, 'high'::text]))),
  constraint custom_metric_values_definition_id_fkey FOREIGN KEY (definition_id) REFERENCES custom_metric_definitions(id) ON DELETE CASCADE,
  constraint custom_metric_values_period_type_check CHECK ((period_type = ANY (ARRAY['DAILY'::text, 'WEEKLY'::text, 'MONTHLY'::text, 'CUSTOM'::text]))),
  constraint custom_metric_values_pkey PRIMARY KEY (definition_id, version, merchant_id, period_start, period_end)
);

table custom_metric_versions (
  definition_id uuid not null,
  version integer not null,
  definition jsonb not null,
  created_by text not null,
  created_at timestamp with time zone not null default now(),
  constraint custom_metric_versions_definition_id_fkey FOREIGN KEY (definition_id) REFERENCES custom_metric_definitions(id) ON DELETE CASCADE,
  constraint custom_metric_versions_pkey PRIMARY KEY (definition_id, version)
);

table daily_metrics (
  merchant_id text not null,
  entity_type text not null,
  entity_id text not null,
  metric_type text not null,
  period_start date not null,
  period_end date not null,
  value numeric not null,
  daily_average numeric not null,
  previous numeric,
  growth_percent numeric,
  breakdown jsonb,
  computed_at timestamp with time zone not null default now(),
  constraint daily_metrics_entity_type_check CHECK ((entity_type = ANY (ARRAY['merchant'::text, 'user'::text, 'model'::text, 'provider'::text, 'platform'::text]))),
  constraint daily_metrics_pkey PRIMARY KEY (period_start, entity_type, merchant_id, entity_id, metric_type)
);
CREATE INDEX daily_metrics_merchant ON public.daily_metrics USING btree (merchant_id, period_start, entity_type, entity_id);

table daily_usage_cache (
  date date not null,
  raw_data jsonb not null,
  aggregated_by_user jsonb,
  aggregated_by_model jsonb,
  aggregated_by_provider jsonb,
  cache_status text not null,
  cached_at timestamp with time zone not null default now(),
  changes numeric,
  constraint daily_usage_cache_cache_status_check CHECK ((cache_status = ANY (ARRAY['complete'::text, 'partial'::text]))),
  constraint daily_usage_cache_pkey PRIMARY KEY (date)
);
CREATE INDEX idx_daily_usage_cache_date ON public.daily_usage_cache USING btree (date DESC);
CREATE INDEX idx_daily_usage_cache_date_cached_at ON public.daily_usage_cache USING btree (date, cached_at);
CREATE INDEX idx_daily_usage_cache_model_jsonb ON public.daily_usage_cache USING gin (document_keys(aggregated_by_model));
CREATE INDEX idx_daily_usage_cache_provider_jsonb ON public.daily_usage_cache USING gin (document_keys(aggregated_by_provider));
CREATE INDEX idx_daily_usage_cache_user_jsonb ON public.daily_usage_cache USING gin (document_keys(aggregated_by_user));

table directory_entries (
  kind text not null,
  id text not null,
  merchant_id text not null,
  name text not null,
  email text,
  role text,
  updated_at timestamp with time zone not null default now(),
  team text,
  learned_at timestamp with time zone,
  constraint directory_entries_kind_check CHECK ((kind = ANY (ARRAY['user'::text, 'apiKey'::text, 'merchant'::text]))),
  constraint directory_entries_pkey PRIMARY KEY (kind, id, merchant_id)
);

table drift_days (
  found_on date not null,
  numbers bigint not null,
  examples jsonb not null,
  found_at timestamp with time zone not null,
  constraint drift_days_pkey PRIMARY KEY (found_on)
);

table erased_users (
  merchant_id text not null,
  digest text not null,
  pseudonym text not null,
  requested_at timestamp with time zone not null default clock_timestamp(),
  requested_by text not null,
  after_date date not null default '0001-01-01'::date,
  after_id text not null default ''::text,
  completed_at timestamp with time zone,
  constraint erased_users_pkey PRIMARY KEY (merchant_id, digest),
  constraint erased_users_pseudonym_key UNIQUE (pseudonym)
);

table litellm_calls (
  merchant_id text not null,
  alias text not null,
  date date not null,
  entry_id text not null,
  "time" timestamp with time zone not null,
  is_sent_time boolean not null,
  response_id text,
  failed boolean,
  prompt_tokens bigint,
  completion_tokens bigint,
  cost bigint,
  constraint litellm_calls_pkey PRIMARY KEY (merchant_id, alias, date, entry_id)
);
CREATE INDEX litellm_calls_date ON public.litellm_calls USING brin (date);

table litellm_days (
  date date not null,
  told_by text,
  seen jsonb,
  reported jsonb,
  differs boolean,
  error text,
  checked_at timestamp with time zone,
  constraint litellm_days_pkey PRIMARY KEY (date),
  constraint litellm_days_told_by_check CHECK ((told_by = ANY (ARRAY['calls'::text, 'sums'::text])))
);

table litellm_pulls (
  id uuid not null default gen_random_uuid(),
  kind text not null,
  status text not null,
  range_start timestamp with time zone not null,
  range_end timestamp with time zone not null,
  "position" timestamp with time zone not null,
  calls bigint not null default 0,
  accepted bigint not null default 0,
  duplicates bigint not null default 0,
  rejected bigint not null default 0,
  missing bigint not null default 0,
  rejections jsonb not null default '[]'::jsonb,
  day_sums jsonb,
  error jsonb,
  started_at timestamp with time zone not null default clock_timestamp(),
  updated_at timestamp with time zone not null default clock_timestamp(),
  finished_at timestamp with time zone,
  constraint litellm_pulls_kind_check CHECK ((kind = ANY (ARRAY['schedule'::text, 'hand'::text, 'day'::text]))),
  constraint litellm_pulls_pkey PRIMARY KEY (id),
  constraint litellm_pulls_status_check CHECK ((status = ANY (ARRAY['RUNNING'::text, 'COMPLETED'::text, 'FAILED'::text])))
);
CREATE INDEX litellm_pulls_started ON public.litellm_pulls USING btree (started_at DESC);

table merchant_usage (
  merchant_id text not null,
  date date not null,
  metric_type text not null,
  metric_value bigint not null,
  constraint merchant_usage_pkey PRIMARY KEY (merchant_id, date, metric_type)
);
CREATE INDEX merchant_usage_date ON public.merchant_usage USING btree (date);

table meter_checks (
  date date not null,
  merchant_id text not null,
  changes bigint not null,
  checked_at timestamp with time zone not null default clock_timestamp(),
  constraint meter_checks_pkey PRIMARY KEY (date, merchant_id)
);

table meter_days (
  meter_id integer not null,
  merchant_id text not null,
  date date not null,
  d1 text not null,
  d2 text not null,
  d3 text not null,
  d4 text not null,
  element text not null,
  value numeric not null,
  at timestamp with time zone,
  event_id text,
  constraint meter_days_pkey PRIMARY KEY (meter_id, merchant_id, date, d1, d2, d3, d4, element)
);

table meter_history (
  meter_id integer not null,
  date date not null,
  after_merchant text not null default ''::text,
  done boolean not null default false,
  constraint meter_history_meter_id_fkey FOREIGN KEY (meter_id) REFERENCES meters(id),
  constraint meter_history_pkey PRIMARY KEY (meter_id, date)
);

table meter_marks (
  merchant_id text not null,
  grain text not null,
  period date not null,
  marked_at timestamp with time zone not null default clock_timestamp(),
  constraint meter_marks_pkey PRIMARY KEY (merchant_id, grain, period)
);
CREATE INDEX meter_marks_period ON public.meter_marks USING btree (grain, period);

table meter_months (
  meter_id integer not null,
  merchant_id text not null,
  month date not null,
  d1 text not null,
  d2 text not null,
  d3 text not null,
  d4 text not null,
  element text not null,
  value numeric not null,
  at timestamp with time zone,
  event_id text,
  constraint meter_months_pkey PRIMARY KEY (meter_id, merchant_id, month, d1, d2, d3, d4, element)
);

table meter_overflows (
  merchant_id text not null,
  date date not null,
  dimension text not null,
  constraint meter_overflows_pkey PRIMARY KEY (merchant_id, date, dimension)
);

table meter_quarters (
  meter_id integer not null,
  merchant_id text not null,
  bucket timestamp with time zone not null,
  d1 text not null,
  d2 text not null,
  d3 text not null,
  d4 text not null,
  element text not null,
  value numeric not null,
  at timestamp with time zone,
  event_id text,
  constraint meter_quarters_pkey PRIMARY KEY (meter_id, merchant_id, bucket, d1, d2, d3, d4, element)
);
CREATE INDEX meter_quarters_bucket ON public.meter_quarters USING brin (bucket);

table meter_state (
  single boolean not null default true,
  version bigint not null default 1,
  run bigint not null default 1,
  quarters_from date not null default '0001-01-01'::date,
  constraint meter_state_pkey PRIMARY KEY (single),
  constraint meter_state_single_check CHECK (single)
);

table meter_trimesters (
  meter_id integer not null,
  merchant_id text not null,
  trimester date not null,
  d1 text not null,
  d2 text not null,
  d3 text not null,
  d4 text not null,
  element text not null,
  value numeric not null,
  at timestamp with time zone,
  event_id text,
  constraint meter_trimesters_pkey PRIMARY KEY (meter_id, merchant_id, trimester, d1, d2, d3, d4, element)
);

table meter_values (
  merchant_id text not null,
  date date not null,
  dimension text not null,
  value text not null,
  constraint meter_values_pkey PRIMARY KEY (merchant_id, date, dimension, value)
);
CREATE INDEX meter_values_date ON public.meter_values USING brin (date);

table meter_versions (
  meter_id integer not null,
  version integer not null,
  name text not null,
  unit text,
  created_at timestamp with time zone not null default now(),
  created_by text not null,
  constraint meter_versions_meter_id_fkey FOREIGN KEY (meter_id) REFERENCES meters(id),
  constraint meter_versions_pkey PRIMARY KEY (meter_id, version)
);

table meter_years (
  meter_id integer not null,
  merchant_id text not null,
  year date not null,
  d1 text not null,
  d2 text not null,
  d3 text not null,
  d4 text not null,
  element text not null,
  value numeric not null,
  at timestamp with time zone,
  event_id text,
  constraint meter_years_pkey PRIMARY KEY (meter_id, merchant_id, year, d1, d2, d3, d4, element)
);

table meters (
  id integer not null default nextval('meters_id_seq'::regclass),
  key text not null,
  merchant_id text not null default ''::text,
  name text not null,
  unit text,
  scale smallint not null,
  aggregation text not null,
  metric_type text,
  value_property text,
  event_type text,
  filters jsonb not null,
  dimensions text[] not null,
  version integer not null default 1,
  created_at timestamp with time zone not null default now(),
  created_by text not null,
  updated_at timestamp with time zone not null default now(),
  created_run bigint not null,
  history_from date,
  removed_at timestamp with time zone,
  purged boolean not null default false,
  constraint meters_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX meters_key ON public.meters USING btree (merchant_id, key) WHERE (removed_at IS NULL);

table metric_types (
  metric_type text not null,
  scale smallint not null,
  declared_at timestamp with time zone not null default clock_timestamp(),
  constraint metric_types_pkey PRIMARY KEY (metric_type),
  constraint metric_types_scale_check CHECK (((scale >= 0) AND (scale <= 9)))
);

table metrics_aggregation_jobs_log (
  id uuid not null,
  kind text not null,
  period_start date not null,
  period_end date not null,
  status text not null,
  periods_total integer not null,
  periods_done integer not null default 0,
  rows_written bigint not null default 0,
  attempts integer not null default 1,
  errors jsonb not null default '[]'::jsonb,
  started_at timestamp with time zone not null default clock_timestamp(),
  finished_at timestamp with time zone,
  periods_failed integer not null default 0,
  constraint metrics_aggregation_jobs_log_kind_check CHECK ((kind = ANY (ARRAY['daily'::text, 'weekly'::text, 'monthly'::text, 'refresh'::text]))),
  constraint metrics_aggregation_jobs_log_pkey PRIMARY KEY (id),
  constraint metrics_aggregation_jobs_log_status_check CHECK ((status = ANY (ARRAY['RUNNING'::text, 'COMPLETED'::text, 'FAILED'::text, 'PARTIAL'::text])))
);
CREATE INDEX metrics_aggregation_jobs_log_running ON public.metrics_aggregation_jobs_log USING btree (started_at) WHERE (status = 'RUNNING'::text);
CREATE INDEX metrics_aggregation_jobs_log_started ON public.metrics_aggregation_jobs_log USING btree (started_at DESC, id DESC);

table metrics_stale_periods (
  grain text not null,
  period_start date not null,
  merchant_id text not null,
  constraint metrics_stale_periods_grain_check CHECK ((grain = ANY (ARRAY['daily'::text, 'weekly'::text, 'monthly'::text]))),
  constraint metrics_stale_periods_pkey PRIMARY KEY (grain, period_start, merchant_id)
);

table monthly_metrics (
  merchant_id text not null,
  entity_type text not null,
  entity_id text not null,
  metric_type text not null,
  period_start date not null,
  period_end date not null,
  value numeric not null,
  daily_average numeric not null,
  previous numeric,
  growth_percent numeric,
  breakdown jsonb,
  computed_at timestamp with time zone not null default now(),
  constraint monthly_metrics_entity_type_check CHECK ((entity_type = ANY (ARRAY['merchant'::text, 'user'::text, 'model'::text, 'provider'::text, 'platform'::text]))),
  constraint monthly_metrics_pkey PRIMARY KEY (period_start, entity_type, merchant_id, entity_id, metric_type)
);
CREATE INDEX monthly_metrics_merchant ON public.monthly_metrics USING btree (merchant_id, period_start, entity_type, entity_id);

table price_list (
  version bigint not null
);

table prices (
  id bigint not null generated always as identity,
  provider text not null,
  model text not null,
  meter text not null,
  merchant_id text not null,
  component text not null,
  over_prompt_tokens bigint not null,
  amount numeric(24,12) not null,
  per bigint not null,
  valid_from timestamp with time zone not null,
  valid_to timestamp with time zone,
  source text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  created_by text not null,
  added_in bigint not null,
  removed_in bigint,
  constraint prices_amount_check CHECK ((amount >= (0)::numeric)),
  constraint prices_per_check CHECK ((per > 0)),
  constraint prices_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX prices_active ON public.prices USING btree (merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from) WHERE (removed_in IS NULL);

table realtime_metrics_cache (
  merchant_id text not null,
  name text not null,
  labels text not null,
  slice bigint not null,
  type text not null,
  meta jsonb not null,
  value jsonb not null,
  saved_at timestamp with time zone not null default now(),
  expires_at timestamp with time zone not null,
  epoch bigint not null default 0,
  constraint realtime_metrics_cache_pkey PRIMARY KEY (merchant_id, name, labels, slice),
  constraint realtime_metrics_cache_type_check CHECK ((type = ANY (ARRAY['COUNTER'::text, 'GAUGE'::text, 'HISTOGRAM'::text, 'RATE'::text])))
);
CREATE INDEX realtime_metrics_cache_expires ON public.realtime_metrics_cache USING btree (expires_at);

table source_rejections (
  id bigint not null default nextval('source_rejections_id_seq'::regclass),
  source text not null,
  at timestamp with time zone not null,
  merchant_id text,
  event_id text,
  code text not null,
  message text not null,
  constraint source_rejections_pkey PRIMARY KEY (id)
);
CREATE INDEX source_rejections_by_source ON public.source_rejections USING btree (source, id);

table source_states (
  source text not null,
  accepted bigint not null,
  duplicates bigint not null,
  rejected bigint not null,
  skipped bigint not null,
  first_seen_at timestamp with time zone not null,
  last_seen_at timestamp with time zone not null,
  constraint source_states_pkey PRIMARY KEY (source)
);

table tally_migrations (
  id integer not null default nextval('tally_migrations_id_seq'::regclass),
  "timestamp" bigint not null,
  name character varying not null,
  constraint "PK_0ab99fbc184b77aebae40a07f98" PRIMARY KEY (id)
);

table usage_adjustments (
  merchant_id text not null,
  id text not null,
  date date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  metrics jsonb,
  reason text not null,
  actor text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  folded smallint,
  metered bigint,
  void_of text,
  rerated_size smallint,
  "time" timestamp with time zone,
  constraint usage_adjustments_pkey PRIMARY KEY (merchant_id, id)
);
CREATE INDEX usage_adjustments_date ON public.usage_adjustments USING btree (merchant_id, date);
CREATE INDEX usage_adjustments_voids ON public.usage_adjustments USING btree (merchant_id, date, void_of) WHERE (void_of IS NOT NULL);

table usage_admitted_values (
  merchant_id text not null,
  date date not null,
  dimension smallint not null,
  part integer not null,
  "values" text[] not null,
  constraint usage_admitted_values_pkey PRIMARY KEY (merchant_id, date, dimension, part)
);
CREATE INDEX usage_admitted_values_date ON public.usage_admitted_values USING brin (date);

table usage_change_log (
  xact xid8 not null default pg_current_xact_id(),
  id bigint not null default (floor((random() * ('1000000000000000'::bigint)::double precision)))::bigint,
  at timestamp with time zone not null default clock_timestamp(),
  merchant_ids text[] not null,
  dates date[] not null,
  constraint usage_change_log_pkey PRIMARY KEY (xact, id)
);

table usage_changes (
  grain text not null,
  period date not null,
  merchant_id text not null,
  changes bigint not null default 1,
  constraint usage_changes_grain_check CHECK ((grain = ANY (ARRAY['all'::text, 'day'::text, 'month'::text]))),
  constraint usage_changes_pkey PRIMARY KEY (grain, period, merchant_id)
);

table usage_checks (
  date date not null,
  merchant_id text not null,
  changes bigint not null,
  checked_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_checks_pkey PRIMARY KEY (date, merchant_id)
);

table usage_closed_days (
  date date not null,
  closed_at timestamp with time zone not null default clock_timestamp(),
  entries bigint not null,
  written_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_closed_days_pkey PRIMARY KEY (date)
);

table usage_conflicts (
  id bigint not null generated always as identity,
  merchant_id text not null,
  date date not null,
  entry_id text not null,
  "time" timestamp with time zone not null,
  digest text not null,
  counted_time timestamp with time zone not null,
  counted_digest text not null,
  line jsonb not null,
  source text not null,
  recorded_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_conflicts_merchant_id_date_entry_id_digest_key UNIQUE (merchant_id, date, entry_id, digest),
  constraint usage_conflicts_pkey PRIMARY KEY (id)
);
CREATE INDEX usage_conflicts_date ON public.usage_conflicts USING btree (date, id);

table usage_daily (
  merchant_id text not null,
  date date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  constraint usage_daily_pkey PRIMARY KEY (merchant_id, date, user_id, api_key, model, provider)
);
CREATE INDEX usage_daily_date_merchant ON public.usage_daily USING btree (date, merchant_id);

table usage_daily_models (
  merchant_id text not null,
  date date not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_daily_models_pkey PRIMARY KEY (merchant_id, date, model, provider)
);
CREATE INDEX usage_daily_models_date_merchant ON public.usage_daily_models USING btree (date, merchant_id);

table usage_dead_letters (
  id bigint not null generated always as identity,
  merchant_id text not null,
  date date not null,
  entry_id text not null,
  line jsonb not null,
  code text not null,
  message text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  attempts integer not null default 1,
  resolved_at timestamp with time zone,
  constraint usage_dead_letters_merchant_id_date_entry_id_key UNIQUE (merchant_id, date, entry_id),
  constraint usage_dead_letters_pkey PRIMARY KEY (id)
);

table usage_events (
  date date not null,
  merchant_id text not null,
  id text not null,
  "time" timestamp with time zone not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  failed boolean not null,
  calls bigint not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  metrics jsonb,
  properties jsonb,
  flush_id bigint not null,
  origin text,
  folded smallint,
  price_version bigint,
  constraint usage_events_pkey PRIMARY KEY (date, merchant_id, id)
) partition by RANGE (date);
CREATE INDEX usage_events_flush ON ONLY public.usage_events USING btree (flush_id, merchant_id);
CREATE INDEX usage_events_lago ON ONLY public.usage_events USING btree (id) WHERE (id ~~ 'lago:%'::text);
CREATE INDEX usage_events_recent ON ONLY public.usage_events USING btree (merchant_id, "time" DESC);
CREATE INDEX usage_events_unpriced ON ONLY public.usage_events USING btree (merchant_id, provider, model) WHERE (price_version = 0);

table usage_flush_sums (
  flush_id bigint not null,
  date date not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_flush_sums_pkey PRIMARY KEY (flush_id, date, model, provider)
);

table usage_flushes (
  id bigint not null generated always as identity,
  source text not null,
  started_at timestamp with time zone not null default clock_timestamp(),
  entries bigint not null,
  inserted bigint not null,
  merchants bigint not null,
  first_date date,
  last_date date,
  derived_at timestamp with time zone default now(),
  metered bigint,
  summed boolean not null default false,
  constraint usage_flushes_pkey PRIMARY KEY (id),
  constraint usage_flushes_source_check CHECK ((source = ANY (ARRAY['stream'::text, 'direct'::text, 'backfill'::text])))
);
CREATE INDEX usage_flushes_pending ON public.usage_flushes USING btree (id) WHERE (derived_at IS NULL);
CREATE INDEX usage_flushes_started_at ON public.usage_flushes USING btree (started_at DESC);
CREATE INDEX usage_flushes_unmetered ON public.usage_flushes USING btree (id) WHERE (metered IS NULL);

table usage_journal_closings (
  merchant_id text not null,
  date date not null,
  metric_type text not null,
  metric_value bigint not null,
  entries bigint not null,
  constraint usage_journal_closings_pkey PRIMARY KEY (merchant_id, date, metric_type)
);

table usage_midnight_days (
  midnight date not null,
  merchant_id text not null,
  id text not null,
  date date not null,
  constraint usage_midnight_days_pkey PRIMARY KEY (midnight, merchant_id, id)
);

table usage_monthly (
  merchant_id text not null,
  month date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_monthly_pkey PRIMARY KEY (merchant_id, month, user_id, api_key, model, provider)
);
CREATE INDEX usage_monthly_month_merchant ON public.usage_monthly USING btree (month, merchant_id);

table usage_monthly_models (
  merchant_id text not null,
  month date not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_monthly_models_pkey PRIMARY KEY (merchant_id, month, model, provider)
);
CREATE INDEX usage_monthly_models_month_merchant ON public.usage_monthly_models USING btree (month, merchant_id);

table usage_overflows (
  merchant_id text not null,
  date date not null,
  dimension smallint not null,
  recorded_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_overflows_pkey PRIMARY KEY (merchant_id, date, dimension)
);
CREATE INDEX usage_overflows_date ON public.usage_overflows USING btree (date);

table usage_platform_changes (
  grain text not null,
  period date not null,
  slot smallint not null,
  changes bigint not null default 1,
  constraint usage_platform_changes_grain_check CHECK ((grain = ANY (ARRAY['all'::text, 'day'::text, 'month'::text]))),
  constraint usage_platform_changes_pkey PRIMARY KEY (grain, period, slot)
);

table usage_platform_daily (
  date date not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_platform_daily_pkey PRIMARY KEY (date, model, provider)
);

table usage_platform_monthly (
  month date not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_platform_monthly_pkey PRIMARY KEY (month, model, provider)
);

table usage_platform_users (
  month date not null,
  user_id text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_platform_users_pkey PRIMARY KEY (month, user_id)
);

table usage_priced (
  merchant_id text not null,
  date date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  call_size smallint not null,
  priced_events bigint not null default 0,
  priced_requests bigint not null default 0,
  priced_input_tokens bigint not null default 0,
  priced_cached_tokens bigint not null default 0,
  priced_cache_write_tokens bigint not null default 0,
  priced_output_tokens bigint not null default 0,
  priced_reasoning_tokens bigint not null default 0,
  priced_cost bigint not null default 0,
  reratings integer not null default 0,
  constraint usage_priced_pkey PRIMARY KEY (merchant_id, date, user_id, api_key, model, provider, call_size)
);
CREATE INDEX usage_priced_date ON public.usage_priced USING btree (date);

table usage_priced_closings (
  merchant_id text not null,
  date date not null,
  priced_events bigint not null default 0,
  priced_requests bigint not null default 0,
  priced_input_tokens bigint not null default 0,
  priced_cached_tokens bigint not null default 0,
  priced_cache_write_tokens bigint not null default 0,
  priced_output_tokens bigint not null default 0,
  priced_reasoning_tokens bigint not null default 0,
  priced_cost bigint not null default 0,
  constraint usage_priced_closings_pkey PRIMARY KEY (merchant_id, date)
);

table usage_quarter_hours (
  merchant_id text not null,
  bucket timestamp with time zone not null,
  model text not null,
  provider text not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  constraint usage_quarter_hours_pkey PRIMARY KEY (merchant_id, bucket, model, provider)
);
CREATE INDEX usage_quarter_hours_bucket_merchant ON public.usage_quarter_hours USING btree (bucket, merchant_id);

table usage_quarter_months (
  merchant_id text not null,
  quarter_month date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_quarter_months_pkey PRIMARY KEY (merchant_id, quarter_month, user_id, api_key, model, provider)
);
CREATE INDEX usage_quarter_months_quarter_month_merchant ON public.usage_quarter_months USING btree (quarter_month, merchant_id);

table usage_rolled_up (
  only_row boolean not null default true,
  date date not null,
  merchant_id text not null default ''::text,
  quarter_month date not null default '0001-01-01'::date,
  quarter_merchant text not null default ''::text,
  quarters_after date not null default '0001-01-01'::date,
  constraint usage_rolled_up_only_row_check CHECK (only_row),
  constraint usage_rolled_up_pkey PRIMARY KEY (only_row)
);

table usage_rollup_rows (
  merchant_id text not null,
  rollup text not null,
  period date not null,
  rows bigint not null,
  constraint usage_rollup_rows_pkey PRIMARY KEY (merchant_id, rollup, period)
);

table usage_shards (
  shard integer not null,
  token bigint not null default 0,
  holder text not null default ''::text,
  expires_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
  constraint usage_shards_pkey PRIMARY KEY (shard),
  constraint usage_shards_shard_check CHECK ((shard >= 0))
);

table usage_stale_totals (
  merchant_id text not null,
  date date not null,
  marked_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_stale_totals_pkey PRIMARY KEY (merchant_id, date)
);

table usage_touched_days (
  merchant_id text not null,
  date date not null,
  touched_at timestamp with time zone not null default clock_timestamp(),
  constraint usage_touched_days_pkey PRIMARY KEY (merchant_id, date)
);

table usage_yearly (
  merchant_id text not null,
  year date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests numeric not null default 0,
  failed_requests numeric not null default 0,
  prompt_tokens numeric not null default 0,
  completion_tokens numeric not null default 0,
  cost numeric not null default 0,
  constraint usage_yearly_pkey PRIMARY KEY (merchant_id, year, user_id, api_key, model, provider)
);
CREATE INDEX usage_yearly_year_merchant ON public.usage_yearly USING btree (year, merchant_id);

table webhook_deliveries (
  id uuid not null default gen_random_uuid(),
  webhook_id uuid not null,
  event text not null,
  body text not null,
  status text not null default 'pending'::text,
  attempts integer not null default 0,
  next_attempt_at timestamp with time zone not null,
  give_up_at timestamp with time zone not null,
  last_status integer,
  last_error text,
  created_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  constraint webhook_deliveries_pkey PRIMARY KEY (id),
  constraint webhook_deliveries_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text]))),
  constraint webhook_deliveries_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES webhooks(id)
);
CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (webhook_id, next_attempt_at) WHERE (status = 'pending'::text);
CREATE INDEX webhook_deliveries_newest ON public.webhook_deliveries USING btree (created_at DESC, id);
CREATE INDEX webhook_deliveries_states ON public.webhook_deliveries USING btree (status, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_webhooks ON public.webhook_deliveries USING btree (webhook_id, created_at DESC, id DESC);

table webhooks (
  id uuid not null default gen_random_uuid(),
  url text not null,
  secret text not null,
  previous_secret text,
  previous_until timestamp with time zone,
  events text[] not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  created_by text not null,
  removed_at timestamp with time zone,
  constraint webhooks_pkey PRIMARY KEY (id)
);

table weekly_metrics (
  merchant_id text not null,
  entity_type text not null,
  entity_id text not null,
  metric_type text not null,
  period_start date not null,
  period_end date not null,
  value numeric not null,
  daily_average numeric not null,
  previous numeric,
  growth_percent numeric,
  breakdown jsonb,
  computed_at timestamp with time zone not null default now(),
  constraint weekly_metrics_entity_type_check CHECK ((entity_type = ANY (ARRAY['merchant'::text, 'user'::text, 'model'::text, 'provider'::text, 'platform'::text]))),
  constraint weekly_metrics_pkey PRIMARY KEY (period_start, entity_type, merchant_id, entity_id, metric_type)
);
CREATE INDEX weekly_metrics_merchant ON public.weekly_metrics USING btree (merchant_id, period_start, entity_type, entity_id);

view public.usage_counted_adjustments (date date, merchant_id text, user_id text, api_key text, model text, provider text, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint, created_at timestamp with time zone, "time" timestamp with time zone)

view public.usage_counted_events (date date, merchant_id text, flush_id bigint, "time" timestamp with time zone, user_id text, api_key text, model text, provider text, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint)

view public.usage_documents (date date, kind text, whole boolean, user_id text, model text, provider text, requests numeric, failed_requests numeric, prompt_tokens numeric, completion_tokens numeric, cost numeric, other_tokens numeric, untold_requests numeric)

view public.usage_imported_days (date date, cache_status text, aggregated_by_user jsonb, aggregated_by_model jsonb, aggregated_by_provider jsonb, counted boolean)

view public.usage_pending (date date, merchant_id text, flush_id bigint, "time" timestamp with time zone, user_id text, api_key text, model text, provider text, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint)

view public.usage_priced_events (date date, merchant_id text, user_id text, api_key text, model text, provider text, call_size smallint, priced_events bigint, priced_requests bigint, priced_input_tokens bigint, priced_cached_tokens bigint, priced_cache_write_tokens bigint, priced_output_tokens bigint, priced_reasoning_tokens bigint, priced_cost bigint)

view tally_bi.adjustments (date date, id text, merchant_id text, merchant_name text, user_id text, user_name text, user_email text, team text, api_key text, api_key_name text, model text, provider text, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, cost_usd numeric, reason text, actor text, created_at timestamp with time zone, void_of text)

view tally_bi.directory (kind text, id text, merchant_id text, name text, email text, role text, team text, updated_at timestamp with time zone)

view tally_bi.events (date date, "time" timestamp with time zone, id text, merchant_id text, merchant_name text, user_id text, user_name text, user_email text, team text, api_key text, api_key_name text, model text, provider text, status text, calls bigint, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, cost_usd numeric, properties jsonb)

view tally_bi.focus_1_2 ("BilledCost" numeric, "BillingAccountId" text, "BillingAccountName" text, "BillingCurrency" text, "BillingPeriodEnd" timestamp with time zone, "BillingPeriodStart" timestamp with time zone, "ChargeCategory" text, "ChargeClass" text, "ChargeDescription" text, "ChargeFrequency" text, "ChargePeriodEnd" timestamp with time zone, "ChargePeriodStart" timestamp with time zone, "ConsumedQuantity" bigint, "ConsumedUnit" text, "ContractedCost" numeric, "EffectiveCost" numeric, "InvoiceIssuerName" text, "ListCost" numeric, "PricingQuantity" bigint, "PricingUnit" text, "PricingCategory" text, "ProviderName" text, "PublisherName" text, "ResourceId" text, "ResourceName" text, "ResourceType" text, "ServiceCategory" text, "ServiceName" text, "ServiceSubcategory" text, "SkuId" text, "SubAccountId" text, "SubAccountName" text, "SubAccountType" text, "Tags" jsonb, "x_Date" date)

view tally_bi.metrics_daily (date date, merchant_id text, merchant_name text, metric_type text, value numeric, unit text)

view tally_bi.usage_daily (date date, merchant_id text, merchant_name text, user_id text, user_name text, user_email text, team text, api_key text, api_key_name text, model text, provider text, requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, cost_usd numeric)

view tally_bi.usage_monthly (month date, merchant_id text, merchant_name text, user_id text, user_name text, user_email text, team text, api_key text, api_key_name text, model text, provider text, requests numeric, failed_requests numeric, prompt_tokens numeric, completion_tokens numeric, total_tokens numeric, cost_usd numeric)

view tally_sources.daily_metrics (date date, merchant_id text, entity_type text, entity_id text, metric_type text, period_start date, period_end date, value numeric, daily_average numeric, previous numeric, growth_percent numeric)

view tally_sources.events ("time" timestamp with time zone, date date, merchant_id text, user_id text, api_key text, model text, provider text, status text, requests numeric, failed_requests numeric, prompt_tokens numeric, completion_tokens numeric, total_tokens numeric, cost numeric, metrics jsonb, properties jsonb, requests_units bigint, failed_requests_units bigint, prompt_tokens_units bigint, completion_tokens_units bigint, total_tokens_units bigint, cost_units bigint)

view tally_sources.monthly_metrics (date date, merchant_id text, entity_type text, entity_id text, metric_type text, period_start date, period_end date, value numeric, daily_average numeric, previous numeric, growth_percent numeric)

view tally_sources.usage (date date, merchant_id text, user_id text, api_key text, model text, provider text, requests numeric, failed_requests numeric, prompt_tokens numeric, completion_tokens numeric, total_tokens numeric, cost numeric, requests_units bigint, failed_requests_units bigint, prompt_tokens_units bigint, completion_tokens_units bigint, total_tokens_units bigint, cost_units bigint)

view tally_sources.weekly_metrics (date date, merchant_id text, entity_type text, entity_id text, metric_type text, period_start date, period_end date, value numeric, daily_average numeric, previous numeric, growth_percent numeric)
