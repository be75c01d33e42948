import { TallyError } from '@tally/contracts';
import type { Attributes, IsWanted, Span } from './span.ts';

/** Yields the spans of an ExportTraceServiceRequest. Throws INVALID_INPUT for other bytes; skips unknown fields. */
export function* spansOfProtobuf(body: Buffer, isWanted: IsWanted): Generator<Span> {
  for (const request of fieldsOf(body, 0, body.length)) {
    if (request.field !== 1 || request.type !== BYTES) continue;
    const { from, to } = request;
    let resource: Attributes = NONE;
    for (const part of fieldsOf(body, from, to)) {
      if (part.field === 1 && part.type === BYTES) resource = attributesOf(body, part.from, part.to, 1, isWanted);
    }
    for (const part of fieldsOf(body, from, to)) {
      if (part.field !== 2 || part.type !== BYTES) continue;
      for (const each of fieldsOf(body, part.from, part.to)) {
        if (each.field === 2 && each.type === BYTES) yield spanOf(body, each.from, each.to, resource, isWanted);
      }
    }
  }
}

/** Encodes an ExportTraceServiceResponse; empty if every span was accepted. */
export function responseOf(rejected: number, message: string): Uint8Array<ArrayBuffer> {
  if (rejected === 0) return new Uint8Array();
  return concat(bytesField(1, concat(varintField(1, rejected), bytesField(2, Buffer.from(message)))));
}

/** Encodes a google.rpc.Status, which answers errors. */
export const statusOf = (code: number, message: string): Uint8Array<ArrayBuffer> =>
  concat(varintField(1, code), bytesField(2, Buffer.from(message)));

const NONE: Attributes = new Map();
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/** A field: `from` and `to` delimit its bytes, or those of its number. */
type Field = { field: number; type: number; from: number; to: number };

/** Yields the fields of a message; the same object each time. */
function* fieldsOf(body: Buffer, start: number, end: number): Generator<Field> {
  const found: Field = { field: 0, type: 0, from: 0, to: 0 };
  for (let at = start; at < end; ) {
    const [tag, next] = varint(body, at, end);
    found.field = Math.floor(tag / 8);
    found.type = tag % 8;
    at = next;
    if (found.type === BYTES) {
      const [length, begin] = varint(body, at, end);
      found.from = begin;
      found.to = begin + length;
    } else {
      found.from = at;
      if (found.type === VARINT) found.to = endOfVarint(body, at, end);
      else if (found.type === FIXED64) found.to = at + 8;
      else if (found.type === FIXED32) found.to = at + 4;
      else throw unreadable();
    }
    if (found.field === 0 || found.to > end) throw unreadable();
    at = found.to;
    yield found;
  }
}

function spanOf(body: Buffer, start: number, end: number, resource: Attributes, isWanted: IsWanted): Span {
  const attributes = new Map<string, string>();
  const span = { traceId: '', spanId: '', start: 0n, failed: false, attributes, resource };
  for (const { field, type, from, to } of fieldsOf(body, start, end)) {
    if (type === BYTES) {
      if (field === 9) addAttribute(attributes, body, from, to, isWanted);
      else if (field === 1) span.traceId = body.toString('hex', from, to);
      else if (field === 2) span.spanId = body.toString('hex', from, to);
      else if (field === 15) span.failed = isError(body, from, to);
    } else if (field === 7 && type === FIXED64) span.start = body.readBigUInt64LE(from);
  }
  return span;
}

function isError(body: Buffer, start: number, end: number): boolean {
  let code = 0;
  for (const { field, type, from, to } of fieldsOf(body, start, end))
    if (field === 3 && type === VARINT) [code] = varint(body, from, to);
  return code === 2;
}

function attributesOf(body: Buffer, start: number, end: number, of: number, isWanted: IsWanted): Attributes {
  const attributes = new Map<string, string>();
  for (const { field, type, from, to } of fieldsOf(body, start, end))
    if (field === of && type === BYTES) addAttribute(attributes, body, from, to, isWanted);
  return attributes;
}

function addAttribute(attributes: Map<string, string>, body: Buffer, start: number, end: number, isWanted: IsWanted) {
  let name: string | undefined;
  let value: string | undefined;
  for (const { field, type, from, to } of fieldsOf(body, start, end)) {
    if (type !== BYTES) continue;
    if (field === 1) {
      name = body.toString('latin1', from, to);
      if (!isWanted(name)) return;
    } else if (field === 2) value = textOfValue(body, from, to);
  }
  // A value before its name was decoded for nothing.
  if (name !== undefined && value !== undefined) attributes.set(name, value);
}

/** Returns an AnyValue as text; undefined for lists, maps and bytes. */
function textOfValue(body: Buffer, start: number, end: number): string | undefined {
  let value: string | undefined;
  for (const { field, type, from, to } of fieldsOf(body, start, end)) {
    if (field === 1 && type === BYTES) value = body.toString('utf8', from, to);
    else if (field === 2 && type === VARINT) value = body[from] === 0 ? 'false' : 'true';
    else if (field === 3 && type === VARINT) value = String(int64(body, from, to));
    else if (field === 4 && type === FIXED64) value = String(body.readDoubleLE(from));
    else value = undefined;
  }
  return value;
}

/** Decodes a number below 2^53 and its end; larger ones are no tag, length or code. */
function varint(body: Buffer, start: number, end: number): [value: number, next: number] {
  let value = 0;
  let factor = 1;
  for (let at = start; at < end && factor <= 2 ** 49; at++) {
    const byte = body[at]!;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return [value, at + 1];
    factor *= 128;
  }
  throw unreadable();
}

function endOfVarint(body: Buffer, start: number, end: number): number {
  for (let at = start; at < end && at < start + 10; at++) if (body[at]! < 0x80) return at + 1;
  throw unreadable();
}

function int64(body: Buffer, from: number, to: number): bigint | number {
  if (to - from <= 7) return varint(body, from, to)[0];
  let value = 0n;
  for (let at = to - 1; at >= from; at--) value = (value << 7n) | BigInt(body[at]! & 0x7f);
  return BigInt.asIntN(64, value);
}

function varintBytes(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) + 128);
  }
}

const varintField = (field: number, value: number) => Uint8Array.from([field * 8 + VARINT, ...varintBytes(value)]);

const bytesField = (field: number, bytes: Uint8Array) =>
  Uint8Array.from([field * 8 + BYTES, ...varintBytes(bytes.length), ...bytes]);

const concat = (...parts: Uint8Array[]): Uint8Array<ArrayBuffer> => Uint8Array.from(parts.flatMap((part) => [...part]));

const unreadable = () => new TallyError('INVALID_INPUT', 'The body is not readable as protobuf of OTLP traces.');
