import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { type Frame, frameOf, readFrames } from './frames.ts';
import { takeLock } from './lock.ts';

/**
 * What a spool promises of a record that was taken:
 * - `record`: it is in the file before `record()` returns. A killed process (SIGKILL, out of memory) loses nothing.
 * - `batch`: it is in the file when its batch is made, at most `lingerMs` later. A killed process loses at most what
 *   was recorded since; `process.exit()` loses nothing.
 * - `overflow`: the file takes only what the memory queue has no room for, and what `close` or `process.exit()` leaves
 *   unsent. A killed process loses what was in memory.
 */
export type SpoolPromise = 'record' | 'batch' | 'overflow';

/**
 * What the machine's own crash (power, kernel) costs beyond that:
 * - `batch`: the file is synced before a batch is sent. What was recorded since the last sync may be lost, nothing is
 *   counted twice.
 * - `record`: with promise `record`, also before each `record()` returns: nothing is lost; a record costs what a sync
 *   costs, milliseconds.
 * - `never`: the kernel decides. What it had not written is lost; with promise `record` a batch whose sums were sent but
 *   not yet written may be counted twice.
 */
export type Fsync = 'batch' | 'record' | 'never';

export type SpoolOptions = {
  /** A directory for this process alone; made where it is missing. */
  directory: string;
  /** Default `batch`. */
  promise?: SpoolPromise;
  /** Default `batch`. */
  fsync?: Fsync;
  /** Where the spool counts as full, default 256 MiB; one seal (what is open at a moment) may pass it. */
  maxBytes?: number;
  /** The size of one file, default 8 MiB; a file goes when all in it was acknowledged. */
  segmentBytes?: number;
};

/** Where a batch is in the files. */
export type Ref = { readonly segment: number; readonly offset: number; readonly bytes: number };

/** A place in the log; records before it are covered by sealed batches. */
export type Position = { readonly segment: number; readonly offset: number };

export type Spool = {
  readonly promise: SpoolPromise;
  readonly fsync: Fsync;
  /** What the last life left: batches in the order they were made, and the text of records not in any batch. */
  readonly left: { batches: Ref[]; records: string[] };
  /** Bytes of a damaged file that could not be read; the file is kept beside the others as `*.damaged`. */
  readonly damagedBytes: number;
  readonly bytes: number;
  readonly full: boolean;
  /** True when as much was logged since the last seal as one file holds. */
  readonly wantsSeal: boolean;
  /** Writes a record down. Throws where the disk refuses; nothing of it is then in the log. */
  log(text: string): void;
  position(): Position;
  /** Writes a batch that counts only from `seal` on. */
  put(text: string): Ref;
  /** Makes the last `batches` put count, in place of all records logged before `covered`. */
  seal(batches: number, covered: Position): void;
  /** Resolves when all that was written survives the machine's crash, as far as `fsync` asks for it. */
  sync(): Promise<void>;
  syncNow(): void;
  read(ref: Ref): string;
  /** The batch was acknowledged. Not being able to write this down costs only a repeat that Tally drops. */
  done(ref: Ref): void;
  close(): void;
};

type Segment = { id: number; path: string; file: number; bytes: number; waiting: number; lastLoose: number };

const MIB = 1024 * 1024;
/** A sign of life for other machines; well below what the lock takes for death. */
const HEARTBEAT_MS = 5_000;
const NAME = /^spool-1-(\d{10})\.log$/;

/**
 * Opens a spool on a directory: append-only files of frames (length, CRC-32, text). Throws where another living
 * process holds the directory. Reads what the last life left, which takes about a second per 256 MiB.
 */
