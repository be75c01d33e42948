import type { AlertCondition, AlertKind, WebhookEvent } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

export type WebhookRow = {
  id: string;
  url: string;
  secret: string;
  /** The secret from before the last rotation, which also signs until then. */
  previousSecret: string | null;
  previousUntil: Date | null;
  /** Empty: all events. */
  events: WebhookEvent[];
  createdAt: Date;
  createdBy: string;
  removedAt: Date | null;
};

export const WebhookEntity = new EntitySchema<WebhookRow>({
  name: 'Webhook',
  tableName: 'webhooks',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    url: { type: 'text' },
    secret: { type: 'text' },
    previousSecret: { name: 'previous_secret', type: 'text', nullable: true },
    previousUntil: { name: 'previous_until', type: 'timestamptz', nullable: true },
    events: { type: 'text', array: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
  },
});

export type AlertRow = {
  id: string;
  name: string;
  on: AlertKind;
  /** A budget, a meter, a custom metric, a merchant or a source. */
  target: string;
  condition: AlertCondition;
  webhookIds: string[];
  createdAt: Date;
  createdBy: string;
  removedAt: Date | null;
};

export const AlertEntity = new EntitySchema<AlertRow>({
  name: 'Alert',
  tableName: 'alerts',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    name: { type: 'text' },
    on: { type: 'text' },
    target: { type: 'text' },
    condition: { type: 'jsonb' },
    webhookIds: { name: 'webhook_ids', type: 'uuid', array: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
  },
});
