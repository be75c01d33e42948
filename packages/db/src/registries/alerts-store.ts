import { type Day, MAX_ALERTS, MAX_WEBHOOKS, TallyError, type WebhookDelivery, WebhookEvent } from '@tally/contracts';
import type { DataSource, EntitySchema, FindOptionsWhere } from 'typeorm';
import { z } from 'zod';
import { AlertEntity, type AlertRow, WebhookEntity, type WebhookRow } from '../entities/alert.ts';
import { Moment } from '../rows.ts';
import { runPrepared, runSql, sql } from '../run-sql.ts';
import { IsNull } from '../typeorm.ts';

export type Firing = {
  rule: string;
  periodStart: Date;
  threshold: string;
  event: string;
  data: { value: string | null; text: string };
  body: string;
  at: Date;
  /** Empty: every webhook that accepts the event. */
  webhookIds: readonly string[];
};

export type DueDelivery = z.output<typeof DueRow>;

/** How an attempt ended. `takenUntil` is that of the delivery as it was taken. */
export type DeliveryOutcome = {
  id: string;
  takenUntil: Date;
  status: WebhookDelivery['status'];
  nextAt: Date;
  lastStatus: number | null;
  lastError: string | null;
  at: Date;
};

export type AlertsStore = {
  webhooks(): Promise<WebhookRow[]>;
  /** Throws CARDINALITY_LIMIT beyond MAX_WEBHOOKS. */
  createWebhook(webhook: Pick<WebhookRow, 'url' | 'secret' | 'events' | 'createdBy'>): Promise<WebhookRow>;
  /** Changes an active webhook; throws NOT_FOUND for any other. */
  changeWebhook(id: string, change: (row: WebhookRow) => Partial<WebhookRow>): Promise<WebhookRow>;
  alerts(): Promise<AlertRow[]>;
  /** Throws CARDINALITY_LIMIT beyond MAX_ALERTS. */
  createAlert(alert: Omit<AlertRow, 'id' | 'createdAt' | 'removedAt'>): Promise<AlertRow>;
  /** Changes an active rule; throws NOT_FOUND for any other. */
  changeAlert(id: string, change: Partial<AlertRow>): Promise<AlertRow>;
  /** Returns those that have not fired yet. */
  unfired<T extends Pick<Firing, 'rule' | 'periodStart' | 'threshold'>>(firings: readonly T[]): Promise<T[]>;
  /** Records a firing and queues its deliveries, in one statement; false if it fired before in this period. */
  fire(firing: Firing): Promise<boolean>;
  /** Ends the firings of a rule and queues the messages about it; false if nothing had fired. */
  resolve(firing: Pick<Firing, 'rule' | 'event' | 'body' | 'at' | 'webhookIds'>): Promise<boolean>;
  /** Returns a page of firings, newest first, of ids below `before`. */
  firings(page: {
    rule: string | undefined;
    before: string | undefined;
    limit: number;
  }): Promise<z.output<typeof FiringRow>[]>;
  /**
   * Takes due deliveries until a time, so many that at most `each` of a webhook are in progress: `inProgress` says how many
   * are already. After that time, another process may take them.
   */
  take(range: {
    now: Date;
    until: Date;
    each: number;
    inProgress: ReadonlyMap<string, number>;
  }): Promise<DueDelivery[]>;
  /** Records outcomes in one statement; leaves out deliveries that were taken or replayed again since. */
  ended(outcomes: readonly DeliveryOutcome[]): Promise<void>;
  deliveries(page: {
    webhookId: string | undefined;
    status: string | undefined;
    after: string | undefined;
    limit: number;
  }): Promise<WebhookDelivery[]>;
  /** Queues one message, or an ended delivery again; undefined if it does not exist. */
  queue(message: {
    again?: string;
    webhookId?: string;
    event: string;
    body: string;
    now: Date;
  }): Promise<WebhookDelivery | undefined>;
  /** Removes ended deliveries and firings from before a day; returns their number. */
  prune(before: Day): Promise<number>;
  /** Returns those of these rules that fired and did not end. */
  open(rules: readonly string[]): Promise<Set<string>>;
  /** Returns the time of a merchant's last event. */
  lastEventAt(merchantId: string): Promise<Date | undefined>;
};

/** How long a delivery is retried. */
const GIVE_UP_MS = 24 * 3_600_000;

const DueRow = z.object({
  id: z.string(),
  webhook_id: z.string(),
  body: z.string(),
  attempts: z.number().int(),
  taken_until: z.date(),
  give_up_at: z.date(),
  url: z.string(),
  secret: z.string(),
  previous_secret: z.string().nullable(),
  removed: z.boolean(),
});
const FiringRow = z.object({
  id: z.string(),
  rule: z.string(),
  period_start: Moment,
  threshold: z.string(),
  event: WebhookEvent,
  data: z.object({ value: z.string().nullable(), text: z.string() }),
  fired_at: Moment,
  resolved_at: Moment.nullable(),
});
const PositionRow = z.object({ position: z.number().int() });
const CountRow = z.object({ fired: z.number().int() });
const DeliveryRow = z
  .object({
    id: z.string(),
    webhook_id: z.string(),
    event: z.string(),
    body: z.string(),
    status: z.enum(['pending', 'delivered', 'failed']),
    attempts: z.number().int(),
    next_attempt_at: Moment,
    last_status: z.number().int().nullable(),
    last_error: z.string().nullable(),
    created_at: Moment,
    ended_at: Moment.nullable(),
  })
  .transform(
    (row): WebhookDelivery => ({
      id: row.id,
      webhookId: row.webhook_id,
      event: row.event,
      body: row.body,
      status: row.status,
      attempts: row.attempts,
      nextAttemptAt: row.status === 'pending' ? row.next_attempt_at : null,
      lastStatus: row.last_status,
      lastError: row.last_error,
      createdAt: row.created_at,
      endedAt: row.ended_at,
    }),
  );

