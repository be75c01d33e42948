import { Budget, EVENT_TYPE_PROPERTY, TallyError } from '@tally/contracts';
import {
  ActiveBudget,
  type BudgetMeter,
  type BudgetPeriod,
  type BudgetRow,
  type BudgetSpend,
  type Db,
  type JournalLine,
  TeamMember,
} from '@tally/db';
import { groupBy, type RedisClient } from '@tally/service';
import { z } from 'zod';
import { createVersionedList, type VersionedList } from '../versioned-list.ts';

/** A period of a budget, as named in Redis. */
export const slotOf = (budgetId: string, start: number) => `${budgetId}/${start}`;

export type Usage = {
  merchantId: string;
  userId?: string | undefined;
  apiKey?: string | undefined;
  model?: string | undefined;
};
type Span = { start: number; ends: number | null };

/** The active budgets as one process knows them. */
export type BudgetList = {
  readonly version: string;
  readonly budgets: readonly BudgetRow[];
  /** Returns the budgets that usage counts in. */
  matching(usage: Usage): BudgetRow[];
  /** Returns true if any budget can match usage of a merchant. */
  concerns(merchantId: string): boolean;
  /** Returns the budget's period of a moment: the previous, current or next one; else undefined. */
  spanOf(budgetId: string, at: number): Span | undefined;
  /** Every period that is kept in Redis. */
  has(slot: string): boolean;
};

const PeriodKind = Budget.shape.period;

/** The list as Postgres and its copy in Redis have it. */
const Stored = z.object({
  version: z.string(),
  budgets: z.array(
    ActiveBudget.extend({
      // A copy of an earlier release may lack these.
      team: ActiveBudget.shape.team.default(''),
      meter: ActiveBudget.shape.meter.default(null),
      thresholdsSince: z.coerce.date().default(new Date(0)),
      createdAt: z.coerce.date(),
      removedAt: z.coerce.date().nullable(),
    }),
  ),
  periods: z.array(
    z.object({ period: PeriodKind, timeZone: z.string(), start: z.number(), ends: z.number().nullable() }),
  ),
  members: z.array(TeamMember).default([]),
});

export type BudgetRegistry = VersionedList<BudgetList & { turnsAt: number }>;

/** Returns the list, not older than `FRESH_MS`. Throws UNAVAILABLE if no store has it. */
export async function listNow(registry: BudgetRegistry): Promise<BudgetList> {
  await registry.freshen();
  const list = registry.current();
  if (list) return list;
  await registry.refresh().catch((cause: unknown) => {
    throw new TallyError('UNAVAILABLE', 'The budgets are unknown: no store answers. Try again.', { cause });
  });
  return registry.current()!;
}

/** The active budgets and their periods as this process knows them: at most some seconds behind `budgets`. */
export function createBudgetRegistry({
  store,
  redis,
  now,
}: {
  store: Pick<Db['budgets'], 'version' | 'active' | 'members' | 'periods'>;
  redis: RedisClient;
  now: () => number;
}): BudgetRegistry {
  return createVersionedList({
    ...{ redis, key: 'registry:budgets', copy: Stored },
    store: {
      version: store.version,
      async load() {
        const { version, budgets } = await store.active();
        // Read after the version, so that a later change of a team is one of a later version.
        const members = budgets.some(({ team }) => team !== '') ? await store.members() : [];
        return { version, budgets, members, periods: await store.periods(new Date(now())) };
      },
    },
    prepare: (stored) => listOf(stored, now()),
    isOver: ({ turnsAt }) => now() >= turnsAt,
  });
}

function listOf({ version, budgets, periods, members }: z.output<typeof Stored>, at: number) {
  const teams = new Map(members.map(({ kind, merchant_id, id, team }) => [memberKey(kind, merchant_id, id), team]));
  /** The team of usage: that of its API key, else that of its user; the merchant's own entries come first. */
  const teamOf = (merchantId: string, apiKey: string, userId: string) =>
    teams.get(memberKey('apiKey', merchantId, apiKey)) ??
    teams.get(memberKey('apiKey', '', apiKey)) ??
    teams.get(memberKey('user', merchantId, userId)) ??
    teams.get(memberKey('user', '', userId));
  const ways = [...groupBy(budgets, (budget) => wayTo(budget).join()).values()].map((found) => {
    const way = wayTo(found[0]!);
    const keyOf = (scope: Scope) => way.map((field) => scope[field]).join('\n');
    return { keyOf, byKey: groupBy(found, keyOf) };
  });
  const positions = new Map(budgets.map((each, at) => [each, at]));
  const merchants = new Set(budgets.map(({ merchantId }) => merchantId));
  const hasTeams = budgets.some(({ team }) => team !== '');
  const kindOf = ({ period, timeZone }: Pick<BudgetPeriod, 'period' | 'timeZone'>) => `${period} ${timeZone}`;
  const byKind = new Map<string, Span[]>();
  for (const [kind, own] of groupBy(periods, kindOf))
    byKind.set(
      kind,
      own.map(({ start, ends }) => ({ start, ends })),
    );
  const spans = new Map(budgets.map((budget) => [budget.id, byKind.get(kindOf(budget)) ?? []]));
  const ends = periods.flatMap((period) => (period.ends !== null && period.ends > at ? [period.ends] : []));
  return {
    version,
    budgets,
    turnsAt: ends.reduce((first, each) => Math.min(first, each), Number.POSITIVE_INFINITY),
    concerns: (merchantId: string) => merchants.has('') || merchants.has(merchantId),
    matching({ merchantId, ...sent }: Usage) {
      const [userId, apiKey, model] = [known(sent.userId), known(sent.apiKey), known(sent.model)];
      const team = (hasTeams && teamOf(merchantId, apiKey, userId)) || '';
      const usage = { merchantId, userId, apiKey, team, model };
      const found = ways
        .flatMap(({ keyOf, byKey }) => byKey.get(keyOf(usage)) ?? [])
        .filter((budget) => SCOPE.every((field) => budget[field] === '' || budget[field] === usage[field]));
      return found.sort((one, other) => positions.get(one)! - positions.get(other)!);
    },
    spanOf: (budgetId: string, moment: number) =>
      spans.get(budgetId)?.find(({ start, ends }) => moment >= start && (ends === null || moment < ends)),
    has(slot: string) {
      const [budgetId, start] = slot.split('/') as [string, string];
      return spans.get(budgetId)?.some((span) => span.start === Number(start)) ?? false;
    },
  };
}

