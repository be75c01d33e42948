import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readFrames } from './frames.ts';
import { createSpool, type Ref } from './spool.ts';

let home: string;
let directories = 0;
beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), 'tally-spool-'));
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

const newDirectory = () => join(home, String(directories++));
const open = (directory: string, more = {}) => createSpool({ directory, promise: 'record', fsync: 'never', ...more });

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
          const written = files.flatMap((name) => readFrames(readFileSync(join(directory, name))).frames);
          const next = open(directory);
          const left = [...next.left.records, ...next.left.batches.flatMap((ref) => next.read(ref).split(' '))];
          next.close();
          // Nothing twice, and all there that was written whole and not acknowledged.
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

  test('a damaged frame is passed over, told of, and its file kept', () => {
    const directory = newDirectory();
    const spool = open(directory);
    for (const text of ['one', 'two', 'three']) spool.log(text);
    spool.close();
    const [name] = readdirSync(directory).filter((each) => each.endsWith('.log'));
    const path = join(directory, name!);
    const bytes = readFileSync(path);
    bytes[bytes.indexOf('two')]! ^= 1;
    writeFileSync(path, bytes);
    const next = open(directory);
    expect(next.left.records).toEqual(['one', 'three']);
    expect(next.damagedBytes).toBe(12);
    expect(readdirSync(directory)).toContain(`${name}.damaged`);
    next.close();
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
