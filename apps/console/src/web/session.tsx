import type { Access, Role } from '@tally/contracts';
import { createContext, useContext } from 'react';
import { queryClient } from './api.ts';

export type Who = {
  keyId: string;
  name: string;
  role: Role;
  merchantId: string | null;
  teamId: string | null;
  expiresAt: string | null;
};

/** The access of each role, like `grants` of the contracts. A test compares them. */
export const GRANTS: Record<Role, readonly Access[]> = {
  producer: ['record'],
  member: ['record', 'read'],
  viewer: ['read'],
  analyst: ['read', 'define'],
  admin: ['record', 'read', 'define', 'admin', 'internal'],
  service: ['record', 'read', 'admin', 'internal'],
};

/** In this tab only. It has no secret: the services check the session's cookie themselves. */
const LAST_WHO = 'tally.who';

/** Returns the caller of this tab's last page, so that a reload shows its page at once, also without usage-ingest. */
export function lastWho(): Who | undefined {
  try {
    const who = JSON.parse(sessionStorage.getItem(LAST_WHO) ?? 'null') as Who | null;
    return who && who.role in GRANTS ? who : undefined;
  } catch {
    return undefined;
  }
}

export const rememberWho = (who: Who) => sessionStorage.setItem(LAST_WHO, JSON.stringify(who));
const forgetWho = () => sessionStorage.removeItem(LAST_WHO);

export const WhoContext = createContext<Who | null>(null);

/** Returns the signed-in caller and its permissions. */
export function useWho() {
  const who = useContext(WhoContext);
  if (!who) throw new Error('There is no session here.');
  return {
    ...who,
    may: (access: Access) => GRANTS[who.role].includes(access),
    /** About all merchants: not for a key bound to one. */
    mayPlatform: (access: Access) => GRANTS[who.role].includes(access) && who.merchantId === null,
  };
}

type Problem = { error?: { message?: string; data?: { code?: string; action?: string } } };

/** Exchanges an API key for a session; the key is stored nowhere. Throws with what to do. */
export async function signIn(key: string): Promise<void> {
  const answer = await fetch('/session', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ key }),
  }).catch(() => {
    throw new Error('Tally does not answer. Check that it runs and that you are online.');
  });
  if (answer.ok) return forgetWho();
  const { error } = (await answer.json().catch(() => ({}))) as Problem;
  throw new Error(
    error?.data?.code === 'UNAUTHORIZED'
      ? 'This API key is unknown, expired or revoked.'
      : error?.data?.code === 'FORBIDDEN'
        ? 'This key may not read usage. Sign in with a member, viewer, analyst or admin key.'
        : (error?.message ?? `Tally answered ${answer.status}. Try again.`),
  );
}

/** Carries to all tabs of this browser that they are signed out: they share the cookie. */
const TABS = 'tally.signed-out';

/** Ends the session, in every tab, and clears its cached data. */
export async function signOut(): Promise<void> {
  await fetch('/session', { method: 'DELETE' }).catch(() => {});
  const tabs = new BroadcastChannel(TABS);
  tabs.postMessage(null);
  tabs.close();
  leave();
}

/** Leaves the page when another tab signs out, since its data would stay readable here. Returns how to stop. */
export function followSignOut(): () => void {
  const tabs = new BroadcastChannel(TABS);
  tabs.onmessage = leave;
  return () => tabs.close();
}

function leave(): void {
  queryClient.clear();
  forgetWho();
  location.assign('/app/sign-in');
}
