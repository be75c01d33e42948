/**
 * Values of the attributes that are read, as text, each at the index of its name in `AttributeNames`. A span has few of
 * them and is read thousands of times a second, so this is no map.
 */
export type Attributes = readonly (string | undefined)[];

/** Lower-case hex. */
export type SpanIds = {
  spanId: string;
  /** Empty if it has none. */
  parentId: string;
};

/** The parts of a span that are read. */
export type Span = SpanIds & {
  /** Lower-case hex. */
  traceId: string;
  /** The name of the instrumentation that made it. */
  scope: string;
  /** Milliseconds since 1970, rounded down; 0 if it has no start. */
  start: number;
  /** Whether its status is an error. */
  failed: boolean;
  attributes: Attributes;
  resource: Attributes;
};

/** The names of attributes to read. All others, including prompts and answers, are skipped unread. */
export type AttributeNames = {
  /** Returns the values of a span without attributes. */
  none(): (string | undefined)[];
  /** Returns the index of a name; -1 if it is not among them. */
  indexOf(name: string): number;
  /** Returns the index of the name that these bytes are; -1 if it is not among them. */
  indexOfBytes(bytes: Uint8Array, from: number, to: number): number;
};

/** Creates the set of names to read. They must be ASCII. */
export function attributeNames(names: readonly string[]): AttributeNames {
  const indexes = new Map(names.map((name, index) => [name, index]));
  const none = new Array<string | undefined>(names.length).fill(undefined);
  const byLength: { index: number; bytes: Uint8Array }[][] = [];
  for (const [name, index] of indexes) {
    byLength[name.length] ??= [];
    byLength[name.length]!.push({ index, bytes: Buffer.from(name) });
  }
  return {
    none: () => none.slice(),
    indexOf: (name) => indexes.get(name) ?? -1,
    indexOfBytes(bytes, from, to) {
      for (const { index, bytes: own } of byLength[to - from] ?? []) {
        let at = own.length - 1;
        // Names differ most at their ends.
        while (at >= 0 && own[at] === bytes[from + at]) at--;
        if (at < 0) return index;
      }
      return -1;
    },
  };
}
