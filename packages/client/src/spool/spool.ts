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
import { dirname, join } from 'node:path';
import { type Format, type Frame, frameOf, readFrames } from './frames.ts';
import { takeLock } from './lock.ts';

/**
 * When a record that was taken is in the file:
 * - `record`: before `record()` returns. A killed process (SIGKILL, out of memory) loses nothing.
 * - `batch`: when its batch is made, at most `lingerMs` later. A killed process loses at most what was recorded since
 *   then; `process.exit()` loses nothing.
 * - `overflow`: only when the memory queue has no room, or when `close` or `process.exit()` leaves it unsent. A killed
 *   process loses what was in memory.
 */
export type SpoolPromise = 'record' | 'batch' | 'overflow';

/**
 * When the file is synced to disk, so that a crash of the machine (power, kernel) does not lose it:
 * - `batch`: before a batch is sent. What was recorded since the last sync may be lost; nothing is counted twice.
 * - `record`: with promise `record`, also before each `record()` returns. Nothing is lost, but each record costs a sync
 *   (milliseconds).
 * - `never`: when the kernel decides. What it had not written is lost. With promise `record`, a batch that was sent but
 *   not yet written may be counted twice.
 */
export type Fsync = 'batch' | 'record' | 'never';

export type SpoolOptions = {
  /** A directory that only this process uses; created if missing. */
  directory: string;
  /** Default `batch`. */
  promise?: SpoolPromise;
  /** Default `batch`. */
  fsync?: Fsync;
  /** The size at which the spool is full, default 256 MiB; one seal may exceed it. */
  maxBytes?: number;
  /** The size of one file, default 8 MiB. A file is deleted once everything in it was acknowledged. */
  segmentBytes?: number;
};

/** The position of a batch in the files. */
export type Ref = { readonly segment: number; readonly offset: number; readonly bytes: number };

/** A position in the log; records before it are covered by sealed batches. */
export type Position = { readonly segment: number; readonly offset: number };

export type Spool = {
  readonly promise: SpoolPromise;
  readonly fsync: Fsync;
  /**
   * The data of the previous process: batches in the order they were made, and the text of records not in any batch.
   */
  readonly left: { batches: Ref[]; records: string[] };
  /** Bytes that belong to no intact frame. A copy of each damaged file is kept as `*.damaged`. */
  readonly damagedBytes: number;
  readonly bytes: number;
  readonly full: boolean;
  /** True once the records logged since the last seal fill one file. */
  readonly wantsSeal: boolean;
  /** Writes a record. Throws if the disk refuses; the log then contains nothing of it. */
  log(text: string): void;
  position(): Position;
  /** Writes a batch that counts only once `seal` is called. */
  put(text: string): Ref;
  /** Makes the last `batches` batches count, in place of all records logged before `covered`. */
  seal(batches: number, covered: Position): void;
  /** Resolves once everything written survives a crash of the machine, as far as `fsync` requires. */
  sync(): Promise<void>;
  syncNow(): void;
  read(ref: Ref): string;
  /** Records that the batch was acknowledged. If this cannot be written, the batch is sent again and Tally drops it. */
  done(ref: Ref): void;
  close(): void;
};

type Segment = {
  id: number;
  format: Format;
  path: string;
  file: number;
  bytes: number;
  waiting: number;
  lastLoose: number;
};

const MIB = 1024 * 1024;
/** How often the lock is renewed for other machines; well below the age at which they take it over. */
const HEARTBEAT_MS = 5_000;
const NAME = /^spool-([12])-(\d{10})\.log$/;

/**
 * Opens a spool on a directory: append-only files of frames with checksums. Throws if another living process holds the
 * directory. Reads the previous process's data, which takes about a second per 256 MiB.
 */
