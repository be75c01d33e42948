import { z } from 'zod';
import { type EdgeEnv, edgeEnv, parseEnv } from './process/env.ts';
import type { Readiness } from './stores/readiness.ts';

/** The settings of the edge, with a test's changes. */
export const edgeSettings = (changed: Record<string, string> = {}): EdgeEnv => parseEnv(z.object(edgeEnv), changed);

/** Stores that are always available. */
export const READY: Readiness = {
  health: async () => ({ ok: true, degraded: false, postgres: true, redis: true, notes: [] }),
  sawError() {},
};
