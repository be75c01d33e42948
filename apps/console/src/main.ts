import { fileURLToPath } from 'node:url';
import { runProcess, settingsOrExit } from '@tally/service';
import { readEnv } from './server/env.ts';
import { createConsole, listenOn } from './server/server.ts';

const env = settingsOrExit(() => readEnv());

await runProcess(
  { name: 'console', level: env.LOG_LEVEL, deadlineMs: env.SHUTDOWN_DEADLINE_MS },
  async ({ log, releasers }) => {
    const webFolder = fileURLToPath(new URL('./web', import.meta.url));
    const server = await createConsole(env, { log, releasers, webFolder });
    const address = { host: env.HOST, port: env.PORT, shutdownDelayMs: env.SHUTDOWN_DELAY_MS };
    releasers.push('http', await listenOn(server, address));
    log.info({ host: env.HOST, port: env.PORT }, 'listening');
  },
);