const SCOPE = ['merchantId', 'userId', 'apiKey', 'team', 'model'] as const;
type Scope = Pick<BudgetRow, (typeof SCOPE)[number]>;

/**
 * The fields by which usage finds a budget among thousands: its merchant, if it has one, and the first other field that
 * it gives, as in the SQL function `budget_way`.
 */
function wayTo(budget: Scope): (keyof Scope)[] {
  const given = SCOPE.filter((field) => budget[field] !== '');
  return given.slice(0, budget.merchantId === '' ? 1 : 2);
}

/** A dimension as it is counted: `unknown` stands for none. */
const known = (dimension = '') => (dimension === 'unknown' ? '' : dimension);

const memberKey = (kind: TeamMember['kind'], merchantId: string, id: string) => `${kind}\n${merchantId}\n${id}`;

/** Returns the amount that a line adds to the measure or the meter of a budget, in units. */
export function amountOf(line: JournalLine, { measure, meter }: Pick<BudgetRow, 'measure' | 'meter'>): bigint {
  if (meter) return amountOfMeter(line, meter);
  if (measure === 'cost' || measure === 'requests') return BigInt(line[measure] ?? 0);
  return tokensOf(line);
}

const tokensOf = (line: JournalLine) => BigInt(line.prompt_tokens ?? 0) + BigInt(line.completion_tokens ?? 0);

/** Counts like the SQL function `budget_meter_units`. */
function amountOfMeter(line: JournalLine, meter: BudgetMeter): bigint {
  const property = (name: string) => {
    const { properties = {} } = line;
    return Object.hasOwn(properties, name) ? textOf(properties[name]!) : undefined;
  };
  const { aggregation, metricType, valueProperty, eventType, scale } = meter;
  if (eventType !== null && property(EVENT_TYPE_PROPERTY) !== eventType) return 0n;
  for (const [name, wanted] of Object.entries(meter.filters)) {
    const dimension = DIMENSIONS[name];
    const value = dimension ? dimension(line) : property(nameOfProperty(name));
    if (!wanted.includes(value || 'unknown')) return 0n;
  }
  if (aggregation === 'COUNT') return BigInt(line.requests ?? 0);
  if (valueProperty !== null) return unitsIn(property(nameOfProperty(valueProperty)), scale);
  switch (metricType) {
    case 'requests':
    case 'failed_requests':
    case 'prompt_tokens':
    case 'completion_tokens':
    case 'cost':
      return BigInt(line[metricType] ?? 0);
    case 'total_tokens':
      return tokensOf(line);
    default:
      return BigInt(line.metrics && Object.hasOwn(line.metrics, metricType!) ? line.metrics[metricType!]! : 0);
  }
}

const DIMENSIONS: Readonly<Record<string, (line: JournalLine) => string | undefined>> = {
  user: (line) => line.user_id,
  apiKey: (line) => line.api_key,
  model: (line) => line.model,
  provider: (line) => line.provider,
  status: (line) => (line.failed ? 'failure' : 'success'),
};

const nameOfProperty = (name: string) => name.replace(/^property:/, '');

const EXPONENT = /^(-?)(\d+)(?:\.(\d+))?e([+-]\d+)$/;

/** Returns the text of a property like Postgres, which writes every digit of a number. */
function textOf(value: string | number | boolean): string {
  const text = String(value);
  const [, sign, whole, fraction = '', exponent] = (typeof value === 'number' && EXPONENT.exec(text)) || [];
  if (whole === undefined) return text;
  const digits = whole + fraction;
  const point = whole.length + Number(exponent);
  return `${sign}${point > 0 ? digits.padEnd(point, '0') : `0.${'0'.repeat(-point)}${digits}`}`;
}

const NUMBER = /^(-?)(\d{1,15})(?:\.(\d{1,30}))?$/;

/** Parses a property into units, at most those that Redis can hold; 0 if it is no decimal of the scale. */
function unitsIn(text: string | undefined, scale: number): bigint {
  const [, sign, whole, fraction = ''] = NUMBER.exec(text ?? '') ?? [];
  const decimals = fraction.replace(/0+$/, '');
  if (whole === undefined || decimals.length > scale) return 0n;
  const units = BigInt(whole + decimals.padEnd(scale, '0'));
  return bounded(sign === '-' ? -units : units);
}

/** Returns spent amounts in the form that Redis can hold. */
export const storable = ({ spent }: Pick<BudgetSpend, 'spent'>): string => bounded(spent).toString();

const MAX_SPENT = 4n * 10n ** 18n;
const bounded = (units: bigint) => (units > MAX_SPENT ? MAX_SPENT : units < -MAX_SPENT ? -MAX_SPENT : units);
