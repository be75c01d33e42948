import { listen, runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './env.ts';
import { createAnalyticsService } from './service.ts';

const env = settingsOrExit(() => readEnv());

await runProcess(
  { name: 'analytics-api', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    const { app } = await createAnalyticsService(env, { log, releasers });
    releasers.push('http', await listen(app, { host: env.HOST, port: env.PORT }));
    log.info({ host: env.HOST, port: env.PORT }, 'listening');
  },
);
