table api_keys (
  id uuid not null default gen_random_uuid(),
  hash text not null,
  name text not null,
  role text not null,
  merchant_id text,
  team_id text,
  created_at timestamp with time zone not null default now(),
  revoked_at timestamp with time zone,
  constraint api_keys_hash_key UNIQUE (hash),
  constraint api_keys_pkey PRIMARY KEY (id),
  constraint api_keys_role_check CHECK ((role = ANY (ARRAY['producer'::text, 'viewer'::text, 'analyst'::text, 'admin'::text])))
);

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
CREATE INDEX idx_daily_usage_cache_model_jsonb ON public.daily_usage_cache USING gin (aggregated_by_model jsonb_path_ops);
CREATE INDEX idx_daily_usage_cache_provider_jsonb ON public.daily_usage_cache USING gin (aggregated_by_provider jsonb_path_ops);
CREATE INDEX idx_daily_usage_cache_user_jsonb ON public.daily_usage_cache USING gin (aggregated_by_user jsonb_path_ops);

table directory_entries (
  kind text not null,
  id text not null,
  merchant_id text not null,
  name text not null,
  email text,
  role text,
  updated_at timestamp with time zone not null default now(),
  constraint directory_entries_kind_check CHECK ((kind = ANY (ARRAY['user'::text, 'apiKey'::text, 'merchant'::text]))),
  constraint directory_entries_pkey PRIMARY KEY (kind, id, merchant_id)
);

table merchant_usage (
  merchant_id text not null,
  date date not null,
  metric_type text not null,
  metric_value bigint not null,
  constraint merchant_usage_pkey PRIMARY KEY (merchant_id, date, metric_type)
);
CREATE INDEX merchant_usage_date ON public.merchant_usage USING btree (date);

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
  constraint usage_adjustments_pkey PRIMARY KEY (merchant_id, id)
);
CREATE INDEX usage_adjustments_date ON public.usage_adjustments USING btree (merchant_id, date);

table usage_changes (
  grain text not null,
  period date not null,
  merchant_id text not null,
  changes bigint not null default 1,
  constraint usage_changes_grain_check CHECK ((grain = ANY (ARRAY['all'::text, 'day'::text, 'month'::text]))),
  constraint usage_changes_pkey PRIMARY KEY (grain, period, merchant_id)
);

table usage_closed_days (
  date date not null,
  closed_at timestamp with time zone not null default clock_timestamp(),
  entries bigint not null,
  constraint usage_closed_days_pkey PRIMARY KEY (date)
);

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
CREATE INDEX usage_daily_date ON public.usage_daily USING btree (date);

table usage_daily_models (
  merchant_id text not null,
  date date not null,
  model text not null,
  provider text not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  constraint usage_daily_models_pkey PRIMARY KEY (merchant_id, date, model, provider)
);
CREATE INDEX usage_daily_models_date ON public.usage_daily_models USING btree (date);

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
  constraint usage_events_pkey PRIMARY KEY (date, merchant_id, id)
) partition by RANGE (date);
CREATE INDEX usage_events_recent ON ONLY public.usage_events USING btree (merchant_id, "time" DESC);

table usage_flushes (
  id bigint not null generated always as identity,
  source text not null,
  started_at timestamp with time zone not null default clock_timestamp(),
  entries bigint not null,
  inserted bigint not null,
  merchants bigint not null,
  first_date date,
  last_date date,
  constraint usage_flushes_pkey PRIMARY KEY (id),
  constraint usage_flushes_source_check CHECK ((source = ANY (ARRAY['stream'::text, 'direct'::text, 'backfill'::text])))
);
CREATE INDEX usage_flushes_started_at ON public.usage_flushes USING btree (started_at DESC);

table usage_journal_closings (
  merchant_id text not null,
  date date not null,
  metric_type text not null,
  metric_value bigint not null,
  entries bigint not null,
  constraint usage_journal_closings_pkey PRIMARY KEY (merchant_id, date, metric_type)
);

table usage_monthly (
  merchant_id text not null,
  month date not null,
  user_id text not null,
  api_key text not null,
  model text not null,
  provider text not null,
  requests bigint not null default 0,
  failed_requests bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cost bigint not null default 0,
  constraint usage_monthly_pkey PRIMARY KEY (merchant_id, month, user_id, api_key, model, provider)
);
CREATE INDEX usage_monthly_month ON public.usage_monthly USING btree (month);

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
CREATE INDEX usage_quarter_hours_bucket ON public.usage_quarter_hours USING btree (bucket);

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
