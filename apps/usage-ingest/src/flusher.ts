import { runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './env.ts';
import { createIngestService } from './service.ts';

const env = settingsOrExit(() => readEnv({ ...process.env, ENABLE_FLUSH: 'true', ENABLE_JOB_SCHEDULER: 'false' }));

// Runs a flusher beside the ingests: it takes its part of the shards, and has no port.
await runProcess(
  { name: 'usage-flusher', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    await createIngestService(env, { log, releasers });
    log.info('flushing');
  },
);
