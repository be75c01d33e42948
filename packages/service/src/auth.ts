import { createHash, timingSafeEqual } from 'node:crypto';
import { type ApiKey, type Role, TallyError } from '@tally/contracts';

/** Who calls. `merchantId` null: bound to no merchant, so any may be named. */
export type Caller = { id: string; role: Role; merchantId: string | null; teamId: string | null };

/** What a request shows of its caller. `secret` is undefined where it shows no key; `address` is the client's IP address. */
export type Credentials = { secret: string | undefined; address: string };
export type Authenticate = (credentials: Credentials) => Promise<Caller>;

export type AuthOptions = {
  /** Keys that are set and not kept: the admin's, and what the services show each other. */
  env: { TALLY_ADMIN_KEY?: string | undefined; TALLY_SERVICE_KEY?: string | undefined };
  keys: {
    /** Looks a key up by the SHA-256 of its secret, in hex. */
    findByHash(hash: string): Promise<ApiKey | undefined>;
  };
  now?: () => number;
};

/** A key is looked up again after this long, so a revoked one is refused everywhere within a second. */
const FRESH_MS = 1_000;
/** With the database away a key that was good goes on for this long: metering must not stop with Postgres. */
const STALE_MS = 60 * 60_000;
const MAX_KEYS = 10_000;

/** Checks the key of a request; UNAUTHORIZED where it is missing, unknown or revoked. */
export function createAuthenticate({ env, keys, now = Date.now }: AuthOptions): Authenticate {
  const fixed = [
    ...(env.TALLY_ADMIN_KEY ? [{ hash: sha256(env.TALLY_ADMIN_KEY), caller: platform('admin') }] : []),
    ...(env.TALLY_SERVICE_KEY ? [{ hash: sha256(env.TALLY_SERVICE_KEY), caller: platform('service') }] : []),
  ];
  const known = new Map<string, { caller: Caller | undefined; at: number }>();

  async function lookUp(hash: string): Promise<Caller | undefined> {
    const cached = known.get(hash);
    if (cached && now() - cached.at < FRESH_MS) return cached.caller;
    try {
      const key = await keys.findByHash(hash);
      const caller = key && { id: key.id, role: key.role, merchantId: key.merchantId, teamId: key.teamId };
      if (known.size >= MAX_KEYS) known.delete(known.keys().next().value!);
      known.delete(hash);
      known.set(hash, { caller, at: now() });
      return caller;
    } catch (error) {
      if (cached?.caller && now() - cached.at < STALE_MS) return cached.caller;
      throw new TallyError('UNAVAILABLE', 'The key could not be checked: the database does not answer.', {
        cause: error,
      });
    }
  }

  return async ({ secret }) => {
    if (!secret) throw new TallyError('UNAUTHORIZED', 'Send an API key as `Authorization: Bearer <key>`.');
    const hash = sha256(secret);
    const own = fixed.find((each) => timingSafeEqual(each.hash, hash));
    const caller = own?.caller ?? (await lookUp(hash.toString('hex')));
    if (!caller) throw new TallyError('UNAUTHORIZED', 'This API key is unknown or revoked.');
    return caller;
  };
}

/**
 * The merchants a question may cover: those it names, checked against the caller's binding; the bound one where it
 * names none; undefined for all. MERCHANT_FORBIDDEN where a bound caller names another.
 */
export function merchantsFor(caller: Caller, named: readonly string[] | undefined): string[] | undefined {
  const own = caller.merchantId;
  if (own === null) return named && named.length > 0 ? [...named] : undefined;
  for (const merchantId of named ?? []) assertMerchant(caller, merchantId);
  return [own];
}

/** MERCHANT_FORBIDDEN where the caller is bound to another merchant. */
export function assertMerchant(caller: Caller, merchantId: string): void {
  if (caller.merchantId === null || caller.merchantId === merchantId) return;
  throw new TallyError('MERCHANT_FORBIDDEN', `This key is bound to merchant ${caller.merchantId}.`);
}

const platform = (role: Role): Caller => ({ id: role, role, merchantId: null, teamId: null });

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();
