import type { BreakdownBy, Grouping, Interval, Measures, SortBy } from '@tally/contracts';

// The plain model: sums acknowledged events in the simplest way. Imports only types, no code under test.

export type ModelEvent = {
  id: string;
  merchantId: string;
  time: string;
  userId?: string;
  apiKey?: string;
  model?: string;
  provider?: string;
  failed: boolean;
  count: number;
  prompt: number;
  completion: number;
  nanoUsd: bigint;
};

export type ModelFilters = {
  merchantIds?: string[] | undefined;
  userIds?: string[] | undefined;
  models?: string[] | undefined;
  providers?: string[] | undefined;
  apiKeys?: string[] | undefined;
  teams?: string[] | undefined;
};
export type ModelRange = { startDate: string; endDate: string };

type Row = Measures & { key: string; keys?: [string, string] };

/** Teams by kind, id and merchant, as `user user-1 acme`; without a merchant for all of them. */
export type Teams = ReadonlyMap<string, string>;

const DAY_MS = 86_400_000;
const QUARTER_MS = 900_000;
/** Longer than any zone is from UTC. */
const FAR_MS = 16 * 3_600_000;

export function createModel(teams: Teams) {
  const events: ModelEvent[] = [];

  function keyOf({ merchantId, userId, apiKey, model, provider }: ModelEvent, by: Grouping): string {
    const own = { merchant: merchantId, user: userId, apiKey, model, provider };
    if (by !== 'team') return own[by] ?? 'unknown';
    const places = [`apiKey ${apiKey} ${merchantId}`, `apiKey ${apiKey} `];
    places.push(`user ${userId} ${merchantId}`, `user ${userId} `);
    return places.map((place) => teams.get(place)).find((team) => team !== undefined) ?? 'unknown';
  }

  function passes(event: ModelEvent, filters: ModelFilters): boolean {
    const lists: [Grouping, string[] | undefined][] = [
      ['merchant', filters.merchantIds],
      ['user', filters.userIds],
      ['model', filters.models],
      ['provider', filters.providers],
      ['apiKey', filters.apiKeys],
      ['team', filters.teams],
    ];
    return lists.every(([by, list]) => !list || list.length === 0 || list.includes(keyOf(event, by)));
  }

  const within = ({ startDate, endDate, ...filters }: ModelRange & ModelFilters) =>
    events.filter((event) => {
      const date = event.time.slice(0, 10);
      return date >= startDate && date <= endDate && passes(event, filters);
    });

  function groups(some: readonly ModelEvent[], by: BreakdownBy): Row[] {
    const found = new Map<string, { keys: string[]; events: ModelEvent[] }>();
    for (const event of some) {
      const keys = [by].flat().map((each) => keyOf(event, each));
      const group = found.get(JSON.stringify(keys)) ?? { keys, events: [] };
      group.events.push(event);
      found.set(JSON.stringify(keys), group);
    }
    return [...found].map(([text, group]) => ({
      ...(typeof by === 'string' ? { key: group.keys[0]! } : { key: text, keys: group.keys as [string, string] }),
      ...measures(group.events),
    }));
  }

  return {
    add: (more: readonly ModelEvent[]) => events.push(...more),
    events: () => events as readonly ModelEvent[],
    totals: (question: ModelRange & ModelFilters) => measures(within(question)),

    /** A user of two merchants counts twice. */
    activeUsers: (question: ModelRange & ModelFilters) =>
      new Set(within(question).flatMap(({ merchantId, userId }) => (userId ? [`${merchantId} ${userId}`] : []))).size,

    breakdown(question: ModelRange & ModelFilters, by: BreakdownBy, sortBy: SortBy, order: 'asc' | 'desc') {
      const some = within(question);
      const place = ({ keys, key }: Row) => (keys ?? [key]).join('\0');
      const rows = groups(some, by).sort((left, right) => {
        const difference = sortBy === 'key' ? 0n : nano(left[sortBy]) - nano(right[sortBy]);
        const ascending = difference === 0n ? (place(left) < place(right) ? -1 : 1) : difference < 0n ? -1 : 1;
        return order === 'asc' ? ascending : -ascending;
      });
      return { rows, totals: measures(some), total: rows.length };
    },

    series(
      { startDate, endDate, ...filters }: ModelRange & ModelFilters,
      { interval, timeZone, groupBy }: { interval: Interval; timeZone: string; groupBy?: Grouping | undefined },
    ) {
      return periods({ startDate, endDate }, interval, timeZone).map(({ from, to }) => {
        const some = events.filter((event) => {
          const at = Date.parse(event.time);
          return at >= from && at < to && passes(event, filters);
        });
        return {
          from: new Date(from).toISOString(),
          to: new Date(to).toISOString(),
          ...measures(some),
          ...(groupBy && { groups: groups(some, groupBy).sort((one, other) => (one.key < other.key ? -1 : 1)) }),
        };
      });
    },

    /** Returns the events behind a measure of one merchant: its value by day, and the ids of its events, in order. */
    explained(question: ModelRange & ModelFilters, metricType: ModelMetric) {
      const some = within(question).filter((event) => amountOf(event, metricType) !== 0n);
      const days = [...new Set(some.map(({ time }) => time.slice(0, 10)))].sort();
      const print = (list: readonly ModelEvent[]) => {
        const units = list.reduce((sum, event) => sum + amountOf(event, metricType), 0n);
        return metricType === 'cost' ? dollars(units) : `${units}`;
      };
      const summed = (list: readonly ModelEvent[]) => ({
        value: print(list),
        entryCount: `${list.length}`,
        callCount: `${list.reduce((sum, { count }) => sum + count, 0)}`,
      });
      return {
        ...summed(some),
        byDay: days.map((date) => ({ date, ...summed(some.filter(({ time }) => time.startsWith(date))) })),
        ids: some
          .map(({ id, time }) => [time.slice(0, 10), id].join(' '))
          .sort()
          .map((place) => place.split(' ')[1]!),
      };
    },
  };
}

