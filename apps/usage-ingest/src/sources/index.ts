import type { ingest } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Handlers, type Log, type Route, startLoop } from '@tally/service';
import type { Registry } from 'prom-client';
import type { Accept } from '../accept.ts';
import type { Env } from '../env.ts';
import type { Scales } from '../meters/registry.ts';
import { createAskAnalytics } from './ask.ts';
import { metronome, orb, polar } from './batches.ts';
import { cloudevents } from './cloudevents.ts';
import { createDayRows } from './day-rows.ts';
import { createFindLagoEvent, lago } from './lago.ts';
import { createLitellm } from './litellm/index.ts';
import { createSourceMeters } from './meters.ts';
import { openmeter } from './openmeter/index.ts';
import { langfuse, otlp } from './otlp/index.ts';
import { createPipeline } from './pipeline.ts';
import type { Source } from './source.ts';
import { stripe } from './stripe.ts';

export type Sources = {
  handlers: Handlers<Pick<typeof ingest, 'sources' | 'litellm'>>;
  /** The paths of all sources. */
  routes: readonly Route[];
  /** Starts sources that pull. */
  start(): void;
  stop(): Promise<void>;
};

/** The interval at which counts and rejections of sources are saved. */
const SAVE_MS = 1_000;

/** Creates all sources on one pipeline. A new source is one line here; see docs/extend/sources.md. */
export function createSources({
  env,
  db,
  accept,
  scales,
  flushSoon,
  others,
  registry,
  log,
  now,
}: {
  env: Env;
  db: Pick<Db, 'events' | 'litellm' | 'meters' | 'sources' | 'directory'>;
  accept: Accept;
  scales: Scales;
  /** Flushes pending events of these merchants, or of all, for a bounded time; returns true if none are left. */
  flushSoon(merchantIds?: readonly string[]): Promise<boolean>;
  others: readonly Source[];
  registry: Registry;
  log: Log;
  now: () => number;
}): Sources {
  const pipeline = createPipeline({ accept, store: db.sources, registry, log, now });
  const litellm = createLitellm({ env, db, pipeline, registry, log, now });
  const meters = createSourceMeters({ meters: db.meters, log, now });
  const ask = createAskAnalytics(env.ANALYTICS_API_URL);
  const all: readonly Source[] = [
    ...litellm.sources,
    cloudevents(meters),
    openmeter({ meters, ask }),
    otlp(env.OTLP_MERCHANT_FROM),
    langfuse(env.OTLP_MERCHANT_FROM),
    stripe({ meters, ask }),
    lago({ meters, ask, findLagoEvent: createFindLagoEvent({ db, scales, flushSoon }) }),
    metronome(meters),
    orb(meters),
    polar(meters),
    ...others,
  ];
  const importDays = createDayRows(pipeline);
  const saving = startLoop(
    SAVE_MS,
    pipeline.save,
    failureLog(log, 'the counts of sources were not saved; it is tried again', { level: 'warn' }),
  );

  return {
    routes: all.flatMap(pipeline.routes),
    handlers: {
      litellm: litellm.handlers,
      sources: {
        importDays: ({ input }) => importDays(input),
        async status() {
          await pipeline.save();
          const states = await db.sources.states();
          return {
            sources: states.map(({ source, firstSeenAt, lastSeenAt, ...counts }) => {
              const [accepted, duplicates, rejected, skipped] = [
                Number(counts.accepted),
                Number(counts.duplicates),
                Number(counts.rejected),
                Number(counts.skipped),
              ];
              return {
                source,
                received: accepted + duplicates + rejected + skipped,
                accepted,
                duplicates,
                rejected,
                skipped,
                firstSeenAt: firstSeenAt.toISOString(),
                lastSeenAt: lastSeenAt.toISOString(),
              };
            }),
          };
        },
        async rejections({ input }) {
          await pipeline.save();
          const rows = await db.sources.rejections(input);
          return { rows: rows.map(({ id: _, at, ...row }) => ({ ...row, at: at.toISOString() })), nextCursor: null };
        },
      },
    },
    start: () => void litellm.start(),
    async stop() {
      await litellm.stop();
      await saving.stop();
      await pipeline.save().catch(() => {});
    },
  };
}
