import { TallyError } from '@tally/contracts';

export type JsonLimits = {
  /** Elements of arrays and members of objects, of all of them together. */
  maxItems: number;
  /** Arrays and objects inside of each other. */
  maxDepth: number;
};

const [QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, OPEN_BRACE, CLOSE_BRACE] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d];
/** JSON.parse takes at most some 30 ms for a text of this size, the deepest one, so the usual body is not looked through. */
const HARMLESS_BYTES = 128 * 1024;

/**
 * Counts the items and the depth of JSON text before it is parsed, and throws INVALID_INPUT at the byte where it has too many.
 * Whether the text is JSON is left to the parser. Returns the bytes it looked at.
 */
export function assertJsonLimits(bytes: Uint8Array, { maxItems, maxDepth }: JsonLimits): number {
  if (bytes.length <= HARMLESS_BYTES) return 0;
  let depth = 0;
  let items = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!;
    // Most bytes are digits and letters, or lie in strings.
    if (byte === QUOTE) {
      at = endOfString(bytes, at + 1);
    } else if (byte === COMMA) {
      if (++items > maxItems) throw tooMany(maxItems);
    } else if (byte === OPEN || byte === OPEN_BRACE) {
      if (++depth > maxDepth) throw tooDeep(maxDepth);
      if (++items > maxItems) throw tooMany(maxItems);
    } else if (byte === CLOSE || byte === CLOSE_BRACE) {
      depth--;
    }
  }
  return bytes.length;
}

/** The place of a string's closing quote, or the end of the text. */
function endOfString(bytes: Uint8Array, start: number): number {
  let at = start;
  for (; at < bytes.length && bytes[at] !== QUOTE; at++) if (bytes[at] === BACKSLASH) at++;
  return at;
}

const tooMany = (maxItems: number) =>
  new TallyError('INVALID_INPUT', `The JSON has more than ${maxItems} items.`, { details: { maxItems } });

const tooDeep = (maxDepth: number) =>
  new TallyError('INVALID_INPUT', `The JSON is nested more than ${maxDepth} deep.`, { details: { maxDepth } });
