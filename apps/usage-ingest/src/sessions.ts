import { TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { type Caller, changeKey, type RedisClient } from '@tally/service';

export type Sessions = ReturnType<typeof createSessions>;

/** A working day: users sign in again the next day. */
const LIFETIME_MS = 12 * 3_600_000;
/** The caller of the admin's key of the settings, which has no row. */
const ADMIN = 'admin';

/** Browser sessions: started by a key, presented in its place, ended by sign-out. */
export function createSessions({
  store,
  redis,
  adminKey,
  now,
}: {
  store: Db['sessions'];
  /** The copies of sessions. */
  redis: RedisClient;
  adminKey: string | undefined;
  now: () => number;
}) {
  const about = ({ role, merchantId, teamId, id }: Caller) => ({ keyId: id, role, merchantId, teamId });

  return {
    async create(caller: Caller) {
      if (caller.sessionId !== undefined)
        throw new TallyError('FORBIDDEN', 'A session cannot start another one; sign in with the API key.');
      const isAdmin = caller.id === ADMIN;
      if (!isAdmin && !UUID.test(caller.id))
        throw new TallyError('FORBIDDEN', 'The key of the services cannot start a session.');
      const expiresAt = new Date(now() + LIFETIME_MS);
      const session = await store.create({
        ...about(caller),
        keyId: isAdmin ? null : caller.id,
        adminKey,
        name: caller.id,
        now: new Date(now()),
        expiresAt,
      });
      if (!session) throw new TallyError('UNAUTHORIZED', 'This API key is unknown or revoked.');
      const name = await nameOf(caller);
      return { ...session, ...about(caller), name, expiresAt: expiresAt.toISOString() };
    },
    async current(caller: Caller) {
      const session = caller.sessionId === undefined ? undefined : await store.describe(caller.sessionId);
      const name = await nameOf(caller);
      return { ...about(caller), name, expiresAt: session?.expiresAt?.toISOString() ?? null };
    },
    async end({ sessionId: id }: Caller) {
      return { ended: id !== undefined && (await changeKey(redis, id, () => store.end(id))) };
    },
  };

  async function nameOf({ id }: Caller): Promise<string> {
    return UUID.test(id) ? ((await store.describe(id))?.name ?? id) : id;
  }
}

const UUID = /^[0-9a-f-]{36}$/;
