import { engine, isProcedure, type Procedure } from '@tally/contracts';
import { type App, queryOf } from '@tally/service';
import type { Context } from 'hono';
import { z } from 'zod';
import { DOCS_PAGE } from './docs-page.ts';
import { openApiOf, type Route } from './openapi.ts';

/** The REST paths, each the same as one procedure. */
const ROUTES: readonly Route[] = [
  { method: 'get', path: '/api/admin/metrics/daily', name: 'rollups.daily.list', procedure: engine.rollups.daily.list },
  {
    method: 'get',
    path: '/api/admin/metrics/weekly',
    name: 'rollups.weekly.list',
    procedure: engine.rollups.weekly.list,
  },
  {
    method: 'get',
    path: '/api/admin/metrics/monthly',
    name: 'rollups.monthly.list',
    procedure: engine.rollups.monthly.list,
  },
  { method: 'get', path: '/api/admin/metrics/custom-definitions', name: 'custom.list', procedure: engine.custom.list },
  {
    method: 'post',
    path: '/api/admin/metrics/custom-definitions',
    name: 'custom.create',
    procedure: engine.custom.create,
  },
  {
    method: 'post',
    path: '/api/admin/metrics/calculate',
    name: 'custom.calculate',
    procedure: engine.custom.calculate,
  },
];

const PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/**
 * Mounts the REST paths, `/openapi.json` and `/docs`. A REST call becomes the call of its procedure, so the checks of the
 * key, the access, the input and the errors are the same; the answer is the procedure's own, without tRPC's wrapping.
 */
export function mountRest(app: App): void {
  for (const route of ROUTES) {
    app.on(route.method.toUpperCase(), route.path, async (c) => {
      const answer = await app.request(...(route.method === 'get' ? asQuery(c, route) : await asMutation(c, route)));
      const body = (await answer.json()) as { result?: { data: unknown }; error?: unknown };
      const retryAfter = answer.headers.get('retry-after');
      if (retryAfter !== null) c.header('retry-after', retryAfter);
      return c.json((body.result ? body.result.data : { error: body.error }) as never, answer.status as never);
    });
  }
  const document = openApiOf([...ROUTES, ...proceduresOf(engine)]);
  app.get('/openapi.json', (c) => c.json(document));
  app.get('/docs', (c) => {
    c.header('content-security-policy', PAGE_POLICY);
    return c.html(DOCS_PAGE);
  });
}

function proceduresOf(contract: object, before = ''): Route[] {
  return Object.entries(contract).flatMap(([key, node]: [string, Procedure | object]) => {
    const name = `${before}${key}`;
    if (!isProcedure(node as Procedure)) return proceduresOf(node, `${name}.`);
    const procedure = node as Procedure;
    const method = procedure.kind === 'mutation' ? ('post' as const) : ('get' as const);
    return [{ method, path: `/trpc/${name}`, name, procedure }];
  });
}

function asQuery(c: Context, { name, procedure }: Route): [string, RequestInit] {
  const { properties = {} } = z.toJSONSchema(procedure.input, { io: 'input', unrepresentable: 'any' });
  const ofType = (...types: unknown[]) =>
    Object.keys(properties).filter((key) => types.includes((properties[key] as { type?: string }).type));
  // Numbers are read as such, and what is none is refused by the schema.
  const numbers = ofType('integer', 'number');
  const given = Object.entries(queryOf(c.req.url, ofType('array')));
  const input = Object.fromEntries(given.map(([key, value]) => [key, numbers.includes(key) ? Number(value) : value]));
  return [`/trpc/${name}?input=${encodeURIComponent(JSON.stringify(input))}`, { headers: headersOf(c) }];
}

async function asMutation(c: Context, { name }: Route): Promise<[string, RequestInit]> {
  return [`/trpc/${name}`, { method: 'POST', headers: headersOf(c), body: await c.req.text() }];
}

function headersOf(c: Context): Record<string, string> {
  const kept = ['authorization', 'content-type', 'x-request-id'].map((name) => [name, c.req.header(name)]);
  return Object.fromEntries(kept.filter(([, value]) => value !== undefined)) as Record<string, string>;
}
