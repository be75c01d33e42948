import { crc32 } from 'node:zlib';

type Fetch = () => Promise<Response>;

/** Answers of a vendor's server, as a whole and as a stream. All stand for the same call: see `SUMS` in its test. */
export type Answer = { whole(name: string): Fetch; stream(name: string): Fetch };

const json =
  (body: object): Fetch =>
  async () =>
    new Response(JSON.stringify(body), { headers: { 'content-type': 'application/json' } });

/** Server-sent events. An event with a type is named by it where the vendor does so. */
const events =
  (bodies: readonly object[], { named = false, done = false } = {}): Fetch =>
  async () => {
    const lines = bodies.map((body) => {
      const { type } = body as { type?: string };
      return `${named && type ? `event: ${type}\n` : ''}data: ${JSON.stringify(body)}\n\n`;
    });
    return new Response(`${lines.join('')}${done ? 'data: [DONE]\n\n' : ''}`, {
      headers: { 'content-type': 'text/event-stream' },
    });
  };

const constant = (whole: Fetch, stream: Fetch): Answer => ({ whole: () => whole, stream: () => stream });

const head = { id: 'chat-1', created: 1_764_064_800, model: 'm', system_fingerprint: 'f' };
const chunk = { ...head, object: 'chat.completion.chunk' };
const textChunk = {
  ...chunk,
  choices: [{ index: 0, delta: { role: 'assistant', content: 'Hi' }, finish_reason: null }],
};
const endOf = (usage: object) => ({
  ...chunk,
  choices: [{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: 'stop' }],
  ...usage,
});
const message = { role: 'assistant', content: 'Hi' };
const chatOf = (usage: object) =>
  json({ ...head, object: 'chat.completion', choices: [{ index: 0, message, finish_reason: 'stop' }], usage });

/** Usage in an event of its own after the last choice. */
const chat = (usage: object) =>
  constant(chatOf(usage), events([textChunk, endOf({}), { ...chunk, choices: [], usage }], { done: true }));
/** Usage beside the last choice. */
const chatWithUsageInEnd = (usage: object, inEnd: object = { usage }) =>
  constant(chatOf(usage), events([textChunk, endOf(inEnd)], { done: true }));

const openai = {
  prompt_tokens: 1000,
  completion_tokens: 100,
  total_tokens: 1100,
  prompt_tokens_details: { cached_tokens: 400 },
  completion_tokens_details: { reasoning_tokens: 60 },
};

const output = [
  {
    type: 'message',
    id: 'msg_1',
    status: 'completed',
    role: 'assistant',
    content: [{ type: 'output_text', text: 'Hi', annotations: [], logprobs: [] }],
  },
];
const response = {
  id: 'resp_1',
  object: 'response',
  created_at: 1_764_064_800,
  model: 'm',
  status: 'completed',
  error: null,
  incomplete_details: null,
  instructions: null,
  max_output_tokens: null,
  metadata: null,
  parallel_tool_calls: true,
  tools: [],
  tool_choice: 'auto',
  temperature: 1,
  top_p: 1,
  output,
  usage: {
    input_tokens: 1000,
    input_tokens_details: { cached_tokens: 400 },
    output_tokens: 100,
    output_tokens_details: { reasoning_tokens: 60 },
    total_tokens: 1100,
  },
};
const at = { output_index: 0, item_id: 'msg_1', content_index: 0 };
const responseEvents = [
  { type: 'response.created', response: { ...response, status: 'in_progress', output: [], usage: null } },
  { type: 'response.output_item.added', output_index: 0, item: { ...output[0], status: 'in_progress', content: [] } },
  { type: 'response.output_text.delta', ...at, delta: 'Hi', logprobs: [] },
  { type: 'response.output_item.done', output_index: 0, item: output[0] },
  { type: 'response.completed', response },
].map((event, sequence_number) => ({ ...event, sequence_number }));

