export type { AttemptError } from './attempt.ts';
export type { Backoff } from './delivery.ts';
export type { Amount, RecordInput, Refusal, RefusalCode, Scales, Taken, TrackInput } from './entry.ts';
export { GuardError, type Guarded, type GuardRequest } from './guard.ts';
export { createTally, type Rejected, type Stats, type Tally, type TallyOptions } from './tally.ts';
