import { createHmac, hash, timingSafeEqual } from 'node:crypto';
import { type Role, TallyError } from '@tally/contracts';
import { createKeyUse } from './key-use.ts';
import { createKnownKeys, type KeyMirror, type KnownKey } from './known-keys.ts';

/** The caller. A null `merchantId` means bound to no merchant, so any may be named. */
export type Caller = {
  id: string;
  role: Role;
  merchantId: string | null;
  teamId: string | null;
  /** Set if a session was presented in place of the key. */
  sessionId?: string;
};

/** The credentials of a request. `secret` is undefined without a key; `address` is the client's IP address. */
export type Credentials = {
  secret: string | undefined;
  address: string;
  /** The address that a proxy forwards, and the service key by which the console proves that it is that proxy. */
  forwarded?: { address: string; proof: string };
};

export type Authenticate = (credentials: Credentials) => Promise<Caller>;

export type AuthOptions = {
  env: {
    /** Keys from the settings, not from the database: the admin's, and the one of the services. */
    TALLY_ADMIN_KEY?: string | undefined;
    TALLY_SERVICE_KEY?: string | undefined;
    UNKNOWN_KEYS_PER_MINUTE?: number | undefined;
  };
  keys: {
    /** Finds a key that is not revoked by the SHA-256 of its secret, in hex. */
    findByHash(hash: string): Promise<KnownKey | undefined>;
    /** Saves when keys were last used. */
    recordUse?(uses: readonly { id: string; at: number }[]): Promise<void>;
  };
  /** Copies of keys, for a process that starts while the database is unavailable. */
  mirror?: KeyMirror;
  /** Called with errors that no caller gets. */
  onError?: (error: unknown) => void;
  now?: () => number;
};

/** The default for unknown API keys that one address may send within a minute. */
export const UNKNOWN_KEYS_PER_MINUTE = 100;

/**
 * Returns the key that services send each other: `TALLY_SERVICE_KEY`, else a key derived from the admin key, so that
 * the role `service` differs from the admin. Undefined without either.
 */
export function serviceKeyOf(env: AuthOptions['env']): string | undefined {
  if (env.TALLY_SERVICE_KEY || !env.TALLY_ADMIN_KEY) return env.TALLY_SERVICE_KEY;
  return createHmac('sha256', env.TALLY_ADMIN_KEY).update('the service key of Tally').digest('base64url');
}

/**
 * Checks an API key. Throws UNAUTHORIZED for a missing, unknown, revoked or expired key; RATE_LIMITED for a key not
 * known yet from an address that sent too many unknown ones; UNAVAILABLE, never UNAUTHORIZED, if the key cannot be
 * checked.
 */
export function createAuthenticate(options: AuthOptions): Authenticate {
  const { env, keys, mirror, onError = () => {}, now = Date.now } = options;
  const serviceKey = serviceKeyOf(env);
  const serviceHash = serviceKey === undefined ? undefined : sha256(serviceKey);
  const fixed = [
    ...(env.TALLY_ADMIN_KEY ? [{ hash: sha256(env.TALLY_ADMIN_KEY), caller: platform('admin') }] : []),
    ...(serviceHash ? [{ hash: serviceHash, caller: platform('service') }] : []),
  ];
  const find = createKnownKeys({
    find: (hash) => keys.findByHash(hash),
    mirror,
    failuresPerMinute: env.UNKNOWN_KEYS_PER_MINUTE ?? UNKNOWN_KEYS_PER_MINUTE,
    now,
  });
  const used = createKeyUse({ save: async (uses) => keys.recordUse?.(uses), onError, now });

  const addressOf = ({ address, forwarded }: Credentials) =>
    forwarded && serviceHash && timingSafeEqual(serviceHash, sha256(forwarded.proof)) ? forwarded.address : address;

  return async (credentials) => {
    const { secret } = credentials;
    if (secret === undefined || !KEY.test(secret))
      throw new TallyError('UNAUTHORIZED', 'Send an API key as `Authorization: Bearer <key>` or `x-api-key: <key>`.');
    const digest = sha256(secret);
    const own = fixed.find((each) => timingSafeEqual(each.hash, digest));
    if (own) return own.caller;
    const key = await find(digest.toString('hex'), addressOf(credentials));
    if (!key) throw new TallyError('UNAUTHORIZED', 'This API key is unknown or revoked.');
    const { id, role, merchantId, teamId, expiresAt, sessionId, settingsHash } = key;
    if (expiresAt !== null && now() >= Date.parse(expiresAt))
      throw new TallyError(
        'UNAUTHORIZED',
        `This ${sessionId ? 'session' : 'API key'} expired at ${expiresAt}. Use a new one.`,
      );
    const session = sessionId === undefined ? {} : { sessionId };
    if (settingsHash !== undefined) {
      const parent = fixed.find((each) => each.hash.toString('hex') === settingsHash);
      if (!parent) throw new TallyError('UNAUTHORIZED', 'The key of this session is no longer set.');
      return { ...parent.caller, ...session };
    }
    used(id);
    return { id, role, merchantId, teamId, ...session };
  };
}

/**
 * Returns the merchants that a query may cover: the named ones, else the caller's own; undefined for all. Throws
 * MERCHANT_FORBIDDEN if a bound caller names another merchant.
 */
export function merchantsFor(caller: Caller, named: readonly string[] | undefined): string[] | undefined {
  const own = caller.merchantId;
  if (own === null) return named && named.length > 0 ? [...named] : undefined;
  for (const merchantId of named ?? []) assertMerchant(caller, merchantId);
  return [own];
}

/** Throws MERCHANT_FORBIDDEN if the caller is bound to another merchant. */
export function assertMerchant(caller: Caller, merchantId: string): void {
  if (caller.merchantId === null || caller.merchantId === merchantId) return;
  throw new TallyError('MERCHANT_FORBIDDEN', `This key is bound to merchant ${caller.merchantId}.`);
}

/** Printable ASCII, as HTTP headers require. */
const KEY = /^[\x21-\x7e]{1,512}$/;

const platform = (role: Role): Caller => ({ id: role, role, merchantId: null, teamId: null });

const sha256 = (text: string): Buffer => hash('sha256', text, 'buffer');
