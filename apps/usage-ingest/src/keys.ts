import type { Db } from '@tally/db';

/** The callers' keys, as the router sees them. */
export type Keys = Db['keys'];
