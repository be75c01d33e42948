import { setImmediate as othersTurn } from 'node:timers/promises';
import { isTallyError, TallyError } from '@tally/contracts';
import { type NUMBER_MARK, parseExactly } from '@tally/service';

type Mark = '' | typeof NUMBER_MARK;

/** An item as it stood in a body, or why it could not be read. */
export type BodyItem = { value: unknown } | { error: TallyError };

const MAX_ITEMS = 10_000;
/** Bytes read before other requests get their turn. */
const BYTES_AT_ONCE = 512 * 1024;
/** Longer texts belong to messages, which are dropped anyway, so they are skipped. */
const LONG_TEXT = 64 * 1024;
/** Parsing more than this at once blocks other requests for over 50 ms. */
const MAX_ITEM_BYTES = 8 * 1024 * 1024;
const [LINE, QUOTE, COMMA, BACKSLASH] = [0x0a, 0x22, 0x2c, 0x5c];
const [OPEN, CLOSE, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];
const SPACE = new Set([0x09, LINE, 0x0d, 0x20]);
const BYTE_ORDER_MARK = Buffer.from('\ufeff');
const UTF8 = new TextDecoder();

/**
 * Reads the items of a body: a JSON array, one object, or one object per line, whatever its content type is. A line
 * that is no JSON rejects itself; throws INVALID_JSON if nothing can be read. Reads items one by one, so that a large
 * body does not block other requests. `mark`: see `parseExactly`.
 */
export async function readItems(body: Buffer, mark: Mark = ''): Promise<BodyItem[]> {
  const start = skipSpace(body, body.subarray(0, 3).equals(BYTE_ORDER_MARK) ? 3 : 0);
  if (start === body.length) throw new TallyError('INVALID_JSON', 'The body is empty.');
  if (body[start] === OPEN) return readAll(elementsOf(body, start), (at) => elementAt(body, at, mark));
  const readLine = (at: Place) => lineAt(body, at, mark);
  const end = body.indexOf(LINE, start);
  const isOneLine = end < 0 || skipSpace(body, end) === body.length;
  // If the first line is complete, the others are items too, and the body need not be tried as one.
  if (!isOneLine && 'value' in readLine({ from: start, to: end })) return readAll(linesOf(body, start), readLine);
  try {
    return [{ value: valueAt(body, { from: start, to: body.length }, mark) }];
  } catch (error) {
    if (isOneLine) throw error;
    return readAll(linesOf(body, start), readLine);
  }
}

type Place = { from: number; to: number };

async function readAll(places: Iterable<Place>, read: (at: Place) => BodyItem): Promise<BodyItem[]> {
  const items: BodyItem[] = [];
  let turn = 0;
  for (const at of places) {
    if (items.length === MAX_ITEMS) throw new TallyError('BATCH_TOO_LARGE', `At most ${MAX_ITEMS} items at once.`);
    if (at.to - turn > BYTES_AT_ONCE) {
      await othersTurn();
      turn = at.to;
    }
    items.push(read(at));
  }
  return items;
}

/**
 * Returns the text of an item without its long texts. Throws BODY_TOO_LARGE if the rest is too large to parse at once.
 */
function textOf(body: Buffer, { from, to }: Place): string {
  if (to - from <= BYTES_AT_ONCE) return UTF8.decode(body.subarray(from, to));
  const item = body.subarray(from, to);
  const parts: Buffer[] = [];
  let copied = 0;
  for (let start = item.indexOf(QUOTE); start >= 0; ) {
    const end = endOfString(item, start);
    if (end - start > LONG_TEXT && end < item.length) {
      parts.push(item.subarray(copied, start + 1));
      copied = end;
    }
    start = item.indexOf(QUOTE, end + 1);
  }
  const rest = Buffer.concat([...parts, item.subarray(copied)]);
  if (rest.length > MAX_ITEM_BYTES)
    throw new TallyError('BODY_TOO_LARGE', `A call has more than ${MAX_ITEM_BYTES} bytes beside its long texts.`, {
      details: { maxBytes: MAX_ITEM_BYTES },
    });
  return UTF8.decode(rest);
}

/** Finds the elements of an array, without parsing them; tracks only strings and depth. */
function* elementsOf(body: Buffer, open: number): Generator<Place> {
  let from = open + 1;
  let depth = 1;
  for (let at = from; at < body.length; at++) {
    const byte = body[at]!;
    if (byte === QUOTE) at = endOfString(body, at);
    else if (byte === OPEN || byte === OPEN_BRACE) depth++;
    else if (byte === CLOSE || byte === CLOSE_BRACE) depth--;
    if (depth > 1 || (depth === 1 && byte !== COMMA)) continue;
    if (depth === 1) {
      yield { from, to: at };
      from = at + 1;
      continue;
    }
    const isEmpty = from === open + 1 && skipSpace(body, from) === at;
    if (!isEmpty) yield { from, to: at };
    if (byte === CLOSE && skipSpace(body, at + 1) === body.length) return;
    break;
  }
  throw unreadable();
}

function* linesOf(body: Buffer, start: number): Generator<Place> {
  for (let from = start; from < body.length; ) {
    const end = body.indexOf(LINE, from);
    const to = end < 0 ? body.length : end;
    if (skipSpace(body, from) < to) yield { from, to };
    from = to + 1;
  }
}

/** Throws INVALID_JSON and BODY_TOO_LARGE. */
function valueAt(body: Buffer, at: Place, mark: Mark): unknown {
  const text = textOf(body, at);
  try {
    return parseExactly(text, mark);
  } catch (error) {
    throw unreadable(error);
  }
}

/** An element that is too large rejects itself; one that is no JSON makes the array unreadable. */
function elementAt(body: Buffer, at: Place, mark: Mark): BodyItem {
  try {
    return { value: valueAt(body, at, mark) };
  } catch (error) {
    if (isTallyError(error) && error.code === 'BODY_TOO_LARGE') return { error };
    throw error;
  }
}

/** A line that is too large, or no JSON, rejects itself. */
function lineAt(body: Buffer, at: Place, mark: Mark): BodyItem {
  try {
    return elementAt(body, at, mark);
  } catch (error) {
    return { error: new TallyError('INVALID_ENTRY', 'The line is not valid JSON.', { cause: error }) };
  }
}

/** The index of a string's closing quote, or the end of the body. */
function endOfString(body: Buffer, start: number): number {
  for (let quote = body.indexOf(QUOTE, start + 1); quote >= 0; quote = body.indexOf(QUOTE, quote + 1)) {
    let backslashes = 0;
    while (body[quote - 1 - backslashes] === BACKSLASH) backslashes++;
    if (backslashes % 2 === 0) return quote;
  }
  return body.length;
}

function skipSpace(body: Buffer, from: number): number {
  let at = from;
  while (at < body.length && SPACE.has(body[at]!)) at++;
  return at;
}

const unreadable = (cause?: unknown) =>
  new TallyError('INVALID_JSON', 'The body is not valid JSON.', cause === undefined ? {} : { cause });
