import type { RouterOf } from './contract.ts';
import { custom } from './custom.ts';
import { jobLog, rollups } from './rollups.ts';

/** metrics-engine: rollups, realtime metrics and custom metrics. */
export const engine = {
  rollups,
  jobs: { log: jobLog },
  custom,
} as const;

export type EngineRouter = RouterOf<typeof engine>;
