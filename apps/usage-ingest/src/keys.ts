import { type ApiKey, type ingest, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { type Caller, changeKey, decodeCursor, encodeCursor, type RedisClient } from '@tally/service';
import { z } from 'zod';

type Input<Name extends keyof typeof ingest.keys> = z.output<(typeof ingest.keys)[Name]['input']>;

export type Keys = ReturnType<typeof createKeys>;

/** API keys: admins create, rotate, list and revoke them. */
export function createKeys({
  store,
  redis,
  now,
}: {
  store: Db['keys'];
  /** The copies of keys. */
  redis: RedisClient;
  now: () => number;
}) {
  function futureOf(expiresAt: string | undefined): Date | undefined {
    if (expiresAt === undefined) return undefined;
    const date = new Date(expiresAt);
    if (Number(date) > now()) return date;
    throw new TallyError(
      'INVALID_INPUT',
      `expiresAt must be in the future; it is now ${new Date(now()).toISOString()}.`,
    );
  }

  return {
    create: ({ expiresAt, ...key }: Input<'create'>, caller: Caller) =>
      store.create({ ...key, expiresAt: futureOf(expiresAt), by: caller.id }),
    async rotate({ id, overlapSeconds, expiresAt }: Input<'rotate'>) {
      const rotation = {
        now: new Date(now()),
        previousUntil: overlapSeconds > 0 ? new Date(now() + overlapSeconds * 1_000) : undefined,
        expiresAt: futureOf(expiresAt),
      };
      return changeKey(redis, id, () => store.rotate(id, rotation));
    },
    async list({ cursor, limit, ...question }: Input<'list'>): Promise<{ rows: ApiKey[]; nextCursor: string | null }> {
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, { keys: question }, z.tuple([z.uuid()]));
      const rows = await store.list({ ...question, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows, nextCursor: last ? encodeCursor([last.id], { keys: question }) : null };
    },
    revoke: ({ id }: Input<'revoke'>, caller: Caller) => changeKey(redis, id, () => store.revoke(id, caller.id)),
  };
}