export function createSpool(options: SpoolOptions): Spool {
  const { directory, promise = 'batch', fsync = 'batch', maxBytes = 256 * MIB } = options;
  const segmentBytes = Math.min(options.segmentBytes ?? 8 * MIB, maxBytes / 4);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const lock = takeLock(directory);
  const segments: Segment[] = [];
  let covered: Position = { segment: 0, offset: 0 };
  let bytes = 0;
  let looseBytes = 0;
  let damagedBytes = 0;
  let closed = false;
  let taken = false;
  // Files written since the last sync: a batch may begin in one and be sealed in the next.
  const dirty = new Set<Segment>();
  const left: Spool['left'] = { batches: [], records: [] };

  const heartbeat = setInterval(() => {
    taken ||= !lock.renew();
  }, HEARTBEAT_MS);
  heartbeat.unref();

  try {
    recover();
    begin();
  } catch (error) {
    clearInterval(heartbeat);
    for (const { file } of segments) closeSync(file);
    lock.release();
    throw error;
  }

  function recover(): void {
    const ids = readdirSync(directory)
      .map((name) => NAME.exec(name)?.[1])
      .filter((id) => id !== undefined)
      .map(Number)
      .sort((a, b) => a - b);
    let unsealed: Ref[] = [];
    const waiting = new Map<string, Ref>();
    for (const id of ids) {
      const segment = openSegment(id);
      const found = readFrames(readAll(segment));
      if (found.damagedBytes > 0) keepDamaged(segment, found.damagedBytes);
      for (const frame of found.frames) {
        const ref = { segment: id, offset: frame.offset, bytes: frame.bytes };
        if (frame.kind === 'L') segment.lastLoose = frame.offset;
        else if (frame.kind === 'P') unsealed.push(ref);
        else if (frame.kind === 'S') {
          const [batches, coveredSegment, coveredOffset] = numbersOf(frame);
          for (const each of batches === 0 ? [] : unsealed.slice(-batches!)) waiting.set(nameOf(each), each);
          unsealed = [];
          covered = { segment: coveredSegment!, offset: coveredOffset! };
        } else {
          const [doneSegment, doneOffset] = numbersOf(frame);
          waiting.delete(nameOf({ segment: doneSegment!, offset: doneOffset! }));
        }
      }
    }
    left.batches = [...waiting.values()];
    for (const { segment } of left.batches) segments.find(({ id }) => id === segment)!.waiting++;
    // Only now is it known which records a seal covers; their batches are in `left.batches` or done.
    for (const segment of segments) {
      if (segment.lastLoose < 0 || isCovered(segment, segment.lastLoose)) continue;
      for (const frame of readFrames(readAll(segment)).frames) {
        if (frame.kind !== 'L' || isCovered(segment, frame.offset)) continue;
        left.records.push(frame.text);
        looseBytes += frame.bytes;
      }
    }
    sweep();
  }

  function openSegment(id: number): Segment {
    const path = join(directory, `spool-1-${String(id).padStart(10, '0')}.log`);
    const file = openSync(path, existsSync(path) ? 'r+' : 'wx+', 0o600);
    const segment = { id, path, file, bytes: fstatSync(file).size, waiting: 0, lastLoose: -1 };
    segments.push(segment);
    bytes += segment.bytes;
    return segment;
  }

  function keepDamaged({ path }: Segment, count: number): void {
    damagedBytes += count;
    if (!existsSync(`${path}.damaged`)) copyFileSync(path, `${path}.damaged`, constants.COPYFILE_EXCL);
  }

  function begin(): Segment {
    const segment = openSegment((segments.at(-1)?.id ?? covered.segment) + 1);
    if (fsync !== 'never') syncDirectory(directory);
    return segment;
  }

  function current(): Segment {
    const last = segments.at(-1)!;
    return last.bytes < segmentBytes ? last : begin();
  }

  function isCovered(segment: Segment, offset: number): boolean {
    return segment.id < covered.segment || (segment.id === covered.segment && offset < covered.offset);
  }

  function isNeeded(segment: Segment): boolean {
    return segment.waiting > 0 || (segment.lastLoose >= 0 && !isCovered(segment, segment.lastLoose));
  }

  /** Removes files from the oldest on, while nothing in them is needed any more; never the one written to. */
  function sweep(): void {
    const last = segments.at(-1);
    if (last && last.bytes > segmentBytes / 8 && segments.every((segment) => !isNeeded(segment))) begin();
    while (segments.length > 1) {
      const oldest = segments[0]!;
      if (isNeeded(oldest)) return;
      segments.shift();
      dirty.delete(oldest);
      bytes -= oldest.bytes;
      closeSync(oldest.file);
      unlinkSync(oldest.path);
    }
  }

  function append(kind: Frame['kind'], text: string): Ref {
    if (closed) throw new Error('The spool is closed.');
    if (taken) throw new Error(`Another process took the spool ${directory}.`);
    const segment = current();
    const frame = frameOf(kind, text);
    const offset = segment.bytes;
    try {
      for (let written = 0; written < frame.length; ) {
        written += writeSync(segment.file, frame, written, frame.length - written, offset + written);
      }
    } catch (error) {
      // Half a frame must not stay before whole ones.
      ftruncateSync(segment.file, offset);
      throw error;
    }
    segment.bytes += frame.length;
    bytes += frame.length;
    dirty.add(segment);
    return { segment: segment.id, offset, bytes: frame.length };
  }

  function position(): Position {
    const last = segments.at(-1)!;
    return { segment: last.id, offset: last.bytes };
  }

  return {
    promise,
    fsync,
    left,
    get damagedBytes() {
      return damagedBytes;
    },
    get bytes() {
      return bytes;
    },
    get full() {
      // A seal writes again, merged, what was logged: there must be room for it.
      return bytes + looseBytes >= maxBytes;
    },
    get wantsSeal() {
      return looseBytes >= segmentBytes;
    },
    log(text) {
      const ref = append('L', text);
      const segment = segments.at(-1)!;
      segment.lastLoose = ref.offset;
      looseBytes += ref.bytes;
      if (fsync === 'record') fdatasyncSync(segment.file);
    },
    position,
    put(text) {
      const ref = append('P', text);
      segments.at(-1)!.waiting++;
      return ref;
    },
    seal(batches, upTo) {
      append('S', `${batches} ${upTo.segment} ${upTo.offset}`);
      covered = upTo;
      looseBytes = 0;
      sweep();
    },
    async sync() {
      if (fsync === 'never') return;
      for (const segment of dirty) {
        dirty.delete(segment);
        await new Promise<void>((resolve, reject) => {
          fdatasync(segment.file, (error) => {
            if (!error || !segments.includes(segment)) return resolve();
            dirty.add(segment);
            reject(error);
          });
        });
      }
    },
    syncNow() {
      if (fsync === 'never') return;
      for (const { file } of dirty) fdatasyncSync(file);
      dirty.clear();
    },
    read(ref) {
      const segment = segments.find(({ id }) => id === ref.segment)!;
      const buffer = Buffer.allocUnsafe(ref.bytes);
      readSync(segment.file, buffer, 0, ref.bytes, ref.offset);
      const frame = readFrames(buffer).frames[0];
      if (!frame) throw new Error(`A batch in ${segment.path} at ${ref.offset} can no longer be read.`);
      return frame.text;
    },
    done(ref) {
      segments.find(({ id }) => id === ref.segment)!.waiting--;
      try {
        append('D', `${ref.segment} ${ref.offset}`);
        sweep();
      } catch {
        // The next life sends it again, and Tally knows it.
      }
    },
    close() {
      if (closed) return;
      closed = true;
      clearInterval(heartbeat);
      for (const { file } of segments) closeSync(file);
      lock.release();
    },
  };
}

const nameOf = ({ segment, offset }: Position): string => `${segment} ${offset}`;

const numbersOf = (frame: Frame): number[] => frame.text.split(' ').map(Number);

function readAll({ file, bytes }: Segment): Buffer {
  const buffer = Buffer.allocUnsafe(bytes);
  let read = 0;
  while (read < bytes) {
    const got = readSync(file, buffer, read, bytes - read, read);
    if (got === 0) break;
    read += got;
  }
  return buffer.subarray(0, read);
}

/** A file's name is in its directory: without this the machine's crash could lose a whole new file. */
function syncDirectory(directory: string): void {
  const file = openSync(directory, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
