import { TallyError } from '@tally/contracts';

/** Bytes of a file: from the first, up to the one before `to`. */
export type Range = { from: number; to: number };

/**
 * Reads a `Range` header for a file of `size` bytes (RFC 9110, 14.1.2). Returns undefined for what a server may ignore:
 * another unit, several ranges, no range. Throws RANGE_NOT_SATISFIABLE for a range without a byte of the file.
 */
export function rangeOf(header: string, size: number): Range | undefined {
  const [, first, last] = /^bytes=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header) ?? [];
  if (first === undefined || last === undefined || (first === '' && last === '')) return undefined;
  // The last bytes, as many as named.
  const from = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const to = first === '' || last === '' ? size : Math.min(Number(last) + 1, size);
  if (first !== '' && last !== '' && Number(last) < from) return undefined;
  if (from >= size)
    throw new TallyError('RANGE_NOT_SATISFIABLE', `The file has ${size} bytes, and the range begins after them.`, {
      details: { size },
    });
  return { from, to };
}
