import { setTimeout as wait } from 'node:timers/promises';
import type { Db, DeliveryOutcome, DueDelivery } from '@tally/db';
import { coalesce, type Loop, startLoop } from '@tally/service';
import type { Agent, request } from 'undici';
import { assertPublicHost, lookupAny, lookupPublic, type Resolve } from './address-guard.ts';
import { signedHeaders } from './signature.ts';

const POLL_MS = 1_000;
/** Concurrent requests of one webhook. The number of webhooks has a limit, so all together have one, too. */
const EACH = 5;
const CONNECT_MS = 5_000;
const REQUEST_MS = 15_000;
/** Another process may take a delivery once its request must have ended. */
const TAKEN_MS = 60_000;
/** No more of a response is read. */
const MAX_ANSWER_BYTES = 16 * 1024;
const MAX_ERROR = 300;
/** Receivers that answer with it want no more of this message. */
const GONE = 410;
/** Pauses after each attempt. The last one repeats until the delivery is given up, a day after its creation. */
const PAUSES_MS = [5, 30, 120, 600, 1_800, 3_600, 7_200].map((seconds) => seconds * 1_000);

export type Deliver = ReturnType<typeof createDeliver>;

/** Sends due deliveries. Each is sent at least once; its id lets a receiver recognise repeats. */
export function createDeliver(options: {
  store: Pick<Db['alerts'], 'take' | 'ended'>;
  /** Allows addresses that are not public, such as those of a private network. */
  allowPrivate: boolean;
  resolve: Resolve;
  now: () => number;
  onError(error: unknown): void;
}) {
  const { store, allowPrivate, resolve, now } = options;
  let loaded: Promise<{ request: typeof request; dispatcher: Agent }> | undefined;

  /** Loads undici at the first message: many installations send none. */
  const load = () =>
    (loaded ??= import('undici').then((undici) => ({
      request: undici.request,
      dispatcher: new undici.Agent({
        connect: { timeout: CONNECT_MS, lookup: allowPrivate ? lookupAny(resolve) : lookupPublic(resolve) },
        maxHeaderSize: MAX_ANSWER_BYTES,
        keepAliveTimeout: 1_000,
      }),
    })));

  /** How many messages of each webhook are in progress. */
  const inProgress = new Map<string, number>();
  /** Each ends when all messages of a webhook that were taken together have ended. */
  const batches = new Set<Promise<void>>();

  /** Outcomes to record, one statement at a time: hundreds may time out together and would take all connections. */
  let outcomes: DeliveryOutcome[] = [];
  const record = coalesce(async () => {
    const ended = outcomes;
    outcomes = [];
    if (ended.length > 0) await store.ended(ended);
  });

  /** Sends one message; returns the status, or why there is none. */
  async function send(delivery: DueDelivery): Promise<{ status: number } | { error: string }> {
    try {
      const url = new URL(delivery.url);
      if (!allowPrivate) assertPublicHost(url);
      const secrets = [delivery.secret, ...(delivery.previous_secret === null ? [] : [delivery.previous_secret])];
      const undici = await load();
      const response = await undici.request(url, {
        method: 'POST',
        dispatcher: undici.dispatcher,
        headers: {
          'content-type': 'application/json',
          'user-agent': 'Tally',
          ...signedHeaders({ id: delivery.id, at: now(), body: delivery.body }, secrets),
        },
        body: delivery.body,
        signal: AbortSignal.timeout(REQUEST_MS),
        headersTimeout: REQUEST_MS,
      });
      // Redirects are not followed: they would bypass the check of the address.
      await response.body.dump({ limit: MAX_ANSWER_BYTES }).catch(() => {});
      return { status: response.statusCode };
    } catch (error) {
      return { error: reasonOf(error) };
    }
  }

  async function deliver(delivery: DueDelivery): Promise<void> {
    const outcome = delivery.removed ? { error: 'the webhook was removed' } : await send(delivery);
    const at = now();
    const lastStatus = 'status' in outcome ? outcome.status : null;
    const isDelivered = lastStatus !== null && lastStatus >= 200 && lastStatus < 300;
    const pause = PAUSES_MS[Math.min(delivery.attempts, PAUSES_MS.length) - 1]!;
    const nextAt = new Date(at + pause);
    const isOver = delivery.removed || lastStatus === GONE || nextAt > delivery.give_up_at;
    outcomes.push({
      ...{ id: delivery.id, takenUntil: delivery.taken_until, nextAt, lastStatus, at: new Date(at) },
      status: isDelivered ? 'delivered' : isOver ? 'failed' : 'pending',
      lastError: 'error' in outcome ? outcome.error : isDelivered ? null : `HTTP ${lastStatus}`,
    });
    await record();
  }

  function leave(webhookId: string): void {
    const left = inProgress.get(webhookId)! - 1;
    if (left === 0) inProgress.delete(webhookId);
    else inProgress.set(webhookId, left);
  }

  /** Begins to send due deliveries, as many as each webhook has room for; returns their number. */
  async function begin(): Promise<number> {
    const due = await store.take({
      ...{ now: new Date(now()), until: new Date(now() + TAKEN_MS) },
      ...{ each: EACH, inProgress },
    });
    const byWebhook = new Map<string, Promise<void>[]>();
    for (const delivery of due) {
      const id = delivery.webhook_id;
      inProgress.set(id, (inProgress.get(id) ?? 0) + 1);
      const sent = deliver(delivery)
        .catch(options.onError)
        .then(() => leave(id));
      byWebhook.set(id, [...(byWebhook.get(id) ?? []), sent]);
    }
    for (const own of byWebhook.values()) {
      const batch: Promise<void> = Promise.all(own).then(() => void batches.delete(batch));
      batches.add(batch);
    }
    return due.length;
  }

  /** Sends due deliveries until none is due or in progress; returns the number of attempts. */
  async function run(): Promise<number> {
    let attempts = 0;
    for (;;) {
      // What was in progress when it took none may have ended since, and left more that is due.
      const leftOut = inProgress.size;
      const begun = await begin();
      if (begun === 0 && leftOut === 0) return attempts;
      attempts += begun;
      if (batches.size > 0) await Promise.race(batches);
    }
  }

  return {
    begin,
    run,
    start(): Loop {
      // A message without an answer takes one place of its webhook: a poll later, the others go on.
      const work = async () => {
        while ((await begin()) > 0) await Promise.race([...batches, wait(POLL_MS, undefined, { ref: false })]);
      };
      const loop = startLoop(POLL_MS, work, options.onError);
      return {
        async stop() {
          await loop.stop();
          await Promise.all(batches);
        },
      };
    },
    close: async () => (await loaded)?.dispatcher.destroy(),
  };
}

/** Returns why a request failed, as deliveries show it. */
export function reasonOf(error: unknown): string {
  const { name, message, code, cause } = error as Partial<NodeJS.ErrnoException> & { cause?: { message?: string } };
  if (name === 'TimeoutError') return `no answer within ${REQUEST_MS / 1_000} s`;
  // Messages of Node often name the code already.
  const parts = [message || String(error), code, cause?.message].filter((part) => part !== undefined);
  return parts
    .filter((part, at) => part !== '' && !parts.slice(0, at).some((before) => before.includes(part)))
    .join(': ')
    .replaceAll(/\s+/g, ' ')
    .slice(0, MAX_ERROR);
}
