import { setImmediate as nextTurn } from 'node:timers/promises';
import { Budget, type Day, MAX_BUDGETS, MAX_TEAM_MEMBERS, TallyError } from '@tally/contracts';
import type { DataSource, EntityManager } from 'typeorm';
import { z } from 'zod';
import { BudgetEntity, type BudgetRow } from '../entities/budget.ts';
import type { Journal } from '../journal/journal-store.ts';
import { textArray } from '../journal/line-columns.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { sqlState } from '../transactions.ts';
import { IsNull } from '../typeorm.ts';

export type NewBudget = Omit<BudgetRow, 'id' | 'thresholdsSince' | 'createdAt' | 'removedAt'>;

/** A period that all budgets of a kind and a time zone share. `ends` null: never. */
export type BudgetPeriod = {
  period: BudgetRow['period'];
  timeZone: string;
  start: number;
  ends: number | null;
};

/** What a budget spent in one of its periods, as far as Postgres knows. */
export type BudgetSpend = { budgetId: string; start: number; ends: number | null; spent: bigint };

/** The identity of an event; near a midnight it may count on either of two days. */
export type NotedEvent = { merchantId: string; id: string; dates: readonly Day[] };

export type BudgetsStore = {
  /**
   * Creates a budget with its spend in the period of `at`. Nothing is counted for its merchants meanwhile. Throws
   * CARDINALITY_LIMIT beyond MAX_BUDGETS.
   */
  create(budget: NewBudget, at: Date): Promise<BudgetRow>;
  /** Changes a budget; throws NOT_FOUND for an unknown or removed one. */
  update(id: string, change: Partial<NewBudget>, at: Date): Promise<BudgetRow>;
  /** Removes a budget; removing it again changes nothing. Throws NOT_FOUND for an unknown id. */
  remove(id: string, at: Date): Promise<BudgetRow>;
  find(id: string): Promise<BudgetRow | undefined>;
  /**
   * Returns a page of active budgets in order of (created, id), after the budget `after`. `search`: a part of the name
   * or of an id in the scope, in any case.
   */
  list(page: {
    merchantId: string | undefined;
    search: string | undefined;
    limit: number;
    after: string | undefined;
  }): Promise<BudgetRow[]>;
  /** Returns the version of the list of budgets. */
  version(): Promise<string>;
  /** Returns all active budgets, and the version of the list. */
  active(): Promise<{ version: string; budgets: BudgetRow[] }>;
  /** Returns the users and API keys that have a team, at most MAX_TEAM_MEMBERS. */
  members(): Promise<TeamMember[]>;
  /** Returns the previous, current and next period of all active budgets. */
  periods(at: Date): Promise<BudgetPeriod[]>;
  /** Returns the spend of every active budget in the previous, current and next period. */
  spends(at: Date): Promise<BudgetSpend[]>;
  /**
   * Like `spends`, plus those of the events from `noted` that are in the journal. Both come from one snapshot, taken
   * before `noted` is called.
   */
  snapshot<T extends NotedEvent>(
    at: Date,
    noted: () => Promise<readonly T[]>,
  ): Promise<{ spends: BudgetSpend[]; counted: T[] }>;
};

/** A user or an API key of the directory with its team; merchant '': for every merchant. */
export const TeamMember = z.object({
  kind: z.enum(['user', 'apiKey']),
  merchant_id: z.string(),
  id: z.string(),
  team: z.string(),
});
export type TeamMember = z.output<typeof TeamMember>;

const PeriodRow = z
  .object({
    period: Budget.shape.period,
    time_zone: z.string(),
    start: z.date(),
    ends: z.date().nullable(),
  })
  .transform(({ period, time_zone, start, ends }): BudgetPeriod => {
    return { period, timeZone: time_zone, start: Number(start), ends: ends && Number(ends) };
  });
