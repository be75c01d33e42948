import { crc32 } from 'node:zlib';

/**
 * One thing written down: L a record (loose), P a batch put, S a seal, D a batch done. On disk: length of the payload
 * and its CRC-32 (4 bytes each, little-endian), then the payload: the kind's letter and the text in UTF-8.
 */
export type Frame = { kind: 'L' | 'P' | 'S' | 'D'; text: string; offset: number; bytes: number };

const HEAD_BYTES = 8;

export function frameOf(kind: Frame['kind'], text: string): Buffer {
  const length = 1 + Buffer.byteLength(text);
  const frame = Buffer.allocUnsafe(HEAD_BYTES + length);
  frame.writeUInt32LE(length, 0);
  frame.write(kind, HEAD_BYTES, 'latin1');
  frame.write(text, HEAD_BYTES + 1);
  frame.writeUInt32LE(crc32(frame.subarray(HEAD_BYTES)), 4);
  return frame;
}

/**
 * Reads frames up to the end or to one that was not finished: its write never returned, so nobody was told that it was
 * taken. A frame whose sum does not agree is passed over and counted as damaged.
 */
export function readFrames(buffer: Buffer): { frames: Frame[]; damagedBytes: number } {
  const frames: Frame[] = [];
  let damagedBytes = 0;
  let offset = 0;
  while (offset + HEAD_BYTES < buffer.length) {
    const length = buffer.readUInt32LE(offset);
    const end = offset + HEAD_BYTES + length;
    if (length === 0 || end > buffer.length) break;
    const payload = buffer.subarray(offset + HEAD_BYTES, end);
    const kind = String.fromCharCode(payload[0]!) as Frame['kind'];
    if (crc32(payload) === buffer.readUInt32LE(offset + 4) && 'LPSD'.includes(kind)) {
      frames.push({ kind, text: payload.toString('utf8', 1), offset, bytes: end - offset });
    } else {
      damagedBytes += end - offset;
    }
    offset = end;
  }
  return { frames, damagedBytes };
}
