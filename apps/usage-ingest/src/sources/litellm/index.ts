import { addDays, type Day, dayOf, type ingest, type LitellmPull, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Handlers, type Log, type Loop } from '@tally/service';
import type { Registry } from 'prom-client';
import type { Env } from '../../env.ts';
import type { Pipeline } from '../pipeline.ts';
import type { Source } from '../source.ts';
import type { Rules } from './call.ts';
import { createLitellmClient } from './client.ts';
import { guardrail } from './guardrail.ts';
import { createLitellmMetrics } from './metrics.ts';
import { createNames } from './names.ts';
import { assertPullRange, createPuller, presentPull, presentSums } from './pull.ts';
import { receivers } from './receive.ts';
import { createRecorder } from './record.ts';

export type Litellm = {
  handlers: Handlers<(typeof ingest)['litellm']>;
  /** The receivers of LiteLLM's callbacks. */
  sources: readonly Source[];
  /** Continues an unfinished pull, and pulls on schedule if an interval is set. */
  start(): void;
  stop(): Promise<void>;
};

/** Creates LiteLLM as a source: its receivers, its pulls and its status. */
export function createLitellm({
  env,
  db,
  pipeline,
  registry,
  log,
  now,
}: {
  env: Env;
  db: Pick<Db, 'litellm' | 'directory'>;
  pipeline: Pick<Pipeline, 'record'>;
  registry: Registry;
  log: Log;
  now: () => number;
}): Litellm {
  const store = db.litellm;
  const rules: Rules = {
    merchantFrom: env.LITELLM_MERCHANT_FROM,
    merchant: env.LITELLM_MERCHANT,
    eventType: env.LITELLM_EVENT_TYPE,
  };
  const metrics = createLitellmMetrics(registry);
  const names = createNames({ store: db.directory, log });
  const recorder = createRecorder({ pipeline, store, names, now });
  const onError = failureLog(log, 'LiteLLM could not be pulled');
  const puller = env.LITELLM_URL
    ? createPuller({
        client: createLitellmClient({
          url: env.LITELLM_URL,
          key: env.LITELLM_KEY ?? '',
          timeoutMs: env.LITELLM_TIMEOUT_MS,
          maxBodyBytes: env.LITELLM_MAX_BODY_BYTES,
        }),
        store,
        recorder,
        names,
        rules,
        daily: env.LITELLM_DAILY,
        lateMs: env.LITELLM_LATE_MINUTES * 60_000,
        metrics,
        now,
        onError,
      })
    : undefined;
  let loop: Loop | undefined;

  return {
    handlers: {
      async pull({ input }): Promise<LitellmPull> {
        if (!puller)
          throw new TallyError('SOURCE_NOT_SET', 'LITELLM_URL is not set, so there is nothing to pull from.');
        return presentPull(await puller.pull(rangeOf(input, dayOf(now()))));
      },
      async status({ input }) {
        const today = dayOf(now());
        const range = rangeOf(input, today) ?? { startDate: addDays(today, -31), endDate: today };
        assertPullRange(range);
        const [pulls, days, completed] = await Promise.all([
          store.pulls(20),
          store.days(range.startDate, range.endDate),
          store.lastCompleted(),
        ]);
        return {
          configured: puller !== undefined,
          intervalMs: puller && env.LITELLM_PULL_INTERVAL_MS > 0 ? env.LITELLM_PULL_INTERVAL_MS : null,
          lastCompletedAt: completed === null ? null : new Date(completed).toISOString(),
          pulls: pulls.map(presentPull),
          days: days.map((day) => ({ ...day, seen: presentSums(day.seen), reported: presentSums(day.reported) })),
        };
      },
    },
    // Their bodies contain the messages of the calls.
    sources: [
      ...receivers({ recorder, rules, maxBodyBytes: env.LITELLM_MAX_BODY_BYTES }),
      guardrail(rules, env.LITELLM_MAX_BODY_BYTES),
    ],
    start() {
      if (!puller) return;
      if (env.LITELLM_PULL_INTERVAL_MS > 0) loop = puller.schedule(env.LITELLM_PULL_INTERVAL_MS);
      else void puller.recover().catch(onError);
    },
    async stop() {
      const stopped = loop?.stop();
      await puller?.stop();
      await stopped;
    },
  };
}

/** Returns the range: from `startDate` to today, or the single day `endDate`, if the other is absent. */
function rangeOf({ startDate, endDate }: { startDate?: Day | undefined; endDate?: Day | undefined }, today: Day) {
  if (startDate) return { startDate, endDate: endDate ?? (today > startDate ? today : startDate) };
  return endDate ? { startDate: endDate, endDate } : undefined;
}