const SpendsRow = z.object({
  period: z.string(),
  time_zone: z.string(),
  start: z.date(),
  ids: z.string(),
  units: z.string(),
});
const PositionsRow = z.object({ positions: z.string() });
const IdRow = z.object({ id: z.string() });
const VersionRow = z.object({ version: z.string() });
const TooManyRow = z.object({ too_many: z.boolean() });
/** An active budget, as Postgres has it. */
export const ActiveBudget = z.object({
  id: z.string(),
  name: z.string(),
  merchantId: z.string(),
  team: z.string(),
  userId: z.string(),
  apiKey: z.string(),
  model: z.string(),
  measure: z.enum(['cost', 'requests', 'tokens', 'meter']),
  meter: z
    .object({
      key: z.string(),
      unit: z.string().nullable(),
      scale: z.number(),
      aggregation: z.enum(['SUM', 'COUNT']),
      metricType: z.string().nullable(),
      valueProperty: z.string().nullable(),
      eventType: z.string().nullable(),
      filters: z.record(z.string(), z.array(z.string())),
    })
    .nullable(),
  limit: z.string(),
  period: Budget.shape.period,
  timeZone: z.string(),
  enforcement: z.enum(['soft', 'hard']),
  whenUnavailable: z.enum(['allow', 'refuse']),
  thresholds: z.array(z.number()),
  thresholdsSince: z.date(),
  createdAt: z.date(),
  createdBy: z.string(),
  removedAt: z.null(),
});

/** Rows that are checked at once; more would block the event loop for long. */
const CHUNK = 1_000;

const INVALID_PARAMETER = '22023';

/** The texts of a budget that a search looks in; ids contain no line ends. */
const SEARCHED = `concat_ws(E'\\n', budget.name, budget.merchant_id, budget.team, budget.user_id, budget.api_key, budget.model)`;

/** Budgets, in `budgets`, and their spend, in `budget_spend`. */
export function createBudgetsStore(
  dataSource: DataSource,
  journal: Pick<Journal, 'exclusively' | 'exclusivelyAll'>,
): BudgetsStore {
  const budgets = dataSource.getRepository(BudgetEntity);
  const nextVersion = (executor: Executor | EntityManager) => executor.query(sql('budgets/next-version'));

  const changed = (id: string, change: (row: BudgetRow) => Partial<BudgetRow> | undefined) =>
    dataSource.transaction(async (manager) => {
      const row = await manager.findOne(BudgetEntity, { where: { id }, lock: { mode: 'pessimistic_write' } });
      if (!row) throw unknownBudget(id);
      const fields = change(row);
      if (!fields) return row;
      await nextVersion(manager);
      return manager.save(BudgetEntity, { ...row, ...fields });
    });

  const store: BudgetsStore = {
    async create(budget, at) {
      const active = await budgets.countBy({ removedAt: IsNull() });
      if (active >= MAX_BUDGETS)
        throw new TallyError('CARDINALITY_LIMIT', `There are ${active} budgets; at most ${MAX_BUDGETS}. Remove some.`);
      if (budget.team !== '') {
        const [found] = await runSql(dataSource, 'budgets/has-too-many-members', [MAX_TEAM_MEMBERS], TooManyRow);
        if (found!.too_many)
          throw new TallyError(
            'CARDINALITY_LIMIT',
            `More than ${MAX_TEAM_MEMBERS} users and API keys of the directory have a team, too many for budgets of teams.`,
          );
      }
      const work = async (transaction: Executor) => {
        const [row] = await runSql(transaction, 'create-budget', [JSON.stringify(budget)], IdRow);
        await transaction.query(sql('first-budget-spend'), [row!.id, at]);
        await nextVersion(transaction);
        return row!.id;
      };
      try {
        const id = await (budget.merchantId === ''
          ? journal.exclusivelyAll(work)
          : journal.exclusively([budget.merchantId], work));
        return (await store.find(id))!;
      } catch (error) {
        if (sqlState(error) !== INVALID_PARAMETER) throw error;
        throw new TallyError('INVALID_INPUT', `timeZone: Postgres does not know the zone ${budget.timeZone}.`);
      }
    },
    update: (id, change, at) =>
      changed(id, (row) => {
        if (row.removedAt) throw unknownBudget(id);
        const { limit = row.limit, thresholds = [] } = change;
        const isAdded = (threshold: number) => !row.thresholds.includes(threshold);
        const isSooner = BigInt(limit) < BigInt(row.limit) || thresholds.some(isAdded);
        return { ...change, ...(isSooner && { thresholdsSince: at }) };
      }),
    remove: (id, at) => changed(id, (row) => (row.removedAt ? undefined : { removedAt: at })),
    async find(id) {
      return (await budgets.findOneBy({ id })) ?? undefined;
    },
    list({ merchantId, search, limit, after }) {
      const page = budgets
        .createQueryBuilder('budget')
        .orderBy('budget.createdAt')
        .addOrderBy('budget.id')
        .limit(limit);
      page.where({ removedAt: IsNull(), ...(merchantId !== undefined && { merchantId }) });
      if (search !== undefined) page.andWhere(`position(lower(:search) in lower(${SEARCHED})) > 0`, { search });
      if (after !== undefined)
        page.andWhere('(budget.created_at, budget.id) > (select created_at, id from budgets where id = :after)', {
          after,
        });
      return page.getMany();
    },
    version: () => versionOf(dataSource),
    active: () =>
      dataSource.transaction('REPEATABLE READ', async (manager) => {
        const version = await versionOf(manager);
        const rows = (await manager.query(sql('budgets/active'))) as unknown[];
        return { version, budgets: await parsed(rows, ActiveBudget) };
      }),
    members: async () =>
      parsed((await dataSource.query(sql('budgets/team-members'), [MAX_TEAM_MEMBERS])) as unknown[], TeamMember),
    periods: (at) => periodsAt(dataSource, at),
    spends: (at) => dataSource.transaction('REPEATABLE READ', ({ queryRunner }) => spendsAt(queryRunner!, at)),
    snapshot: (at, noted) =>
      dataSource.transaction('REPEATABLE READ', async ({ queryRunner }) => {
        const transaction: Executor = queryRunner!;
        const spends = await spendsAt(transaction, at);
        const events = await noted();
        if (events.length === 0) return { spends, counted: [] };
        // An event near a midnight is looked up on both days.
        const wanted: (typeof events)[number][] = [];
        const dates: string[] = [];
        for (const event of events)
          for (const date of event.dates) {
            wanted.push(event);
            dates.push(date);
          }
        const columns = [
          textArray(wanted.map(({ merchantId }) => merchantId)),
          textArray(dates),
          textArray(wanted.map(({ id }) => id)),
        ];
        const [row] = await runSql(transaction, 'noted-events', columns, PositionsRow);
        const counted = row!.positions === '' ? [] : row!.positions.split(',').map((at) => wanted[Number(at) - 1]!);
        return { spends, counted: [...new Set(counted)] };
      }),
  };
  return store;
}

