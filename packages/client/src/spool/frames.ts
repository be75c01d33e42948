import { crc32 } from 'node:zlib';

/** The kind of a frame: L a record (loose), P a batch put, S a seal, D a batch done. */
export type Frame = { kind: 'L' | 'P' | 'S' | 'D'; text: string; offset: number; bytes: number };

/**
 * How a file's frames are laid out. All numbers are 4 bytes, little-endian; the payload is the kind's letter and the
 * text in UTF-8. 2, which is written: magic, length of the payload, its CRC-32, CRC-32 of these three, payload. 1, as
 * earlier releases wrote it: length, CRC-32, payload.
 */
export type Format = 1 | 2;

/** 0xff is no byte of any UTF-8 text, so no text looks like a frame. */
const MAGIC = Buffer.from([0xff, 0x54, 0x46, 0x32]);
const HEAD_BYTES = { 1: 8, 2: 16 } as const;
const KINDS = 'LPSD';

/** Returns a frame of format 2. */
export function frameOf(kind: Frame['kind'], text: string): Buffer {
  const head = HEAD_BYTES[2];
  const length = 1 + Buffer.byteLength(text);
  const frame = Buffer.allocUnsafe(head + length);
  MAGIC.copy(frame);
  frame.writeUInt32LE(length, 4);
  frame.write(kind, head, 'latin1');
  frame.write(text, head + 1);
  frame.writeUInt32LE(crc32(frame.subarray(head)), 8);
  frame.writeUInt32LE(crc32(frame.subarray(0, 12)), 12);
  return frame;
}

/**
 * Reads all intact frames of a file. After bytes that are no frame, continues with the next frame, and counts the bytes
 * between as damaged. A frame cut off by the end of the file is not damage: its write never returned, so no caller was
 * told that the record was accepted.
 */
export function readFrames(buffer: Buffer, format: Format): { frames: Frame[]; damagedBytes: number } {
  const frames: Frame[] = [];
  let damagedBytes = 0;
  let offset = 0;
  while (offset < buffer.length) {
    const frame = frameAt(buffer, offset, format) ?? nextFrame(buffer, offset + 1, format);
    if (!frame) {
      if (!isCutOff(buffer, offset, format)) damagedBytes += buffer.length - offset;
      break;
    }
    damagedBytes += frame.offset - offset;
    frames.push(frame);
    offset = frame.offset + frame.bytes;
  }
  return { frames, damagedBytes };
}

/** Returns the length of the payload from an intact head at this position; undefined without one. */
function lengthAt(buffer: Buffer, offset: number, format: Format): number | undefined {
  if (offset + HEAD_BYTES[format] > buffer.length) return undefined;
  if (format === 1) return buffer.readUInt32LE(offset) || undefined;
  const isHead =
    MAGIC.equals(buffer.subarray(offset, offset + 4)) &&
    crc32(buffer.subarray(offset, offset + 12)) === buffer.readUInt32LE(offset + 12);
  return isHead ? buffer.readUInt32LE(offset + 4) : undefined;
}

function frameAt(buffer: Buffer, offset: number, format: Format): Frame | undefined {
  const length = lengthAt(buffer, offset, format);
  const start = offset + HEAD_BYTES[format];
  if (length === undefined || start + length > buffer.length) return undefined;
  const kind = String.fromCharCode(buffer[start]!) as Frame['kind'];
  if (!KINDS.includes(kind)) return undefined;
  const payload = buffer.subarray(start, start + length);
  if (crc32(payload) !== buffer.readUInt32LE(format === 1 ? offset + 4 : offset + 8)) return undefined;
  return { kind, text: payload.toString('utf8', 1), offset, bytes: HEAD_BYTES[format] + length };
}

function nextFrame(buffer: Buffer, from: number, format: Format): Frame | undefined {
  for (let offset = from; offset < buffer.length; offset++) {
    if (format === 2) offset = buffer.indexOf(MAGIC, offset);
    if (offset < 0) return undefined;
    const frame = frameAt(buffer, offset, format);
    if (frame) return frame;
  }
  return undefined;
}

/** Returns true where the rest of the file is the beginning of an intact frame. */
function isCutOff(buffer: Buffer, offset: number, format: Format): boolean {
  const rest = buffer.subarray(offset);
  if (rest.length < HEAD_BYTES[format])
    return format === 1 || rest.subarray(0, 4).equals(MAGIC.subarray(0, Math.min(4, rest.length)));
  const length = lengthAt(buffer, offset, format);
  return length !== undefined && HEAD_BYTES[format] + length > rest.length;
}
