import { runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './env.ts';
import { createIngestService } from './service.ts';

const env = settingsOrExit(() => readEnv());

await runProcess(
  { name: 'usage-ingest', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    const { app } = await createIngestService(env, { log, releasers });
    const { port, stop } = await app.listen({ host: env.HOST, port: env.PORT });
    releasers.push('http', stop);
    log.info({ host: env.HOST, port }, 'listening');
  },
);
