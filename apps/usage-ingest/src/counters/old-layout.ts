import { messageOf } from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import { isRefusal, type Journal, type LineToAppend, OLD_ORIGIN } from '@tally/db';
import { mastersOf, type RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { lua } from './lua.ts';

declare module 'ioredis' {
  interface RedisCommander<Context> {
    removeOldItems(key: string, ...args: string[]): Result<number, Context>;
  }
}

/**
 * The keys of the previous release, whose braces are hash tags: `usage:{acme}:journal` and so on. Drains its streams as
 * long as they appear, also beside processes of that release. Its totals and ids expire by themselves.
 */
export type OldLayout = {
  /** Flushes old streams to Postgres; an error of one stream stops no other. Totals are repaired after it. */
  drain(): Promise<{ inserted: number; errors: { key: string; message: string }[] }>;
  /** Finds old streams by a scan, whatever their sets say. */
  sweep(): Promise<void>;
  /** Returns the lines of these merchants that wait in old streams. */
  waiting(merchantIds: readonly string[]): Promise<LineToAppend[]>;
  /** Returns merchants that may have events in old streams. */
  merchants(): Promise<string[]>;
};

const PENDING = 'usage:pending';
const LEAVING = '{usage:pending}:leaving';
const JOURNALS = 'usage:{*}:journal';
const journalOf = (merchantId: string) => `usage:{${merchantId}}:journal`;

/** Items per read; each holds at most 1,000 events. */
const ITEMS = 10;

type OldItem = { streamId: string; batchId: string; lines: LineToAppend[] };

export function createOldLayout(redis: RedisClient, journal: Journal): OldLayout {
  redis.defineCommand('removeOldItems', { numberOfKeys: 1, lua: lua('remove-old-items') });

  async function items(merchantId: string, from: string): Promise<OldItem[]> {
    return (await redis.xrange(journalOf(merchantId), from, '+', 'COUNT', ITEMS)).map(oldItemOf);
  }

  async function merchants(): Promise<string[]> {
    const [pending, leaving] = await Promise.all([redis.smembers(PENDING), redis.smembers(LEAVING)]);
    return [...new Set([...pending, ...leaving.map((mark) => mark.slice(mark.indexOf(' ') + 1))])];
  }

  async function drainMerchant(merchantId: string): Promise<number> {
    let inserted = 0;
    for (;;) {
      const found = await items(merchantId, '-');
      for (const item of found) inserted += await appendByHalves(item.lines);
      const args = found.flatMap(({ streamId, batchId }) => [streamId, batchId]);
      await redis.removeOldItems(journalOf(merchantId), ...args);
      if (found.length < ITEMS) break;
    }
    // The previous release adds a merchant after it stored a batch, so either this check or the next drain finds it.
    const marks = (await redis.smembers(LEAVING)).filter((mark) => mark.endsWith(` ${merchantId}`));
    await redis.srem(PENDING, merchantId);
    if (marks.length > 0) await redis.srem(LEAVING, ...marks);
    if ((await redis.xlen(journalOf(merchantId))) > 0) await redis.sadd(PENDING, merchantId);
    return inserted;
  }

  /** `direct`: the totals of this release do not include these lines, so they are marked for repair. */
  async function appendByHalves(lines: readonly LineToAppend[]): Promise<number> {
    try {
      return (await journal.append({ source: 'direct', lines })).inserted;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      if (lines.length > 1) {
        const half = Math.ceil(lines.length / 2);
        return (await appendByHalves(lines.slice(0, half))) + (await appendByHalves(lines.slice(half)));
      }
      await journal.addDeadLetter(lines[0]!, { code: 'REFUSED', message: messageOf(error) });
      return 0;
    }
  }

  return {
    merchants,

    async drain() {
      let inserted = 0;
      const errors: { key: string; message: string }[] = [];
      for (const merchantId of await merchants()) {
        try {
          inserted += await drainMerchant(merchantId);
        } catch (error) {
          errors.push({ key: journalOf(merchantId), message: messageOf(error) });
        }
      }
      return { inserted, errors };
    },

    async sweep() {
      const found = new Set<string>();
      for (const node of mastersOf(redis)) {
        let cursor = '0';
        do {
          const [next, keys] = await node.scan(cursor, 'MATCH', JOURNALS, 'COUNT', 1000);
          cursor = next;
          for (const key of keys) found.add(key.slice('usage:{'.length, -'}:journal'.length));
        } while (cursor !== '0');
      }
      if (found.size > 0) await redis.sadd(PENDING, ...found);
    },

    async waiting(merchantIds) {
      const lines: LineToAppend[] = [];
      const all = await Promise.all(merchantIds.map((merchantId) => items(merchantId, '-')));
      for (const [index, first] of all.entries()) {
        for (let page = first; page.length > 0; ) {
          lines.push(...page.flatMap((item) => item.lines));
          page = page.length < ITEMS ? [] : await items(merchantIds[index]!, `(${page.at(-1)!.streamId}`);
        }
      }
      return lines;
    },
  };
}

function oldItemOf([streamId, fields]: [string, string[]]): OldItem {
  const field = (name: string) => fields[fields.indexOf(name) + 1] ?? '';
  const batchId = field('batch');
  const lines = (JSON.parse(field('lines')) as JournalLine[]).map((line, position) => ({
    ...line,
    origin: `${OLD_ORIGIN}${batchId}:${position}`,
  }));
  return { streamId, batchId, lines };
}
