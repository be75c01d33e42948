const TIME = '2026-11-22T11:00:00Z';

const event = {
  ...{ specversion: '1.0', id: '1', source: '/app', type: 'prompt', subject: 'acme', time: TIME },
  data: { tokens: 5, model: 'gpt-4o', nested: { input: 1 } },
};
const span = {
  ...{
    traceId: '5b8efff798038103d269b633813fc60c',
    spanId: '00000000000000a1',
    startTimeUnixNano: '1795345200000000000',
  },
  status: { code: 0 },
  attributes: [{ key: 'gen_ai.request.model', value: { stringValue: 'gpt-4o' } }],
};
const traces = { resourceSpans: [{ resource: { attributes: [] }, scopeSpans: [{ spans: [span] }] }] };

const stripeEvent = {
  ...{ event_name: 'tokens', identifier: '1', timestamp: TIME },
  payload: { stripe_customer_id: 'acme', value: '25' },
};
const lagoEvent = {
  ...{ transaction_id: '1', external_subscription_id: 'acme', code: 'tokens', timestamp: '1795345200.5' },
  properties: { tokens: 5 },
};

/** A valid body for each path of the sources: JSON, or the text of a form. */
export const SOUND_BODIES: Readonly<Record<string, object | string>> = {
  '/sources/litellm/logs': { id: '1', startTime: 1_795_345_200, prompt_tokens: 1, metadata: {} },
  '/sources/litellm/api/v1/events': { ...event, type: 'litellm_tokens' },
  '/sources/litellm/beta/litellm_basic_guardrail_api': {
    ...{ input_type: 'request', model: 'gpt-4o', texts: ['hello'] },
    request_data: { user_api_key_hash: 'b7c0', user_api_key_user_id: 'ada', user_api_key_team_id: 'acme' },
  },
  '/api/v1/events': [event],
  '/v1/traces': traces,
  '/sources/langfuse/api/public/otel/v1/traces': traces,
  '/sources/openmeter/api/v1/events': [event],
  '/sources/openmeter/api/v1/meters': {
    ...{ slug: 'tokens', aggregation: 'SUM', eventType: 'prompt', valueProperty: '$.tokens' },
    groupBy: { model: '$.model' },
  },
  '/sources/openmeter/api/v1/meters/{meter}/query': {
    ...{ from: '2026-11-22T00:00:00Z', to: '2026-11-23T00:00:00Z', windowSize: 'HOUR', windowTimeZone: 'UTC' },
    ...{ subject: ['acme'], groupBy: ['model'], filterGroupBy: { model: ['gpt-4o'] } },
  },
  '/sources/openmeter/api/v1/subjects': [{ key: 'acme', displayName: 'Acme' }],
  '/v1/billing/meter_events':
    'event_name=tokens&identifier=1&timestamp=1795345200&payload[stripe_customer_id]=acme&payload[value]=25',
  '/v2/billing/meter_events': stripeEvent,
  '/v2/billing/meter_event_session': {},
  '/v2/billing/meter_event_stream': { events: [stripeEvent] },
  '/v1/billing/meters': 'display_name=Tokens&event_name=stripe_tokens&default_aggregation[formula]=sum',
  '/v1/billing/meters/{meter}': 'display_name=Tokens',
  '/v1/billing/meter_event_adjustments': 'event_name=tokens&type=cancel&cancel[identifier]=1',
  '/v2/billing/meter_event_adjustments': { event_name: 'tokens', type: 'cancel', cancel: { identifier: '1' } },
  '/sources/lago/api/v1/events': { event: lagoEvent },
  '/sources/lago/api/v1/events/batch': { events: [lagoEvent] },
  '/sources/lago/api/v1/billable_metrics': {
    billable_metric: { name: 'Tokens', code: 'lago_tokens', aggregation_type: 'sum_agg', field_name: 'tokens' },
  },
  '/sources/metronome/v1/ingest': [
    { transaction_id: '1', customer_id: 'acme', event_type: 'prompt', timestamp: TIME, properties: { tokens: 5 } },
  ],
  '/sources/orb/v1/ingest': {
    events: [
      {
        ...{ idempotency_key: '1', external_customer_id: 'acme', event_name: 'prompt', timestamp: TIME },
        properties: { tokens: 5 },
      },
    ],
  },
  '/sources/polar/v1/events/ingest': {
    events: [
      {
        ...{ name: 'prompt', external_id: '1', external_customer_id: 'acme', timestamp: TIME },
        metadata: {
          _llm: { vendor: 'openai', model: 'gpt-4o', input_tokens: 1, output_tokens: 2, total_tokens: 3 },
          _cost: { amount: 0.5, currency: 'usd' },
        },
      },
    ],
  },
};