export function createSpool(options: SpoolOptions): Spool {
  const { directory, promise = 'batch', fsync = 'batch', maxBytes = 256 * MIB } = options;
  const segmentBytes = Math.min(options.segmentBytes ?? 8 * MIB, maxBytes / 4);
  makeDirectory(directory);
  const lock = takeLock(directory);
  const segments: Segment[] = [];
  let covered: Position = { segment: 0, offset: 0 };
  let bytes = 0;
  let looseBytes = 0;
  let damagedBytes = 0;
  let closed = false;
  let taken = false;
  /** Batches written since the last seal. */
  let unsealed: Ref[] = [];
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
    const files = readdirSync(directory)
      .flatMap((name) => {
        const [matched, format, id] = NAME.exec(name) ?? [];
        return matched === undefined ? [] : [{ id: Number(id), format: Number(format) as Format }];
      })
      .sort((a, b) => a.id - b.id);
    let put: Ref[] = [];
    const waiting = new Map<string, Ref>();
    for (const { id, format } of files) {
      const segment = openSegment(id, format);
      const found = readFrames(readAll(segment), format);
      if (found.damagedBytes > 0) keepDamaged(segment, found.damagedBytes);
      for (const frame of found.frames) {
        const ref = { segment: id, offset: frame.offset, bytes: frame.bytes };
        if (frame.kind === 'L') segment.lastLoose = frame.offset;
        else if (frame.kind === 'P') put.push(ref);
        else if (frame.kind === 'S') {
          const [batches, coveredSegment, coveredOffset, firstSegment, firstOffset] = numbersOf(frame);
          const first = firstSegment === undefined ? undefined : { segment: firstSegment, offset: firstOffset! };
          // A damaged batch is not replaced by one that an earlier process wrote and never sealed.
          const sealed = first
            ? put.filter((each) => !isBefore(each, first))
            : put.slice(Math.max(0, put.length - batches!));
          for (const each of sealed) waiting.set(nameOf(each), each);
          put = [];
          covered = { segment: coveredSegment!, offset: coveredOffset! };
        } else {
          const [doneSegment, doneOffset] = numbersOf(frame);
          waiting.delete(nameOf({ segment: doneSegment!, offset: doneOffset! }));
        }
      }
    }
    left.batches = [...waiting.values()];
    for (const { segment } of left.batches) segments.find(({ id }) => id === segment)!.waiting++;
    // Seals determine which records are covered: those are in `left.batches` or done.
    for (const segment of segments) {
      if (segment.lastLoose < 0 || isCovered(segment, segment.lastLoose)) continue;
      for (const frame of readFrames(readAll(segment), segment.format).frames) {
        if (frame.kind !== 'L' || isCovered(segment, frame.offset)) continue;
        left.records.push(frame.text);
        looseBytes += frame.bytes;
      }
    }
    sweep();
  }

  function openSegment(id: number, format: Format): Segment {
    const path = join(directory, `spool-${format}-${String(id).padStart(10, '0')}.log`);
    const file = openSync(path, existsSync(path) ? 'r+' : 'wx+', 0o600);
    const segment = { id, format, path, file, bytes: fstatSync(file).size, waiting: 0, lastLoose: -1 };
    segments.push(segment);
    bytes += segment.bytes;
    return segment;
  }

  function keepDamaged({ path }: Segment, count: number): void {
    damagedBytes += count;
    if (!existsSync(`${path}.damaged`)) copyFileSync(path, `${path}.damaged`, constants.COPYFILE_EXCL);
  }

  function begin(): Segment {
    const segment = openSegment((segments.at(-1)?.id ?? covered.segment) + 1, 2);
    if (fsync !== 'never') syncDirectory(directory);
    return segment;
  }

  function current(): Segment {
    const last = segments.at(-1)!;
    return last.bytes < segmentBytes ? last : begin();
  }

  function isCovered(segment: Segment, offset: number): boolean {
    return isBefore({ segment: segment.id, offset }, covered);
  }

  function isNeeded(segment: Segment): boolean {
    return segment.waiting > 0 || (segment.lastLoose >= 0 && !isCovered(segment, segment.lastLoose));
  }

  /** Deletes the oldest files while nothing in them is needed any more; never the one being written to. */
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
      // A partial frame must not precede complete ones.
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
      // A seal writes logged records again, merged: it must fit.
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
      unsealed.push(ref);
      return ref;
    },
    seal(batches, upTo) {
      const first = batches > 0 ? unsealed.at(-batches)! : position();
      const seal = `${batches} ${nameOf(upTo)} ${nameOf(first)}`;
      append('S', seal);
      try {
        // If its seal were damaged, a batch would count again as its records, so there are two copies.
        append('S', seal);
      } catch {
        // The first copy is written.
      }
      covered = upTo;
      unsealed = [];
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
      const frame = readFrames(buffer, segment.format).frames[0];
      if (!frame) throw new Error(`A batch in ${segment.path} at ${ref.offset} can no longer be read.`);
      return frame.text;
    },
    done(ref) {
      segments.find(({ id }) => id === ref.segment)!.waiting--;
      try {
        append('D', `${ref.segment} ${ref.offset}`);
        sweep();
      } catch {
        // The next process sends it again, and Tally drops the repeat.
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

const isBefore = (a: Position, b: Position): boolean =>
  a.segment < b.segment || (a.segment === b.segment && a.offset < b.offset);

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

/**
 * Makes a directory and those above it: `mkdirSync` with `recursive` never returns where making one answers ENOENT, as
 * in /proc.
 */
function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    const above = dirname(directory);
    if (code !== 'ENOENT' || above === directory || existsSync(above)) throw error;
    makeDirectory(above);
    makeDirectory(directory);
  }
}

/** Syncs a directory: without this a crash of the machine could lose a new file as a whole. */
function syncDirectory(directory: string): void {
  const file = openSync(directory, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
