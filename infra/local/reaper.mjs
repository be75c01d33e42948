import { realpathSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { text } from 'node:stream/consumers';
import { endPostgresOf, removePostgresOf } from './postgres.mjs';
import { endRedisOf } from './redis.mjs';

// Waits until the process at the other end of stdin is gone, and ends the test servers it left: vitest does not run its
// teardown after Ctrl-C.
const [home] = process.argv.slice(2);
await text(process.stdin);
await Promise.all([endPostgresOf(home), endRedisOf(home)]);
await removePostgresOf(home);
if (home.startsWith(realpathSync(tmpdir()))) await rm(home, { recursive: true, force: true, maxRetries: 5 });
