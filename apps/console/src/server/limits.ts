/** Calls per batch. */
export const MAX_CALLS = 60;
/** Bytes of one service's answer to its part of a mixed batch. */
export const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Batches that mix services are buffered while they are split; callers beyond this number must retry. */
export const MAX_MIXED_AT_ONCE = 16;
/** Nesting depth of such a batch. */
export const MAX_DEPTH = 64;
/** The share of one caller. */
export const MAX_MIXED_OF_ONE_CALLER = 8;
