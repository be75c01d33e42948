import { DAY_MS, type engine, TallyError, type Webhook, type WebhookDelivery } from '@tally/contracts';
import type { Db, WebhookRow } from '@tally/db';
import { type Caller, decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import { assertPublicHost, PrivateAddressError } from './address-guard.ts';
import { messageOf } from './message.ts';
import { newSecret } from './signature.ts';

type Input<Name extends keyof typeof engine.webhooks> = z.output<(typeof engine.webhooks)[Name]['input']>;

/** How long requests are signed with the old secret, too, after a rotation. */
const OVERLAP_MS = DAY_MS;

export type Webhooks = ReturnType<typeof createWebhooks>;

/** Webhooks as admins define them, and the log of deliveries. */
export function createWebhooks({
  store,
  allowPrivate,
  now,
}: {
  store: Db['alerts'];
  allowPrivate: boolean;
  now: () => number;
}) {
  function assertAllowed(url: string | undefined): void {
    if (url === undefined || allowPrivate) return;
    try {
      assertPublicHost(new URL(url));
    } catch (error) {
      if (!(error instanceof PrivateAddressError)) throw error;
      throw new TallyError(
        'INVALID_INPUT',
        `url: ${error.message}; set WEBHOOK_ALLOW_PRIVATE to send to your own network.`,
      );
    }
  }

  async function queued(message: Parameters<Db['alerts']['queue']>[0], what: string): Promise<WebhookDelivery> {
    const delivery = await store.queue(message);
    if (!delivery) throw new TallyError('NOT_FOUND', `There is no ${what}.`);
    return delivery;
  }

  return {
    async create({ url, secret = newSecret(), events }: Input<'create'>, caller: Caller) {
      assertAllowed(url);
      return { ...present(await store.createWebhook({ url, secret, events, createdBy: caller.id })), secret };
    },
    async update({ id, url, events, rotateSecret }: Input<'update'>) {
      assertAllowed(url);
      const secret = rotateSecret ? newSecret() : null;
      const row = await store.changeWebhook(id, (before) => ({
        ...(url !== undefined && { url }),
        ...(events !== undefined && { events }),
        ...(secret !== null && {
          secret,
          previousSecret: before.secret,
          previousUntil: new Date(now() + OVERLAP_MS),
        }),
      }));
      return { ...present(row), secret };
    },
    list: async () => ({ rows: (await store.webhooks()).map(present) }),
    remove: async ({ id }: Input<'remove'>) =>
      present(await store.changeWebhook(id, () => ({ removedAt: new Date(now()) }))),
    async deliveries({ limit, cursor, ...question }: Input<'deliveries'>) {
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, { deliveries: question }, z.tuple([z.uuid()]));
      const { webhookId, status } = question;
      const rows = await store.deliveries({ webhookId, status, after, limit });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows, nextCursor: last ? encodeCursor([last.id], { deliveries: question }) : null };
    },
    replay: ({ id }: Input<'replay'>) =>
      queued({ again: id, event: '', body: '', now: new Date(now()) }, `delivery ${id}`),
    test: ({ id }: Input<'test'>) => {
      const event = 'webhook.test';
      const body = messageOf(event, now(), 'A test of this webhook.', {});
      return queued({ webhookId: id, event, body, now: new Date(now()) }, `webhook ${id}`);
    },
  };
}

function present(row: WebhookRow): Webhook {
  return {
    id: row.id,
    url: row.url,
    events: row.events,
    createdAt: row.createdAt.toISOString(),
    createdBy: row.createdBy,
    previousSecretExpiresAt: row.previousUntil?.toISOString() ?? null,
  };
}
