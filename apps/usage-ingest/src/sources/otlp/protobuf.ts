import { TallyError } from '@tally/contracts';
import type { AttributeNames, Attributes, Span } from './span.ts';

/** Yields the spans of an ExportTraceServiceRequest. Throws INVALID_INPUT for other bytes; skips unknown fields. */
export function* spansOfProtobuf(body: Buffer, names: AttributeNames): Generator<Span> {
  const requests = new Fields().of(body, 0, body.length);
  while (requests.next()) {
    if (requests.field !== 1 || requests.type !== BYTES) continue;
    const { from, to } = requests;
    let resource: Attributes = NONE;
    const parts = new Fields().of(body, from, to);
    while (parts.next())
      if (parts.field === 1 && parts.type === BYTES) resource = attributesOf(body, parts.from, parts.to, names);
    const scopes = new Fields().of(body, from, to);
    while (scopes.next()) {
      if (scopes.field !== 2 || scopes.type !== BYTES) continue;
      const shared = { scope: scopeName(body, scopes.from, scopes.to), resource, names };
      const spans = new Fields().of(body, scopes.from, scopes.to);
      while (spans.next())
        if (spans.field === 2 && spans.type === BYTES) yield spanOf(body, spans.from, spans.to, shared);
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

const NONE: Attributes = [];
const NO_BYTES = Buffer.alloc(0);
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/** The fields of a message, one after the other: a span has some hundred, so nothing is allocated for each. */
class Fields {
  field = 0;
  type = 0;
  /** The bytes of the field, or those of its number. */
  from = 0;
  to = 0;
  private body: Buffer = NO_BYTES;
  private end = 0;

  /** Begins with the fields of another message. */
  of(body: Buffer, start: number, end: number): this {
    this.body = body;
    this.to = start;
    this.end = end;
    return this;
  }

  /** Moves to the next field; false at the end. */
  next(): boolean {
    const { body, end } = this;
    if (this.to >= end) return false;
    const tag = varint(body, this.to, end);
    this.field = Math.floor(tag / 8);
    this.type = tag % 8;
    if (this.type === BYTES) {
      const length = varint(body, afterVarint, end);
      this.from = afterVarint;
      this.to = afterVarint + length;
    } else {
      this.from = afterVarint;
      if (this.type === VARINT) this.to = endOfVarint(body, this.from, end);
      else if (this.type === FIXED64) this.to = this.from + 8;
      else if (this.type === FIXED32) this.to = this.from + 4;
      else throw unreadable();
    }
    if (this.field === 0 || this.to > end) throw unreadable();
    return true;
  }
}

/** Used again for each message of their kind: none of them contains another of its kind. */
const [ofSpan, ofStatus, ofAttribute, ofValue] = [new Fields(), new Fields(), new Fields(), new Fields()];

/** Returns the name of the scope of ScopeSpans. */
function scopeName(body: Buffer, start: number, end: number): string {
  let name = '';
  const parts = new Fields().of(body, start, end);
  while (parts.next()) {
    if (parts.field !== 1 || parts.type !== BYTES) continue;
    const fields = new Fields().of(body, parts.from, parts.to);
    while (fields.next())
      if (fields.field === 1 && fields.type === BYTES) name = body.toString('utf8', fields.from, fields.to);
  }
  return name;
}

/** What the spans of a scope share: one object for all of them. */
type Shared = { scope: string; resource: Attributes; names: AttributeNames };

function spanOf(body: Buffer, start: number, end: number, { scope, resource, names }: Shared): Span {
  const attributes = names.none();
  const span = { traceId: '', spanId: '', parentId: '', scope, start: 0, failed: false, attributes, resource };
  const fields = ofSpan.of(body, start, end);
  while (fields.next()) {
    const { field, type, from, to } = fields;
    if (type === BYTES) {
      if (field === 9) addAttribute(attributes, body, from, to, names);
      else if (field === 1) span.traceId = body.toString('hex', from, to);
      else if (field === 2) span.spanId = body.toString('hex', from, to);
      else if (field === 4) span.parentId = body.toString('hex', from, to);
      else if (field === 15) span.failed = isError(body, from, to);
    } else if (field === 7 && type === FIXED64) span.start = millisecondsAt(body, from);
  }
  return span;
}

/** Returns nanoseconds of 64 bits as whole milliseconds, exactly: 2^32 ns are 4294 ms and 967,296 ns. */
function millisecondsAt(body: Buffer, from: number): number {
  const [low, high] = [body.readUInt32LE(from), body.readUInt32LE(from + 4)];
  return high * 4_294 + Math.floor((high * 967_296 + low) / 1_000_000);
}

function isError(body: Buffer, start: number, end: number): boolean {
  let code = 0;
  const fields = ofStatus.of(body, start, end);
  while (fields.next()) if (fields.field === 3 && fields.type === VARINT) code = varint(body, fields.from, fields.to);
  return code === 2;
}

function attributesOf(body: Buffer, start: number, end: number, names: AttributeNames): Attributes {
  const attributes = names.none();
  const fields = new Fields().of(body, start, end);
  while (fields.next())
    if (fields.field === 1 && fields.type === BYTES) addAttribute(attributes, body, fields.from, fields.to, names);
  return attributes;
}

function addAttribute(
  attributes: (string | undefined)[],
  body: Buffer,
  start: number,
  end: number,
  names: AttributeNames,
) {
  let index = -1;
  let value: string | undefined;
  const fields = ofAttribute.of(body, start, end);
  while (fields.next()) {
    const { field, type, from, to } = fields;
    if (type !== BYTES) continue;
    if (field === 1) {
      index = names.indexOfBytes(body, from, to);
      if (index < 0) return;
    } else if (field === 2) value = textOfValue(body, from, to);
  }
  // A value before its name was decoded for nothing.
  if (index >= 0 && value !== undefined) attributes[index] = value;
}

/** Returns an AnyValue as text; undefined for lists, maps and bytes. */
function textOfValue(body: Buffer, start: number, end: number): string | undefined {
  let value: string | undefined;
  const fields = ofValue.of(body, start, end);
  while (fields.next()) {
    const { field, type, from, to } = fields;
    if (field === 1 && type === BYTES) value = body.toString('utf8', from, to);
    else if (field === 2 && type === VARINT) value = body[from] === 0 ? 'false' : 'true';
    else if (field === 3 && type === VARINT) value = String(int64(body, from, to));
    else if (field === 4 && type === FIXED64) value = String(body.readDoubleLE(from));
    else value = undefined;
  }
  return value;
}

/** The end of the number that `varint` decoded last. */
let afterVarint = 0;

/** Decodes a number below 2^53 and sets `afterVarint`; larger ones are no tag, length or code. */
function varint(body: Buffer, start: number, end: number): number {
  let value = 0;
  let factor = 1;
  for (let at = start; at < end && factor <= 2 ** 49; at++) {
    const byte = body[at]!;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) {
      afterVarint = at + 1;
      return value;
    }
    factor *= 128;
  }
  throw unreadable();
}

function endOfVarint(body: Buffer, start: number, end: number): number {
  for (let at = start; at < end && at < start + 10; at++) if (body[at]! < 0x80) return at + 1;
  throw unreadable();
}

function int64(body: Buffer, from: number, to: number): bigint | number {
  if (to - from <= 7) return varint(body, from, to);
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
