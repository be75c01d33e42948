/** Attributes by name, with their values as text. Only those that `isWanted` names are read. */
export type Attributes = ReadonlyMap<string, string>;

/** What is read of a span. */
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

/** Which attributes are read. All others, prompts and answers among them, are passed over unread. */
export type IsWanted = (name: string) => boolean;
