import { TallyError } from '@tally/contracts';

export type JsonLimits = {
  /** Array elements and object members in the whole text. */
  maxItems: number;
  /** Nesting depth of arrays and objects. */
  maxDepth: number;
};

/** JSON.parse takes at most some 30 ms for text of this size, so smaller bodies are not scanned. */
export const HARMLESS_BYTES = 128 * 1024;

/** Parsing an object slows with each of its fields: 60,000 of them block all other callers for 60 ms. */
export const MAX_FIELDS = 20_000;

const [QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, OPEN_BRACE, CLOSE_BRACE] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Counts items, depth and fields per object of JSON text as it arrives, chunk by chunk. The returned function throws
 * INVALID_INPUT at the chunk that exceeds a limit. Does not check that the text is valid JSON.
 */
export function createJsonCounter({ maxItems, maxDepth }: JsonLimits): (piece: Uint8Array) => void {
  let depth = 0;
  let items = 0;
  /** The number of fields of each open object; 0 stands for an array. */
  const fields = new Int32Array(maxDepth + 1);
  let isText = false;
  let isEscaped = false;
  return (piece) => {
    // Loops by index: iterating a Buffer takes five times as long, and this runs for every byte of a large body.
    for (let index = 0; index < piece.length; index++) {
      const byte = piece[index];
      if (isText) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) isText = false;
      } else if (byte === QUOTE) {
        isText = true;
      } else if (byte === COMMA || byte === OPEN || byte === OPEN_BRACE) {
        if (byte !== COMMA) {
          if (++depth > maxDepth) throw tooDeep(maxDepth);
          fields[depth] = byte === OPEN_BRACE ? 1 : 0;
        } else if (fields[depth]! > 0 && ++fields[depth]! > MAX_FIELDS) throw tooWide();
        if (++items > maxItems) throw tooMany(maxItems);
      } else if (byte === CLOSE || byte === CLOSE_BRACE) {
        depth--;
      }
    }
  };
}

const tooMany = (maxItems: number) =>
  new TallyError('INVALID_INPUT', `The JSON has more than ${maxItems} items.`, { details: { maxItems } });

const tooWide = () =>
  new TallyError('INVALID_INPUT', `An object of the JSON has more than ${MAX_FIELDS} fields.`, {
    details: { maxFields: MAX_FIELDS },
  });

const tooDeep = (maxDepth: number) =>
  new TallyError('INVALID_INPUT', `The JSON is nested more than ${maxDepth} deep.`, { details: { maxDepth } });