export const MODEL_METRICS = [
  'requests',
  'failed_requests',
  'prompt_tokens',
  'completion_tokens',
  'total_tokens',
  'cost',
] as const;
export type ModelMetric = (typeof MODEL_METRICS)[number];

function amountOf({ count, failed, prompt, completion, nanoUsd }: ModelEvent, metricType: ModelMetric): bigint {
  if (metricType === 'cost') return nanoUsd;
  const amounts = {
    requests: count,
    failed_requests: failed ? count : 0,
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
  };
  return BigInt(amounts[metricType]);
}

function measures(events: readonly ModelEvent[]): Measures {
  const sum = (metricType: ModelMetric) => events.reduce((all, event) => all + amountOf(event, metricType), 0n);
  const [requests, failed] = [sum('requests'), sum('failed_requests')];
  return {
    requests: `${requests}`,
    failedRequests: `${failed}`,
    promptTokens: `${sum('prompt_tokens')}`,
    completionTokens: `${sum('completion_tokens')}`,
    totalTokens: `${sum('total_tokens')}`,
    cost: dollars(sum('cost')),
    successRate: rate(requests, failed),
  };
}

/** Percent with two decimals, halves up; 100 means all. */
function rate(requests: bigint, failed: bigint): number | null {
  if (requests === 0n) return null;
  const hundredths = ((requests - failed) * 10_000n) / requests;
  const rest = ((requests - failed) * 10_000n) % requests;
  const rounded = rest * 2n >= requests ? hundredths + 1n : hundredths;
  return Number(failed > 0n && rounded === 10_000n ? 9_999n : rounded) / 100;
}

/** Nano-USD as the shortest decimal of dollars. */
export function dollars(nanoUsd: bigint): string {
  const text = nanoUsd.toString().padStart(10, '0');
  return `${text.slice(0, -9)}.${text.slice(-9)}`.replace(/\.?0+$/, '') || '0';
}

/** The billionths of a decimal. */
function nano(decimal: string): bigint {
  const [whole, fraction = ''] = decimal.split('.');
  return BigInt(whole + fraction.padEnd(9, '0'));
}

/** Returns the periods of a range of local days: all its quarter hours, in order, grouped by period. */
function periods({ startDate, endDate }: ModelRange, interval: Interval, timeZone: string) {
  const clock = clockOf(timeZone);
  const found: { from: number; to: number; name: string }[] = [];
  const end = Date.parse(endDate) + DAY_MS + FAR_MS;
  for (let at = Date.parse(startDate) - FAR_MS; at < end; at += QUARTER_MS) {
    const { date, minute } = clock(at);
    if (date < startDate || date > endDate) continue;
    const last = found.at(-1);
    const step = { '15m': 15, hour: 60 }[interval as string];
    const name = step ? date : interval === 'day' ? date : interval === 'week' ? mondayOf(date) : date.slice(0, 7);
    if (last && last.name === name && !(step && minute % step === 0)) last.to = at + QUARTER_MS;
    else found.push({ from: at, to: at + QUARTER_MS, name });
  }
  return found;
}

const mondayOf = (date: string) =>
  new Date(Date.parse(date) - ((new Date(date).getUTCDay() + 6) % 7) * DAY_MS).toISOString().slice(0, 10);

const clocks = new Map<string, (at: number) => { date: string; minute: number }>();

/** Returns what a wall clock shows in a zone. */
function clockOf(timeZone: string) {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone, dateStyle: 'short', timeStyle: 'short' });
  const known = new Map<number, { date: string; minute: number }>();
  const clock =
    clocks.get(timeZone) ??
    ((at: number) => {
      const shown = known.get(at);
      if (shown) return shown;
      const text = format.format(at);
      const now = { date: text.slice(0, 10), minute: Number(text.slice(14, 16)) };
      known.set(at, now);
      return now;
    });
  clocks.set(timeZone, clock);
  return clock;
}
