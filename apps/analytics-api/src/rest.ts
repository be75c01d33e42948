import { analytics, type GroupBy, grants, TallyError } from '@tally/contracts';
import {
  type App,
  type Authenticate,
  type Caller,
  type Credentials,
  credentialsOf,
  merchantsFor,
  type RateLimit,
} from '@tally/service';
import type { Read } from './read.ts';

export type RestOptions = { read: Read; authenticate: Authenticate; rates: RateLimit };

const BASE = '/api/v1/admin/usage';
const GROUPS: Record<string, GroupBy> = { 'by-user': 'user', 'by-model': 'model', 'by-provider': 'provider' };
/** The names that the filters have in the API these paths come from. */
const ALIASES = new Map([
  ['modelIds', 'models'],
  ['providerIds', 'providers'],
  ['apiKeyIds', 'apiKeys'],
]);

/**
 * `analytics.summary` and `analytics.breakdown` for those who do not speak tRPC: the same input as a JSON body, the same
 * answer, the same checks.
 */
export function serveRest(app: App, { read, authenticate, rates }: RestOptions): void {
  const admit = async (credentials: Credentials): Promise<Caller> => {
    const caller = await authenticate(credentials);
    if (!grants(caller.role, 'read')) throw new TallyError('FORBIDDEN', `The role ${caller.role} may not read usage.`);
    await rates.take('analytics', caller.id);
    return caller;
  };

  app.post(`${BASE}/analytics`, async (c) => {
    const caller = await admit(credentialsOf(c));
    const question = analytics.analytics.summary.input.parse(renamed(await c.req.json()));
    const merchantIds = merchantsFor(caller, question.merchantIds);
    return c.json(await read.summary({ ...question, merchantIds }));
  });
  for (const [path, by] of Object.entries(GROUPS)) {
    app.post(`${BASE}/${path}`, async (c) => {
      const caller = await admit(credentialsOf(c));
      const question = analytics.analytics.breakdown.input.parse({ ...renamed(await c.req.json()), by });
      const merchantIds = merchantsFor(caller, question.merchantIds);
      return c.json(await read.breakdown({ ...question, merchantIds }));
    });
  }
}

function renamed(body: unknown): Record<string, unknown> {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw new TallyError('INVALID_INPUT', 'Send a JSON object.');
  for (const [alias, name] of ALIASES) {
    if (Object.hasOwn(body, alias) && Object.hasOwn(body, name))
      throw new TallyError('INVALID_INPUT', `${alias} and ${name} are the same; send one of them.`);
  }
  return Object.fromEntries(Object.entries(body).map(([name, value]) => [ALIASES.get(name) ?? name, value]));
}
