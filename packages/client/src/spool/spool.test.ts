import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Frame, frameOf, readFrames } from './frames.ts';
import { createSpool, type Ref } from './spool.ts';

let home: string;
let directories = 0;
beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), 'tally-spool-'));
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

const newDirectory = () => join(home, String(directories++));
const open = (directory: string, more = {}) => createSpool({ directory, promise: 'record', fsync: 'never', ...more });

test('makes its directory and those above it, or says why it cannot', () => {
  open(join(newDirectory(), 'a', 'b')).close();
  expect(() => open('/dev/null/spool')).toThrow(/ENOTDIR/);
  if (process.platform === 'linux') expect(() => open('/proc/tally/spool')).toThrow(/ENOENT.*\/proc\/tally/);
});

/** A frame in the format of earlier releases: length, CRC-32, payload. */
function oldFrameOf(kind: Frame['kind'], text: string): Buffer {
  const payload = Buffer.from(kind + text);
  const head = Buffer.alloc(8);
  head.writeUInt32LE(payload.length, 0);
  head.writeUInt32LE(crc32(payload), 4);
  return Buffer.concat([head, payload]);
}

describe('frames', () => {
  const frame = fc.record({
    kind: fc.constantFrom(...(['L', 'P', 'S', 'D'] as const)),
    text: fc.oneof(fc.string({ unit: 'binary', maxLength: 60 }), fc.json({ maxDepth: 1 })),
  });
  const asWritten = (frames: { kind: Frame['kind']; text: string }[], format: 1 | 2) => {
    let offset = 0;
    const buffers = frames.map(({ kind, text }) => (format === 2 ? frameOf : oldFrameOf)(kind, text));
    const written = frames.map(({ kind }, at) => {
      const bytes = buffers[at]!.length;
      // A lone surrogate is written as U+FFFD.
      const text = buffers[at]!.toString('utf8', bytes - Buffer.byteLength(frames[at]!.text));
      const of = { kind, text, offset, bytes };
      offset += bytes;
      return of;
    });
    return { written, buffer: Buffer.concat(buffers) };
  };

  test('are all found again but those that a flipped bit hit, and none is invented', () => {
    const flips = fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { maxLength: 12 });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 20 }), flips, (frames, shares) => {
        const { written, buffer } = asWritten(frames, 2);
        const bits = [...new Set(shares.map((share) => Math.floor(share * buffer.length * 8)))];
        for (const bit of buffer.length === 0 ? [] : bits) buffer[bit >> 3]! ^= 1 << (bit & 7);
        const intact = written.filter(
          ({ offset, bytes }) => !bits.some((bit) => bit >> 3 >= offset && bit >> 3 < offset + bytes),
        );
        const found = readFrames(buffer, 2);
        expect(found.frames).toEqual(intact);
        const read = intact.reduce((sum, { bytes }) => sum + bytes, 0);
        expect(found.damagedBytes).toBe(buffer.length - read);
      }),
      { numRuns: 500 },
    );
  });

  test.each([1, 2] as const)(
    'cut off at any byte are all found but the last, which is no damage: format %i',
    (format) => {
      fc.assert(
        fc.property(fc.array(frame, { maxLength: 8 }), fc.double({ min: 0, max: 1, noNaN: true }), (frames, share) => {
          const { written, buffer } = asWritten(frames, format);
          const end = Math.floor(share * buffer.length);
          const whole = written.filter(({ offset, bytes }) => offset + bytes <= end);
          expect(readFrames(buffer.subarray(0, end), format)).toEqual({ frames: whole, damagedBytes: 0 });
        }),
      );
    },
  );

  test('are found behind and before any other bytes', () => {
    const other = fc.uint8Array({ minLength: 1, maxLength: 40 }).map((bytes) => Buffer.from(bytes));
    fc.assert(
      fc.property(frame, other, other, ({ kind, text }, before, after) => {
        const { written, buffer } = asWritten([{ kind, text }], 2);
        const found = readFrames(Buffer.concat([before, buffer, after]), 2);
        expect(found.frames).toMatchObject([{ kind, text: written[0]!.text, offset: before.length }]);
      }),
    );
  });
});

