export type { AttemptError } from './attempt.ts';
export type { Backoff } from './delivery.ts';
export type { Amount, RecordInput, Refusal, RefusalCode, Scales, Taken, TrackInput } from './entry.ts';
export { GuardError, type Guarded, type GuardRequest } from './guard.ts';
export type { Rejected, TallyOptions } from './options.ts';
export { createTally, type Stats, type Tally } from './tally.ts';
