import { runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './env.ts';
import { createAnalyticsService } from './service.ts';

const env = settingsOrExit(() => readEnv());

await runProcess(
  { name: 'analytics-api', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    const { app } = await createAnalyticsService(env, { log, releasers });
    const { port, stop } = await app.listen({ host: env.HOST, port: env.PORT });
    releasers.push('http', stop);
    log.info({ host: env.HOST, port }, 'listening');
  },
);
