import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { assertBuilt } from '@tally/testkit';
import { expect, test } from 'vitest';
import { openSpool } from './spool.ts';

const BUILT = fileURLToPath(new URL('../../dist/export/spool.js', import.meta.url));
const BLOCKS = 64;
/** `ulimit -f` counts blocks of 512 bytes in some shells, and of 1,024 in others. */
const MOST = BLOCKS * 1024;
const CHUNK = 5_000;

/** Appends to a spool until it refuses, in a process whose files may not grow further, and reads what is there. */
const PROGRAM = `
  const { openSpool } = await import(${JSON.stringify(BUILT)});
  // Without a listener the kernel ends the process.
  process.on('SIGXFSZ', () => {});
  const spool = await openSpool();
  let appended = 0;
  let code;
  for (; code === undefined && appended < ${2 * MOST}; ) {
    code = await spool.append(Buffer.alloc(${CHUNK}, 1)).then(() => undefined, (error) => error.code);
    if (code === undefined) appended += ${CHUNK};
  }
  spool.finish();
  let read = 0;
  for (let chunk; (chunk = await spool.read(read)); read += chunk.length) if (chunk.length === 0) break;
  console.log(JSON.stringify({ code, appended, read, bytes: spool.bytes }));
`;

test('a disk that takes only a part of a chunk is an error, and nothing of the chunk is appended', () => {
  assertBuilt('apps/analytics-api');
  const { stdout, stderr } = spawnSync(
    'sh',
    ['-c', `ulimit -f ${BLOCKS} && exec "$0" --input-type=module --eval "$1"`, process.execPath, PROGRAM],
    { encoding: 'utf8' },
  );
  expect(stderr).toBe('');
  const { code, appended, read, bytes } = JSON.parse(stdout);
  expect(code).toBe('UNAVAILABLE');
  expect([read, bytes]).toEqual([appended, appended]);
  expect(appended).toBeLessThanOrEqual(MOST);
});

test('a folder that cannot be written is 503, not an error of the service', async () => {
  const before = process.env.TMPDIR;
  process.env.TMPDIR = '/dev/null/none';
  try {
    await expect(openSpool()).rejects.toMatchObject({ code: 'UNAVAILABLE', details: { retryAfter: 5 } });
  } finally {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  }
});
