import { z } from 'zod';
import { type EdgeEnv, edgeEnv, parseEnv } from './env.ts';

/** The settings of the edge, with those that a test changes. */
export const edgeSettings = (changed: Record<string, string> = {}): EdgeEnv => parseEnv(z.object(edgeEnv), changed);
