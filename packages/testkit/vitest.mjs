import { defineConfig } from 'vitest/config';

/**
 * The vitest configuration of every workspace: sources in place of builds, real servers, no retries, and a report for
 * `npm test`.
 */
export function tallyProject(test = {}) {
  return defineConfig({
    resolve: { conditions: ['source'] },
    ssr: { resolve: { conditions: ['source'] } },
    test: {
      include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
      setupFiles: [new URL('./src/seed.ts', import.meta.url).pathname],
      globalSetup: [new URL('./src/global-setup.ts', import.meta.url).pathname],
      reporters: ['default', 'json'],
      outputFile: { json: '.results/vitest.json' },
      pool: 'forks',
      maxWorkers: 2,
      // Files share processes and their modules; loading these again took half of the time of a short file (ADR 340).
      isolate: false,
      // Waits end first and name their condition: polls after 1, `until` and starts of services after 2 minutes (ADR
      // 210).
      testTimeout: 300_000,
      hookTimeout: 300_000,
      expect: { poll: { timeout: 60_000 } },
      retry: 0,
      ...test,
    },
  });
}