const claudeUsage = {
  input_tokens: 500,
  cache_read_input_tokens: 400,
  cache_creation_input_tokens: 100,
  output_tokens: 100,
};
const claude = {
  type: 'message',
  id: 'msg_1',
  role: 'assistant',
  model: 'm',
  content: [{ type: 'text', text: 'Hi' }],
  stop_reason: 'end_turn',
  stop_sequence: null,
  usage: claudeUsage,
};
const claudeEvents = [
  {
    type: 'message_start',
    message: { ...claude, content: [], stop_reason: null, usage: { ...claudeUsage, output_tokens: 1 } },
  },
  { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
  { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Hi' } },
  { type: 'content_block_stop', index: 0 },
  {
    type: 'message_delta',
    delta: { stop_reason: 'end_turn', stop_sequence: null },
    usage: { output_tokens: 100 },
  },
  { type: 'message_stop' },
];

const gemini = {
  candidates: [{ content: { parts: [{ text: 'Hi' }], role: 'model' }, finishReason: 'STOP', index: 0 }],
  modelVersion: 'gemini-2.5-pro',
  usageMetadata: {
    promptTokenCount: 1000,
    cachedContentTokenCount: 400,
    candidatesTokenCount: 40,
    thoughtsTokenCount: 60,
    totalTokenCount: 1100,
  },
};
const geminiStart = {
  ...gemini,
  candidates: [{ ...gemini.candidates[0], finishReason: undefined }],
  usageMetadata: { promptTokenCount: 1000, thoughtsTokenCount: 60, totalTokenCount: 1060 },
};

const converse = {
  output: { message: { role: 'assistant', content: [{ text: 'Hi' }] } },
  stopReason: 'end_turn',
  metrics: { latencyMs: 1 },
  usage: {
    inputTokens: 500,
    outputTokens: 100,
    totalTokens: 1100,
    cacheReadInputTokens: 400,
    cacheWriteInputTokens: 100,
  },
};
const converseFrames = [
  frameOf('messageStart', { role: 'assistant' }),
  frameOf('contentBlockDelta', { contentBlockIndex: 0, delta: { text: 'Hi' } }),
  frameOf('contentBlockStop', { contentBlockIndex: 0 }),
  frameOf('messageStop', { stopReason: 'end_turn' }),
  frameOf('metadata', { usage: converse.usage, metrics: converse.metrics }),
];

/** A frame of Amazon's event stream: lengths, checksum of them, headers, body, checksum of all. */
function frameOf(type: string, body: object): Buffer {
  const headers = { ':event-type': type, ':content-type': 'application/json', ':message-type': 'event' };
  const parts = Object.entries(headers).map(([name, value]) => {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(value.length);
    return Buffer.concat([Buffer.from([name.length]), Buffer.from(name), Buffer.from([7]), length, Buffer.from(value)]);
  });
  const header = Buffer.concat(parts);
  const payload = Buffer.from(JSON.stringify(body));
  const start = Buffer.alloc(12);
  start.writeUInt32BE(header.length + payload.length + 16);
  start.writeUInt32BE(header.length, 4);
  start.writeUInt32BE(crc32(start.subarray(0, 8)), 8);
  const whole = Buffer.concat([start, header, payload]);
  const end = Buffer.alloc(4);
  end.writeUInt32BE(crc32(whole));
  return Buffer.concat([whole, end]);
}

const cohereUsage = {
  billed_units: { input_tokens: 900, output_tokens: 90 },
  tokens: { input_tokens: 1000, output_tokens: 100 },
};
const cohereEvents = [
  {
    type: 'message-start',
    id: 'c1',
    delta: { message: { role: 'assistant', content: [], tool_plan: '', tool_calls: [], citations: [] } },
  },
  { type: 'content-start', index: 0, delta: { message: { content: { type: 'text', text: '' } } } },
  { type: 'content-delta', index: 0, delta: { message: { content: { text: 'Hi' } } } },
  { type: 'content-end', index: 0 },
  { type: 'message-end', id: 'c1', delta: { finish_reason: 'COMPLETE', usage: cohereUsage } },
];
const cohere = {
  id: 'c1',
  generation_id: 'g1',
  finish_reason: 'COMPLETE',
  message: { role: 'assistant', content: [{ type: 'text', text: 'Hi' }] },
  usage: cohereUsage,
};

/** Perplexity's reasoning is beside its completion; version 4 of the SDK does not show it, so that call has none. */
const perplexity = (name: string) =>
  name.startsWith('@ai-sdk-4/')
    ? chatWithUsageInEnd({ prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100 })
    : chatWithUsageInEnd({ prompt_tokens: 1000, completion_tokens: 40, total_tokens: 1040, reasoning_tokens: 60 });

/** The gateway answers with results of the SDK itself. */
function gatewayResult(name: string) {
  const isFlat = name.startsWith('@ai-sdk-5/');
  return {
    finishReason: isFlat ? 'stop' : { unified: 'stop', raw: 'stop' },
    providerMetadata: { gateway: { cost: '0.0012' } },
    usage: isFlat
      ? { inputTokens: 1000, outputTokens: 100, totalTokens: 1100, cachedInputTokens: 400, reasoningTokens: 60 }
      : {
          inputTokens: { total: 1000, noCache: 600, cacheRead: 400 },
          outputTokens: { total: 100, text: 40, reasoning: 60 },
        },
  };
}

export const ANSWERS: { [api: string]: Answer } = {
  chat: chat(openai),
  mistral: chatWithUsageInEnd(openai),
  groq: chatWithUsageInEnd(openai, { x_groq: { id: 'r', usage: openai } }),
  deepseek: chat({ ...openai, prompt_cache_hit_tokens: 400, prompt_cache_miss_tokens: 600 }),
  // Its completion leaves out the reasoning, its total does not.
  xai: chat({ ...openai, completion_tokens: 40 }),
  perplexity: {
    whole: (name) => perplexity(name).whole(name),
    stream: (name) => perplexity(name).stream(name),
  },
  responses: constant(json(response), events(responseEvents, { named: true })),
  anthropic: constant(json(claude), events(claudeEvents, { named: true })),
  gemini: constant(json(gemini), events([geminiStart, gemini])),
  converse: constant(
    json(converse),
    async () =>
      new Response(Buffer.concat(converseFrames), {
        headers: { 'content-type': 'application/vnd.amazon.eventstream' },
      }),
  ),
  cohere: constant(json(cohere), events(cohereEvents, { named: true })),
  gateway: {
    whole: (name) => json({ content: [{ type: 'text', text: 'Hi' }], warnings: [], ...gatewayResult(name) }),
    stream: (name) =>
      events([
        { type: 'stream-start', warnings: [] },
        { type: 'text-start', id: '1' },
        { type: 'text-delta', id: '1', delta: 'Hi' },
        { type: 'text-end', id: '1' },
        { type: 'finish', ...gatewayResult(name) },
      ]),
  },
};
