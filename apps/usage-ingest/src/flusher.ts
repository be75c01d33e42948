import { runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './env.ts';
import { createIngestService } from './service.ts';

const env = settingsOrExit(() => readEnv({ ...process.env, PORT: process.env.PORT || '4004', ENABLE_FLUSH: 'true' }));

// Runs a flusher beside the ingests: it takes its part of the shards, and answers health and metrics only.
await runProcess(
  { name: 'usage-flusher', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    const { app } = await createIngestService(env, { log, releasers, isFlusher: true });
    const { port, stop } = await app.listen({ host: env.HOST, port: env.PORT });
    releasers.push('http', stop);
    log.info({ host: env.HOST, port }, 'listening');
  },
);
