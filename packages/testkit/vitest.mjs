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
      testTimeout: 300_000,
      hookTimeout: 120_000,
      // A condition is waited for until it holds, on a slow machine too.
      expect: { poll: { timeout: 60_000 } },
      retry: 0,
      ...test,
    },
  });
}
