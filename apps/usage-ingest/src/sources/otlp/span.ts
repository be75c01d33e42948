/** Attributes by name, with their values as text. Contains only those selected by `isWanted`. */
export type Attributes = ReadonlyMap<string, string>;

/** The parts of a span that are read. */
export type Span = {
  /** Lower-case hex. */
  traceId: string;
  spanId: string;
  /** Nanoseconds since 1970. */
  start: bigint;
  /** Whether its status is an error. */
  failed: boolean;
  attributes: Attributes;
  resource: Attributes;
};

/** Selects attributes to read. All others, including prompts and answers, are skipped unread. */
export type IsWanted = (name: string) => boolean;