/** Webhooks, their deliveries, alert rules and firings. */
export function createAlertsStore(dataSource: DataSource): AlertsStore {
  const [webhooks, alerts] = [dataSource.getRepository(WebhookEntity), dataSource.getRepository(AlertEntity)];
  const active = { where: { removedAt: IsNull() }, order: { createdAt: 'asc', id: 'asc' } } as const;
  /** Changes a row that nobody else can change meanwhile, so that a change does not bring back what was removed. */
  const changeOne = <Row extends { id: string; removedAt: Date | null }>(
    entity: EntitySchema<Row>,
    name: string,
    id: string,
    change: (row: Row) => Partial<Row>,
  ): Promise<Row> =>
    dataSource.transaction(async (manager) => {
      const where = { id, removedAt: IsNull() } as FindOptionsWhere<Row>;
      const row = await manager.findOne(entity, { where, lock: { mode: 'pessimistic_write' } });
      if (!row) throw new TallyError('NOT_FOUND', `There is no ${name}.`);
      return manager.save(entity, { ...row, ...change(row) });
    });
  const giveUp = (now: Date) => new Date(now.getTime() + GIVE_UP_MS);

  return {
    webhooks: () => webhooks.find(active),
    async createWebhook(webhook) {
      if ((await webhooks.countBy({ removedAt: IsNull() })) >= MAX_WEBHOOKS)
        throw new TallyError('CARDINALITY_LIMIT', `There are ${MAX_WEBHOOKS} webhooks already; remove some.`);
      return webhooks.save({ ...webhook, previousSecret: null, previousUntil: null, removedAt: null });
    },
    changeWebhook: (id, change) => changeOne(WebhookEntity, `webhook ${id}`, id, change),
    alerts: () => alerts.find(active),
    async createAlert(alert) {
      if ((await alerts.countBy({ removedAt: IsNull() })) >= MAX_ALERTS)
        throw new TallyError('CARDINALITY_LIMIT', `There are ${MAX_ALERTS} alert rules already; remove some.`);
      return alerts.save({ ...alert, removedAt: null });
    },
    changeAlert: (id, change) => changeOne(AlertEntity, `alert rule ${id}`, id, () => change),
    async unfired(firings) {
      if (firings.length === 0) return [];
      const columns = [
        firings.map(({ rule }) => rule),
        firings.map(({ periodStart }) => periodStart),
        firings.map(({ threshold }) => threshold),
      ];
      const rows = await runSql(dataSource, 'unfired-thresholds', columns, PositionRow);
      return rows.map(({ position }) => firings[position]!);
    },
    async fire({ rule, periodStart, threshold, event, data, body, at, webhookIds }) {
      const values = [rule, periodStart, threshold, event, JSON.stringify(data), body, at, webhookIds, giveUp(at)];
      const [row] = await runSql(dataSource, 'fire-alert', values, CountRow);
      return row!.fired > 0;
    },
    async resolve({ rule, event, body, at, webhookIds }) {
      const values = [rule, event, body, at, webhookIds, giveUp(at)];
      const [row] = await runSql(dataSource, 'resolve-alert', values, CountRow);
      return row!.fired > 0;
    },
    firings: ({ rule, before, limit }) =>
      runSql(dataSource, 'list-firings', [rule ?? null, before ?? null, limit], FiringRow),
    async take({ now, until, each, inProgress }) {
      const values = [now, until, each, [...inProgress.keys()], [...inProgress.values()]];
      // TypeORM answers an update with its rows and their number.
      const [rows] = (await dataSource.query(sql('take-deliveries'), values)) as [unknown[], number];
      return rows.map((row) => DueRow.parse(row));
    },
    async ended(outcomes) {
      const columns = (['id', 'takenUntil', 'status', 'nextAt', 'lastStatus', 'lastError', 'at'] as const).map((name) =>
        outcomes.map((outcome) => outcome[name]),
      );
      await dataSource.query(sql('end-attempts'), columns);
    },
    deliveries: ({ webhookId, status, after, limit }) =>
      runSql(dataSource, 'list-deliveries', [webhookId ?? null, status ?? null, after ?? null, limit], DeliveryRow),
    async queue({ again, webhookId, event, body, now }) {
      const values = [again ?? null, webhookId ?? null, event, body, now, giveUp(now)];
      const [row] = await runSql(dataSource, 'queue-delivery', values, z.object({ id: z.string() }));
      if (!row) return undefined;
      const [delivery] = await runSql(dataSource, 'find-delivery', [row.id], DeliveryRow);
      return delivery;
    },
    async prune(before) {
      const [row] = await runSql(dataSource, 'prune-alerts', [before], z.object({ removed: z.number().int() }));
      return row!.removed;
    },
    async open(rules) {
      const rows = await runSql(dataSource, 'open-alerts', [rules], z.object({ rule: z.string() }));
      return new Set(rows.map(({ rule }) => rule));
    },
    async lastEventAt(merchantId) {
      const [row] = await runPrepared(dataSource, 'last-event', [merchantId], z.object({ time: z.date() }));
      return row?.time;
    },
  };
}