describe('a spool', () => {
  test('cut at any byte, by a crash at any write, leaves each record once: by itself, or in its batch', () => {
    const step = fc.constantFrom('log', 'log', 'log', 'seal', 'torn seal', 'done', 'life');
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 1, maxLength: 40 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (steps, share) => {
          const directory = newDirectory();
          let spool = open(directory);
          let records = 0;
          let loose: string[] = [];
          const waiting: Ref[] = [];
          const settled: string[] = [];
          for (const each of steps) {
            if (each === 'log') {
              spool.log(`r${records}`);
              loose.push(`r${records++}`);
            } else if (each === 'life') {
              spool.close();
              spool = open(directory);
              expect(spool.left.records).toEqual(loose);
              expect(spool.left.batches).toEqual(waiting);
            } else if (each === 'done') {
              const [first] = waiting.splice(0, 1);
              if (!first) continue;
              settled.push(...spool.read(first).split(' '));
              spool.done(first);
            } else if (loose.length > 0) {
              const covered = spool.position();
              const half = loose.length >> 1;
              const texts = [loose.slice(0, half), loose.slice(half)].filter((some) => some.length > 0);
              const refs = texts.map((some) => spool.put(some.join(' ')));
              if (each === 'torn seal') continue;
              spool.seal(refs.length, covered);
              waiting.push(...refs);
              loose = [];
            }
          }
          spool.close();
          // The crash: the newest file ends anywhere.
          const files = readdirSync(directory).filter((name) => name.endsWith('.log'));
          const last = join(directory, files.sort().at(-1)!);
          truncateSync(last, Math.floor(readFileSync(last).length * share));
          const written = files.flatMap((name) => readFrames(readFileSync(join(directory, name)), 2).frames);
          const next = open(directory);
          const left = [...next.left.records, ...next.left.batches.flatMap((ref) => next.read(ref).split(' '))];
          next.close();
          // Nothing twice, and everything that was written whole and not acknowledged.
          expect(new Set(left).size).toBe(left.length);
          const unsettled = written.filter(({ kind, text }) => kind === 'L' && !settled.includes(text));
          expect(left).toEqual(expect.arrayContaining(unsettled.map(({ text }) => text)));
        },
      ),
      { numRuns: 60 },
    );
  });

  test('files go when all in them was acknowledged', () => {
    const directory = newDirectory();
    const spool = open(directory, { segmentBytes: 1000 });
    const refs: Ref[] = [];
    for (let each = 0; each < 50; each++) {
      spool.log('x'.repeat(100));
      const covered = spool.position();
      refs.push(spool.put('y'.repeat(100)));
      spool.seal(1, covered);
    }
    expect(readdirSync(directory).length).toBeGreaterThan(10);
    for (const ref of refs) spool.done(ref);
    expect(readdirSync(directory).length).toBeLessThanOrEqual(3);
    expect(spool.bytes).toBeLessThan(2500);
    spool.close();
  });

  test.each([
    ['this format', frameOf],
    ['the format of earlier releases', oldFrameOf],
  ])('finds all other records where the length of one is damaged, and keeps the file: %s', (_, frameOfFormat) => {
    const directory = newDirectory();
    const texts = Array.from({ length: 100 }, (_, at) => `record ${at}`);
    const frames = texts.map((text) => frameOfFormat('L', text));
    const format = frameOfFormat === frameOf ? 2 : 1;
    const bytes = Buffer.concat(frames);
    const before = frames.slice(0, 10).reduce((sum, frame) => sum + frame.length, 0);
    bytes[before + (format === 2 ? 6 : 2)]! ^= 1;
    mkdirSync(directory);
    const name = `spool-${format}-0000000001.log`;
    writeFileSync(join(directory, name), bytes);
    const spool = open(directory);
    expect(spool.left.records).toEqual(texts.filter((_, at) => at !== 10));
    expect(spool.damagedBytes).toBe(frames[10]!.length);
    expect(readFileSync(join(directory, `${name}.damaged`))).toEqual(bytes);
    spool.close();
  });

  test('reads what an earlier release left, and writes on in this format', () => {
    const directory = newDirectory();
    mkdirSync(directory);
    const old = [oldFrameOf('L', 'a'), oldFrameOf('P', 'batch'), oldFrameOf('S', '1 1 10'), oldFrameOf('L', 'b')];
    writeFileSync(join(directory, 'spool-1-0000000001.log'), Buffer.concat(old));
    const spool = open(directory);
    expect(spool.left.records).toEqual(['b']);
    expect(spool.left.batches.map((ref) => spool.read(ref))).toEqual(['batch']);
    spool.log('c');
    spool.close();
    const next = open(directory);
    expect(next.left.records).toEqual(['b', 'c']);
    expect(next.left.batches).toHaveLength(1);
    expect(next.damagedBytes).toBe(0);
    next.close();
  });

  test('counts a batch once where one copy of its seal is damaged', () => {
    for (const copy of [0, 1]) {
      const directory = newDirectory();
      const spool = open(directory);
      spool.log('a');
      const covered = spool.position();
      spool.put('batch of a');
      spool.seal(1, covered);
      spool.close();
      const path = join(directory, readdirSync(directory).find((each) => each.endsWith('.log'))!);
      const bytes = readFileSync(path);
      const seals = readFrames(bytes, 2).frames.filter(({ kind }) => kind === 'S');
      bytes[seals[copy]!.offset + 17]! ^= 1;
      writeFileSync(path, bytes);
      const next = open(directory);
      expect(next.left.records).toEqual([]);
      expect(next.left.batches.map((ref) => next.read(ref))).toEqual(['batch of a']);
      next.close();
    }
  });

  test('the lock of a process that is gone is taken over, also where its id is in use again', () => {
    const directory = newDirectory();
    open(directory).close();
    const holder = { host: readFileSync('/proc/sys/kernel/hostname', 'utf8').trim(), token: 'x' };
    for (const gone of [
      { pid: 2 ** 22 + 1, started: '1' },
      { pid: process.ppid, started: '1' },
      { pid: process.pid, started: '1' },
    ]) {
      writeFileSync(join(directory, 'lock'), JSON.stringify({ ...holder, ...gone }));
      open(directory).close();
    }
    // Of another machine, with a sign of life a moment ago.
    writeFileSync(join(directory, 'lock'), JSON.stringify({ ...holder, host: 'elsewhere', pid: 1, started: '1' }));
    expect(() => open(directory)).toThrow(/process 1 on elsewhere/);
  });
});
