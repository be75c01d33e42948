import { engine, isProcedure, type Procedure } from '@tally/contracts';
import { queryOf, type Route } from '@tally/service';
import { z } from 'zod';
import { DOCS_PAGE, DOCS_POLICY } from './docs-page.ts';
import { type Operation, openApiOf } from './openapi.ts';

/** The REST paths, each the same as one procedure. */
const OPERATIONS: readonly Operation[] = [
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

/**
 * The REST paths, `/openapi.json` and `/docs`. A REST call becomes the call of its procedure, so the checks of the access, the
 * input and the errors are the same; the answer is the procedure's own, without tRPC's wrapping.
 */
export function restRoutes(): Route[] {
  const document = openApiOf([...OPERATIONS, ...proceduresOf(engine)]);
  return [
    ...OPERATIONS.map(routeOf),
    { method: 'GET', path: '/openapi.json', access: 'open', answer: (c) => c.json(document) },
    {
      method: 'GET',
      path: '/docs',
      access: 'open',
      answer: (c) => c.html(DOCS_PAGE, 200, { 'content-security-policy': DOCS_POLICY }),
    },
  ];
}

function routeOf({ method, path, name, procedure }: Operation): Route {
  const { access, maxItems } = procedure;
  const inputOf = method === 'get' ? queryReader(procedure) : undefined;
  return {
    method: method === 'get' ? 'GET' : 'POST',
    path,
    access,
    ...(maxItems && { maxItems }),
    answer: async (c, { call, json }) => c.json((await call(name, inputOf ? inputOf(c.req.url) : json())) as object),
  };
}

function proceduresOf(contract: object, before = ''): Operation[] {
  return Object.entries(contract).flatMap(([key, node]: [string, Procedure | object]) => {
    const name = `${before}${key}`;
    if (!isProcedure(node as Procedure)) return proceduresOf(node, `${name}.`);
    const procedure = node as Procedure;
    const method = procedure.kind === 'mutation' ? ('post' as const) : ('get' as const);
    return [{ method, path: `/trpc/${name}`, name, procedure }];
  });
}

/** Reads the input of a procedure from query parameters. */
function queryReader(procedure: Procedure): (url: string) => object {
  const { properties = {} } = z.toJSONSchema(procedure.input, { io: 'input', unrepresentable: 'any' });
  const ofType = (...types: unknown[]) =>
    Object.keys(properties).filter((key) => types.includes((properties[key] as { type?: string }).type));
  const lists = ofType('array');
  // Numbers are read as such, and what is none is refused by the schema.
  const numbers = ofType('integer', 'number');
  return (url) =>
    Object.fromEntries(
      Object.entries(queryOf(url, lists)).map(([key, value]) => [key, numbers.includes(key) ? Number(value) : value]),
    );
}
