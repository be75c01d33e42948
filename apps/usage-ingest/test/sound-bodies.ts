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

/** A body that each path of the sources takes: JSON, or the text of a form. */
export const SOUND_BODIES: Readonly<Record<string, object | string>> = {
  '/sources/litellm/logs': { id: '1', startTime: 1_795_345_200, prompt_tokens: 1, metadata: {} },
  '/sources/litellm/api/v1/events': event,
  '/api/v1/events': [event],
  '/v1/traces': traces,
  '/sources/langfuse/api/public/otel/v1/traces': traces,
};
