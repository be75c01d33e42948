import type { RouterOf } from './contract.ts';

/** metrics-engine: rollups, realtime metrics and custom metrics. */
export const engine = {} as const;

export type EngineRouter = RouterOf<typeof engine>;
