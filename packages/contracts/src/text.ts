import { z } from 'zod';

/**
 * The text types of all contracts. Every string that a caller sends is one of these, or has a closed form of its own
 * (an enum, a pattern). NUL and lone surrogates never pass: neither Postgres nor JSON can store them.
 */

const tooLong = (max: number) => `Expected at most ${max} characters`;

/** Control characters and lone surrogates. */
const CONTROL = /[\p{Cc}\p{Cs}]/u;

/** The same for text of several lines, in which tab, line feed and carriage return are allowed. */
const CONTROL_IN_LINES = /[^\P{Cc}\t\n\r]|\p{Cs}/u;

/** Invisible characters, and unassigned ones that a later Unicode version may normalise. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/u;

/** U+200C and U+200D join letters in Persian, Indic scripts and emoji: words need them, ids do not. */
const INVISIBLE_BUT_JOINERS = /[\p{Cc}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]|(?![\u200c\u200d])\p{Cf}/u;

/**
 * Text on one line that is compared with stored text. It allows everything that is stored, so that every value in an
 * answer can be queried.
 */
export const text = (max: number) =>
  z
    .string()
    .max(max, tooLong(max))
    .refine((value) => !CONTROL.test(value), 'Control characters and lone surrogates are not allowed');

/**
 * A name that identifies something: in NFC, without invisible characters, so that two names that look the same are the
 * same.
 */
export const name = (max: number, maxBytes = 4 * max) =>
  z
    .string()
    .max(max, tooLong(max))
    .normalize('NFC')
    .refine((value) => value.length <= max, tooLong(max))
    .refine((value) => bytesOf(value) <= maxBytes, `Expected at most ${maxBytes} bytes of UTF-8`)
    .refine(
      (value) => !INVISIBLE.test(value),
      'Control, format and unassigned characters and lone surrogates are not allowed',
    );

/** A display name: at least one character, in NFC, without space at either end. */
export const label = (max: number) =>
  z
    .string()
    .max(max, tooLong(max))
    .normalize('NFC')
    .trim()
    .min(1, 'Expected at least one character')
    .max(max, tooLong(max))
    .refine(
      (value) => !INVISIBLE_BUT_JOINERS.test(value),
      'Control, format and unassigned characters and lone surrogates are not allowed',
    );

/** Text of several lines. */
export const storable = (max: number) =>
  z
    .string()
    .max(max, tooLong(max))
    .refine(
      (value) => !CONTROL_IN_LINES.test(value),
      'Control characters (but tab and line ends) and lone surrogates are not allowed',
    );

/** A part of a name or an id to search for, in NFC as names are. */
export const SearchText = text(256).normalize('NFC');

/** An id that Tally gave something, in lower case as it is stored. */
export const Uuid = z.uuid().toLowerCase();

/** A cursor: the position at which a page ended. */
export const Cursor = text(10_000);

/** A UTF-16 unit is at most 3 bytes of UTF-8. */
function bytesOf(value: string): number {
  return /^[\x20-\x7e]*$/.test(value) ? value.length : new TextEncoder().encode(value).length;
}
