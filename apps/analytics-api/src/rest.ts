import { type GroupBy, TallyError } from '@tally/contracts';
import type { Route } from '@tally/service';

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
export function restRoutes(): Route[] {
  const route = (path: string, procedure: string, more: object = {}): Route => ({
    method: 'POST',
    path: `${BASE}/${path}`,
    access: 'read',
    anyType: true,
    answer: async (c, { json, call }) => c.json(await call(procedure, { ...renamed(json()), ...more })),
  });
  return [
    route('analytics', 'analytics.summary'),
    ...Object.entries(GROUPS).map(([path, by]) => route(path, 'analytics.breakdown', { by })),
  ];
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
