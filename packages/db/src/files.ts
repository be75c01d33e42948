import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { DAY_MS } from '@tally/contracts';

/** Where archives and exports are written: a folder, or a bucket of an S3-compatible store. */
export type Files = {
  /**
   * Writes a file, compressed with gzip if its name ends in `.gz`. It has its name only when it is whole and on disk;
   * writing it again replaces it. Memory stays bounded. Rejects where it cannot be written, and then leaves nothing. A
   * killed process leaves a draft, which a later write to the folder removes after a day.
   */
  write(path: string, content: AsyncIterable<string | Uint8Array>): Promise<void>;
};

const S3_URL = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/;
/** Written in place of a file until it is whole. */
const DRAFT = /\.[0-9a-f-]{36}\.part$/;
/** A store takes 10,000 parts: files up to 80 GB. One part is filled while another is sent. */
const PART_BYTES = 8 * 2 ** 20;
const PARTS_AT_ONCE = 2;
/** A store that is silent for this long fails an attempt; the SDK makes three. */
const SILENCE_MS = 60_000;

/** Whether archives and exports can be written to a location: an absolute path, or `s3://bucket/prefix`. */
export const isFilesLocation = (location: string): boolean => location.startsWith('/') || S3_URL.test(location);

/**
 * Opens a folder, or `s3://bucket/prefix`. A store is reached and authenticated by the settings of the AWS SDK
 * (`AWS_REGION`, `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID` …); `silenceMs` bounds its silence. Files of a folder get
 * `mode`. Throws where the location is neither.
 */
export function openFiles(location: string, mode = 0o666, silenceMs = SILENCE_MS): Files {
  const [, bucket, prefix = ''] = S3_URL.exec(location) ?? [];
  if (bucket) return createBucket(bucket, prefix.replace(/\/$/, ''), silenceMs);
  if (location.includes('://')) throw new Error(`Expected a folder or s3://bucket/prefix, not ${location}.`);
  return createFolder(location, mode);
}

const packing = (path: string) => (path.endsWith('.gz') ? createGzip() : new PassThrough());

function createFolder(folder: string, mode: number): Files {
  return {
    async write(path, content) {
      const file = join(folder, path);
      const draft = `${file}.${randomUUID()}.part`;
      await makeFolder(dirname(file));
      await removeOldDrafts(dirname(file));
      try {
        await pipeline(Readable.from(content), packing(path), createWriteStream(draft, { mode, flush: true }));
        await rename(draft, file);
        await syncFolder(dirname(file));
      } finally {
        await rm(draft, { force: true });
      }
    },
  };
}

/** Makes a folder and those above it: `mkdir` with `recursive` never ends where making one answers ENOENT, as in /proc. */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    const above = dirname(folder);
    if (code !== 'ENOENT' || above === folder || existsSync(above)) throw error;
    await makeFolder(above);
    await makeFolder(folder);
  }
}

/** Removes drafts that nobody has written to for a day: their processes were killed. */
async function removeOldDrafts(folder: string): Promise<void> {
  for (const name of (await readdir(folder)).filter((each) => DRAFT.test(each))) {
    const draft = join(folder, name);
    const written = await stat(draft).catch(() => undefined);
    if (written && Date.now() - written.mtimeMs > DAY_MS) await rm(draft, { force: true });
  }
}

/** A new name is on disk only when its folder is: a day is dropped from Postgres once its archive is written. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder);
  await handle.sync().finally(() => handle.close());
}

function createBucket(bucket: string, prefix: string, silenceMs: number): Files {
  return {
    async write(path, content) {
      // Loaded only here: most processes write no file, and the SDK takes memory and time.
      const [{ S3Client }, { Upload }] = await Promise.all([
        import('@aws-sdk/client-s3'),
        import('@aws-sdk/lib-storage'),
      ]);
      const hasOwnEndpoint = Boolean(process.env.AWS_ENDPOINT_URL_S3 ?? process.env.AWS_ENDPOINT_URL);
      const client = new S3Client({
        // Stores other than Amazon's seldom have a host name for each bucket, or know checksums in trailers.
        ...(hasOwnEndpoint && { forcePathStyle: true, region: process.env.AWS_REGION ?? 'us-east-1' }),
        requestChecksumCalculation: 'WHEN_REQUIRED',
        requestHandler: { connectionTimeout: silenceMs, socketTimeout: silenceMs },
      });
      const key = prefix ? `${prefix}/${path}` : path;
      const stopping = new AbortController();
      const body = new PassThrough();
      const upload = new Upload({
        client,
        params: {
          Bucket: bucket,
          Key: key,
          Body: body,
          ContentType: path.endsWith('.gz') ? 'application/gzip' : 'application/octet-stream',
        },
        partSize: PART_BYTES,
        queueSize: PARTS_AT_ONCE,
        abortController: stopping,
      });
      // A source that breaks must not look like its end, and a store that fails must not leave the source waiting.
      const stop = (error: Error) => {
        stopping.abort();
        body.destroy(error);
        throw error;
      };
      const filling = pipeline(Readable.from(content), packing(path), body).catch(stop);
      const sending = upload.done().catch(stop);
      try {
        const [, { ETag }] = await Promise.all([filling, sending]);
        // Any server may answer 200; only a store that has the file names its content. An archived day is dropped.
        if (!ETag) throw new Error('it answered without an ETag, so it is no S3-compatible store');
      } catch (cause) {
        throw new Error(`Writing s3://${bucket}/${key} failed: ${reasonOf(cause)}.`, { cause });
      } finally {
        await Promise.allSettled([filling, sending]);
        client.destroy();
      }
    },
  };
}

/** Says why a store refused a file. The SDK's message alone may be only `no` or `UnknownError`. */
function reasonOf(error: unknown): string {
  const { name, message, $metadata } = error as Error & { $metadata?: { httpStatusCode?: number } };
  return $metadata?.httpStatusCode ? `${name} (${$metadata.httpStatusCode}), ${message}` : message;
}