/** Checks many rows; others have their turn meanwhile. */
async function parsed<Row extends z.ZodType>(rows: readonly unknown[], row: Row): Promise<z.output<Row>[]> {
  const all: z.output<Row>[] = [];
  for (const [at, each] of rows.entries()) {
    if (at > 0 && at % CHUNK === 0) await nextTurn();
    all.push(row.parse(each));
  }
  return all;
}

const periodsAt = (executor: Executor, at: Date) => runSql(executor, 'budgets/periods', [at], PeriodRow);

async function spendsAt(executor: Executor, at: Date): Promise<BudgetSpend[]> {
  const periods = await periodsAt(executor, at);
  const columns = [
    textArray(periods.map(({ period }) => period)),
    textArray(periods.map(({ timeZone }) => timeZone)),
    textArray(periods.map(({ start }) => new Date(start).toISOString())),
  ];
  const rows = await runSql(executor, 'budget-spends', columns, SpendsRow);
  const nameOf = (period: string, timeZone: string, start: number) => `${period} ${timeZone} ${start}`;
  const ends = new Map(periods.map((each) => [nameOf(each.period, each.timeZone, each.start), each.ends]));
  return rows.flatMap(({ period, time_zone, ids, units, ...row }) => {
    const start = Number(row.start);
    const end = ends.get(nameOf(period, time_zone, start))!;
    const amounts = units.split(',');
    return ids.split(',').map((budgetId, index) => ({ budgetId, start, ends: end, spent: BigInt(amounts[index]!) }));
  });
}

async function versionOf(executor: Executor): Promise<string> {
  const [row] = await runSql(executor, 'budgets/version', [], VersionRow);
  return row!.version;
}

const unknownBudget = (id: string) => new TallyError('NOT_FOUND', `There is no budget ${id}.`);
