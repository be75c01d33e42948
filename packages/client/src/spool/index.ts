export { createSpool, type Fsync, type Spool, type SpoolOptions, type SpoolPromise } from './spool.ts';
