import { createHash } from 'node:crypto';
import { isMissingId, OTHER } from '@tally/contracts';

const PLAIN_ID = /^[\x20-\x7e]{1,128}$/;

/** Returns the id, or a hash if it is too long or not printable ASCII. */
export function idOf(id: string): string {
  return PLAIN_ID.test(id) ? id : `sha256:${createHash('sha256').update(id).digest('hex')}`;
}

/** Returns null for text that stands for a missing value: it identifies nothing. */
export const present = (text: string | null | undefined): string | null => (text && !isMissingId(text) ? text : null);

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/gu;

/**
 * Returns a dimension as events may have it, or {} if nothing is left: a foreign name must not prevent counting.
 * Removes invisible characters; cuts a long name and appends a hash.
 */
export function dimension(name: 'userId' | 'apiKey' | 'model' | 'provider', text: string | null | undefined) {
  const value = dimensionValue(text);
  return value === null ? {} : { [name]: value };
}

/** Returns text as a value of a dimension; null if nothing is left of it. */
export function dimensionValue(text: string | null | undefined): string | null {
  const clean = visible(text ?? '');
  if (clean.trim() === '' || clean === OTHER) return null;
  return shortened(clean, { length: 256, bytes: 400, kept: 120 });
}

/** Returns a name that people read, cut to `max` characters; null if nothing is left of it. */
export const readable = (text: string | null | undefined, max = 256): string | null =>
  visible(text ?? '')
    .slice(0, max)
    .replace(/[\ud800-\udbff]$/, '')
    .trim() || null;

/** Returns a foreign customer as a merchant id; null where nothing of it is left. */
export function merchantOf(customer: string): string | null {
  const clean = visible(customer).trim();
  return clean === '' ? null : shortened(clean, { length: 128, bytes: 128, kept: 36 });
}

const PLAIN = /^[\x20-\x7e]*$/;

const visible = (text: string) => (PLAIN.test(text) ? text : text.normalize('NFC').replace(INVISIBLE, ''));

function shortened(text: string, max: { length: number; bytes: number; kept: number }): string {
  if (text.length <= max.length && Buffer.byteLength(text) <= max.bytes) return text;
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 16);
  return `${text.slice(0, max.kept).replace(/[\ud800-\udbff]$/, '')}:${hash}`;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: entries may not have them.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\p{Cs}]/gu;

/** Makes a text fit into a property: its content must not prevent counting. */
export const decoration = (text: string) =>
  PLAIN.test(text) && text.length <= 500
    ? text
    : text
        .replace(UNPRINTABLE, ' ')
        .slice(0, 500)
        .replace(/[\ud800-\udbff]$/, '');
