/** Calls of one batch. */
export const MAX_CALLS = 60;
/** An answer of one service to its part of a batch that mixes services. */
export const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Batches that mix services are held whole while they are split; with more than so many at once callers come back. */
export const MAX_MIXED_AT_ONCE = 16;
/** Nested arrays and objects of such a batch. */
export const MAX_DEPTH = 64;
/** Of these, those of one caller. */
export const MAX_MIXED_OF_ONE_CALLER = 8;
/** A request's line and headers together. */
export const MAX_HEADER_BYTES = 32 * 1024;
