import { randomBytes } from 'node:crypto';
import fs, { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gunzipSync } from 'node:zlib';
import { GetObjectCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import S3rver from 's3rver';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { isFilesLocation, openFiles } from './files.ts';

const BUCKET = 'tally';
let folder: string;
let store: S3rver;
let client: S3Client;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-files-'));
  store = new S3rver({
    ...{ address: '127.0.0.1', port: 0, silent: true, directory: join(folder, 'store') },
    configureBuckets: [{ name: BUCKET, configs: [] }],
  });
  const { port } = await store.run();
  vi.stubEnv('AWS_ENDPOINT_URL_S3', `http://127.0.0.1:${port}`);
  vi.stubEnv('AWS_ACCESS_KEY_ID', 'S3RVER');
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'S3RVER');
  client = new S3Client({ forcePathStyle: true, region: 'us-east-1' });
});
afterAll(async () => {
  client.destroy();
  await store.close();
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

const PLACES = {
  'a folder': {
    location: () => join(folder, 'exports'),
    read: (name: string) => readFile(join(folder, 'exports', name)),
    names: async () =>
      (await readdir(join(folder, 'exports'), { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile())
        .map(({ name }) => name),
  },
  'an S3-compatible store': {
    location: () => `s3://${BUCKET}/exports/`,
    async read(name: string) {
      const { Body } = await client.send(new GetObjectCommand({ Bucket: BUCKET, Key: `exports/${name}` }));
      return Buffer.from(await Body!.transformToByteArray());
    },
    async names() {
      const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: BUCKET, Prefix: 'exports/' }));
      return Contents.map(({ Key }) => Key!.split('/').at(-1)!);
    },
  },
};

test('a folder loses what a killed process left of a file, a day later, and nothing else', async () => {
  const place = join(folder, 'left');
  await mkdir(place);
  const draft = (name: string) => `${name}.7b1cf16e-0719-4aff-a500-59d4327162ca.part`;
  const old = [draft('2026-11-01.ndjson.gz'), 'mine.part', '2026-10-31.ndjson.gz'];
  for (const name of [...old, draft('2026-11-03.ndjson.gz')]) await writeFile(join(place, name), 'half');
  const before = new Date(Date.now() - 2 * 86_400_000);
  for (const name of old) await utimes(join(place, name), before, before);
  await openFiles(place).write('2026-11-02.ndjson.gz', Readable.from(['a']));
  expect((await readdir(place)).sort()).toEqual([
    '2026-10-31.ndjson.gz',
    '2026-11-02.ndjson.gz',
    draft('2026-11-03.ndjson.gz'),
    'mine.part',
  ]);
});

describe.each(Object.entries(PLACES))('%s', (_, { location, read, names }) => {
  async function* lines(...all: string[]) {
    yield* all;
  }
  async function* broken() {
    yield 'half of a day\n';
    throw new Error('Postgres went away');
  }

  test('keeps a file under its name, the same bytes when written again, and replaces it', async () => {
    const files = openFiles(location());
    await files.write('usage_daily/2026-11-01.csv.gz', lines('a\n', 'b\n'));
    const first = await read('usage_daily/2026-11-01.csv.gz');
    expect(gunzipSync(first).toString()).toBe('a\nb\n');
    await files.write('usage_daily/2026-11-01.csv.gz', lines('a\n', 'b\n'));
    expect(await read('usage_daily/2026-11-01.csv.gz')).toEqual(first);
    await files.write('usage_daily/2026-11-01.csv.gz', lines('c\n'));
    expect(gunzipSync(await read('usage_daily/2026-11-01.csv.gz')).toString()).toBe('c\n');
    await files.write('empty.gz', lines());
    expect(gunzipSync(await read('empty.gz')).toString()).toBe('');
  });

  test('keeps bytes as they are under a name without .gz', async () => {
    async function* bytes() {
      yield new Uint8Array([1, 2]);
      yield new Uint8Array([255]);
    }
    await openFiles(location()).write('day.parquet', bytes());
    expect([...(await read('day.parquet'))]).toEqual([1, 2, 255]);
  });

  test('keeps what it had when the source breaks, and nothing of the broken file', async () => {
    const files = openFiles(location());
    await files.write('kept.gz', lines('whole\n'));
    await expect(files.write('kept.gz', broken())).rejects.toThrow('Postgres went away');
    await expect(files.write('new.gz', broken())).rejects.toThrow('Postgres went away');
    expect(gunzipSync(await read('kept.gz')).toString()).toBe('whole\n');
    expect((await names()).filter((name) => /new|part/.test(name))).toEqual([]);
  });

  test('keeps files that are larger than one part of an upload', async () => {
    const chunks = Array.from({ length: 3 }, () => randomBytes(3 * 2 ** 20).toString('base64'));
    await openFiles(location()).write('large.gz', lines(...chunks));
    expect(gunzipSync(await read('large.gz')).equals(Buffer.from(chunks.join('')))).toBe(true);
  });
});

test('a store that cannot be written to is an error, and ends the reading of the source', async () => {
  let closed = false;
  async function* endless() {
    try {
      for (;;) yield randomBytes(2 ** 20).toString('base64');
    } finally {
      closed = true;
    }
  }
  await expect(openFiles('s3://no-such-bucket/x').write('a.gz', endless())).rejects.toThrow(/NoSuchBucket|bucket/i);
  expect(closed).toBe(true);
});

test('a folder that cannot be made is an error', async () => {
  async function* line() {
    yield 'a\n';
  }
  await expect(openFiles('/dev/null').write('usage_daily/a.gz', line())).rejects.toThrow(/ENOTDIR/);
  if (process.platform === 'linux')
    await expect(openFiles('/proc/tally').write('usage_daily/a.gz', line())).rejects.toThrow(/ENOENT.*\/proc\/tally/);
});

test.each([
  ['/data/tally', true],
  ['s3://bucket', true],
  ['s3://bucket/some/prefix', true],
  ['data', false],
  ['s3://', false],
  ['https://store/bucket', false],
])('%s is a location: %s', (location, expected) => {
  expect(isFilesLocation(location)).toBe(expected);
});

test('a file in a folder is on disk before it has its name', async () => {
  const file = join(folder, 'exports', 'synced', '2026-11-01.csv.gz');
  const { fsync } = fs;
  const hadName: boolean[] = [];
  const spy = vi.spyOn(fs, 'fsync').mockImplementation((fd, done) => {
    hadName.push(existsSync(file));
    fsync(fd, done);
  });
  async function* line() {
    yield 'a\n';
  }
  await openFiles(join(folder, 'exports')).write('synced/2026-11-01.csv.gz', line());
  spy.mockRestore();
  expect([hadName, existsSync(file)]).toEqual([[false], true]);
});

describe('a server that does not do what a store does', () => {
  const answers: Record<string, [RequestListener, RegExp]> = {
    refuses: [
      (_, response) =>
        response
          .writeHead(403, { 'content-type': 'application/xml' })
          .end('<Error><Code>AccessDenied</Code><Message>no</Message></Error>'),
      /^Writing s3:\/\/tally\/day.gz failed: AccessDenied \(403\), no\.$/,
    ],
    'answers like any web server': [
      (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Sign in</html>'),
      /it is no S3-compatible store/,
    ],
    'breaks off': [(request) => request.socket.destroy(), /socket hang up|ECONNRESET/],
    'never answers': [() => {}, /timed? ?out/i],
  };

  test.each(Object.entries(answers))(
    '%s: the file is not written, and the error says why',
    async (_, [answer, why]) => {
      const server = createServer((request, response) => {
        request.on('error', () => {}).resume();
        request.on('end', () => answer(request, response));
      });
      await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
      const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const before = process.env.AWS_ENDPOINT_URL_S3;
      process.env.AWS_ENDPOINT_URL_S3 = address;
      async function* line() {
        yield 'a\n';
      }
      await expect(openFiles(`s3://${BUCKET}`, undefined, 200).write('day.gz', line())).rejects.toThrow(why);
      process.env.AWS_ENDPOINT_URL_S3 = before;
      server.closeAllConnections();
      server.close();
    },
  );
});
