import { createHash } from 'node:crypto';
import { type Day, type DirectoryEntry, eachDay, formatCost, startOfDay, type UsageEntry } from '@tally/contracts';

type Model = { model: string; provider: string; promptNano: bigint; completionNano: bigint; upTo: number };

/** Realistic prices per token in nano-USD; a number from 0 to 1 below its `upTo` selects a model. */
const MODELS: readonly Model[] = [
  { model: 'gpt-4o', provider: 'openai', promptNano: 2_500n, completionNano: 10_000n, upTo: 0.3 },
  { model: 'gpt-4o-mini', provider: 'openai', promptNano: 150n, completionNano: 600n, upTo: 0.65 },
  { model: 'claude-sonnet', provider: 'anthropic', promptNano: 3_000n, completionNano: 15_000n, upTo: 0.85 },
  { model: 'llama-3.3-70b', provider: 'groq', promptNano: 590n, completionNano: 790n, upTo: 1 },
];

const MERCHANTS = [
  { merchantId: 'acme', name: 'Acme', users: 24, callsPerDay: 420 },
  { merchantId: 'globex', name: 'Globex', users: 9, callsPerDay: 150 },
  { merchantId: 'initech', name: 'Initech', users: 3, callsPerDay: 40 },
] as const;

const FIRST_NAMES = [
  'Ada',
  'Alan',
  'Barbara',
  'Edsger',
  'Frances',
  'Grace',
  'John',
  'Katherine',
  'Margaret',
  'Niklaus',
];
const LAST_NAMES = ['Okafor', 'Lindqvist', 'Moreau', 'Tanaka', 'Novak', 'Silva', 'Byrne'];
const TEAMS = ['Search', 'Support', 'Research'];

const DAY_HOURS = 24;
const SEASON_MS = 75 * 86_400_000;

/** The names of the merchants, users and API keys of the traffic; each key belongs to a team. */
export const demoDirectory: readonly DirectoryEntry[] = MERCHANTS.flatMap(({ merchantId, name, users }, place) => [
  entryFor('merchant', merchantId, name, null),
  ...Array.from({ length: users }, (_, index) => {
    const first = FIRST_NAMES[(index * 3 + place) % FIRST_NAMES.length]!;
    const last = LAST_NAMES[(index + place * 2) % LAST_NAMES.length]!;
    const email = `${first}.${last}@${merchantId}.example`.toLowerCase();
    return { ...entryFor('user', `${merchantId}-user-${index + 1}`, `${first} ${last}`, merchantId), email };
  }),
  ...TEAMS.map((team, index) => ({
    ...entryFor('apiKey', `${merchantId}-key-${index + 1}`, `${name} ${team.toLowerCase()}`, merchantId),
    team,
  })),
]);

function entryFor(kind: DirectoryEntry['kind'], id: string, name: string, merchantId: string | null): DirectoryEntry {
  return { kind, id, name, merchantId, email: null, role: null };
}

/**
 * Generates realistic traffic: busy office hours, quiet weekends, slow ups and downs, a few failures, a custom
 * metric. A day always has the same events with the same ids, so sending it twice adds nothing.
 */
export function* demoTraffic(startDate: Day, endDate: Day): Generator<UsageEntry> {
  for (const day of eachDay(startDate, endDate)) {
    const random = randomOf(day);
    const start = startOfDay(day);
    const weekday = new Date(start).getUTCDay();
    const season = 1 + 0.3 * Math.sin((2 * Math.PI * start) / SEASON_MS);
    const busy = (weekday === 0 || weekday === 6 ? 0.35 : 1) * season;
    for (const { merchantId, users, callsPerDay } of MERCHANTS) {
      for (let hour = 0; hour < DAY_HOURS; hour++) {
        const curve = 0.25 + Math.exp(-((hour - 14) ** 2) / 18);
        const calls = Math.round(((callsPerDay * busy * curve) / DAY_HOURS) * (0.7 + 0.6 * random()));
        for (let call = 0; call < calls; call++) yield entryOf({ merchantId, users, day, hour, call }, random);
      }
    }
  }
}

type Place = { merchantId: string; users: number; day: Day; hour: number; call: number };

function entryOf({ merchantId, users, day, hour, call }: Place, random: () => number): UsageEntry {
  const { model, provider, promptNano, completionNano } = pick(random());
  const user = 1 + Math.floor(users * random() ** 2);
  const prompt = BigInt(Math.round(80 + 2_400 * random() ** 3));
  const failed = random() < 0.02;
  const completion = failed ? 0n : BigInt(Math.round(20 + 700 * random() ** 2));
  const pages = random() < 0.15 ? 1 + Math.floor(30 * random() ** 2) : 0;
  const minute = String(Math.floor(random() * 60)).padStart(2, '0');
  return {
    id: `demo-${day}-${hour}-${call}`,
    merchantId,
    time: `${day}T${String(hour).padStart(2, '0')}:${minute}:00Z`,
    userId: `${merchantId}-user-${user}`,
    apiKey: `${merchantId}-key-${1 + (user % 3)}`,
    model,
    provider,
    status: failed ? 'failure' : 'success',
    metrics: {
      prompt_tokens: prompt.toString(),
      completion_tokens: completion.toString(),
      cost: formatCost(prompt * promptNano + completion * completionNano),
      // Calls that read a document.
      ...(pages > 0 && { pages: String(pages) }),
    },
  };
}

function pick(at: number): Model {
  return MODELS.find(({ upTo }) => at < upTo)!;
}

/** Yields numbers from 0 to 1 that depend only on the seed (mulberry32). */
function randomOf(seed: string): () => number {
  let state = createHash('sha256').update(seed).digest().readUInt32LE(0);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
