import { SettingsError } from './env.ts';
import { createLog, type Log } from './log.ts';
import { createReleasers, type Releasers } from './releasers.ts';

export type ProcessOptions = {
  name: string;
  level: string;
  /** The time that a graceful stop may take before the process exits. */
  deadlineMs: number;
};

/**
 * Runs a service until SIGTERM or SIGINT, then releases what it opened, last first, within the deadline; also after a
 * failed start. A second signal forces the exit. The exit status reports the outcome.
 */
export async function runProcess(
  options: ProcessOptions,
  start: (resources: { log: Log; releasers: Releasers }) => Promise<void>,
): Promise<void> {
  const log = createLog(options.name, options.level);
  const releasers = createReleasers((name, error) => log.error({ err: error, resource: name }, 'release failed'));
  let stopping = false;

  const stop = async (reason: string, exitCode: number) => {
    if (stopping) {
      log.warn({ reason }, 'forced stop');
      process.exit(1);
    }
    stopping = true;
    log.info({ reason }, 'stopping');
    const deadline = setTimeout(() => {
      log.error({ deadlineMs: options.deadlineMs }, 'graceful stop took too long');
      process.exit(1);
    }, options.deadlineMs);
    deadline.unref();
    const failed = await releasers.releaseAll().then(
      () => false,
      () => true,
    );
    log.info('stopped');
    process.exit(failed ? 1 : exitCode);
  };

  process.on('SIGTERM', () => void stop('SIGTERM', 0));
  process.on('SIGINT', () => void stop('SIGINT', 0));
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'uncaught exception');
    void stop('uncaughtException', 1);
  });
  process.on('unhandledRejection', (error) => {
    log.fatal({ err: error }, 'unhandled rejection');
    void stop('unhandledRejection', 1);
  });

  try {
    await start({ log, releasers });
  } catch (error) {
    log.fatal({ err: error }, 'start failed');
    await stop('start failed', 1);
  }
}

/** Reads the settings. Prints what is wrong with them and exits with 78 (EX_CONFIG). */
export function settingsOrExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    console.error(error.message);
    process.exit(78);
  }
}
