import { alerts, webhooks } from './alerts.ts';
import type { RouterOf } from './contract.ts';
import { custom } from './custom.ts';
import { realtime } from './realtime.ts';
import { jobLog, jobs, rollups } from './rollups.ts';

/** metrics-engine: rollups, realtime metrics and custom metrics. */
export const engine = {
  rollups,
  jobs: { log: jobLog, ...jobs },
  realtime,
  custom,
  alerts,
  webhooks,
} as const;

export type EngineRouter = RouterOf<typeof engine>;
