// The workloads of real users: every event has its own id, time and amounts. `bodiesOf(name)` returns a function that
// makes one body of `usage.record` a call. Bodies come from a pool and differ from its templates in their ids only, so
// that generating them costs little beside the services measured.

export const BATCH = 500;

/** The description of each workload, for the tables. */
export const WORKLOADS = {
  varied: '20 merchants × 500 users × 8 models',
  interleaved: '1,000 merchants in each two batches, 500 in a batch',
  rich: '8 properties and 10 metrics an event',
  unique: 'a user for each event',
  spread: '50,000 merchants × 4 events',
};

const MODELS = [
  'gpt-4o',
  'gpt-4o-mini',
  'o3',
  'claude-sonnet-4',
  'claude-haiku-4',
  'gemini-2.5-pro',
  'mistral-large',
  'llama-4',
];
const EXTRA_METRICS = [
  'cached_tokens',
  'reasoning_tokens',
  'images',
  'audio_ms',
  'tool_calls',
  'retries',
  'latency_ms',
];
const POOL = 120;
const SPREAD = { merchants: 50_000, events: 4 };
/** Events lie within the last half hour, so that they meet several quarter hours. */
const SPAN_MS = 1_800_000;

export function bodiesOf(
  name,
  { batch = BATCH, session = Math.random().toString(36).slice(2, 8), now = Date.now() } = {},
) {
  const entryOf = ENTRIES[name];
  const size = name === 'spread' ? (SPREAD.merchants * SPREAD.events) / batch : POOL;
  const pool = Array.from({ length: size }, (_, body) =>
    JSON.stringify({ entries: Array.from({ length: batch }, (_, index) => entryOf(body * batch + index, now)) }),
  );
  let number = 0;
  return () => {
    const mark = `${session}-${(number + 0x10000).toString(16)}`;
    return pool[number++ % size].replaceAll('#', mark);
  };
}

const ENTRIES = {
  varied: (index, now) => entry(index, now, `shop-${whole(20)}`, `user-${whole(500)}`),
  interleaved: (index, now) => entry(index, now, `shop-${index % 1000}`, `user-${whole(50)}`),
  unique: (index, now) => entry(index, now, `shop-${whole(20)}`, `user-#-${index}`),
  spread: (index, now) => entry(index, now, `shop-${Math.floor(index / SPREAD.events)}`, `user-${whole(3)}`),
  rich(index, now) {
    const plain = entry(index, now, `shop-${whole(20)}`, `user-${whole(500)}`);
    for (const metric of EXTRA_METRICS) plain.metrics[metric] = String(whole(5_000));
    plain.properties = {
      region: ['eu-west-1', 'us-east-1', 'ap-south-1'][whole(3)],
      environment: 'production',
      feature: `feature-${whole(40)}`,
      team: `team-${whole(12)}`,
      trace: hex(32),
      stream: whole(2) === 1,
      attempt: whole(3),
      client: 'python-sdk/1.84.2',
    };
    return plain;
  },
};

function entry(index, now, merchantId, userId) {
  return {
    id: `#-${hex(12)}-${index}`,
    merchantId,
    time: new Date(now - whole(SPAN_MS)).toISOString(),
    userId,
    apiKey: `key-${whole(4)}`,
    model: MODELS[whole(MODELS.length)],
    provider: ['openai', 'anthropic', 'google'][whole(3)],
    metrics: {
      prompt_tokens: String(whole(4_000)),
      completion_tokens: String(whole(1_000)),
      cost: `0.0${100_000 + whole(900_000)}`,
    },
  };
}

const whole = (below) => Math.floor(Math.random() * below);
const hex = (length) => Array.from({ length }, () => whole(16).toString(16)).join('');
