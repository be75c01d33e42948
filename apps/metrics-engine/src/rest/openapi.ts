import { ERRORS, type Procedure } from '@tally/contracts';
import { z } from 'zod';

export type Operation = { method: 'get' | 'post'; path: string; name: string; procedure: Procedure };

/** The OpenAPI 3.1 document of some routes, made from the schemas that check them. */
export function openApiOf(routes: readonly Operation[]) {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) paths[route.path] = { ...paths[route.path], [route.method]: operation(route) };
  return {
    openapi: '3.1.0',
    info: { title: 'Tally metrics-engine', version: '1', description: 'Rollups, realtime metrics and custom metrics.' },
    security: [{ key: [] }],
    paths,
    components: {
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      schemas: { Error: ERROR },
    },
  };
}

function operation({ method, path, name, procedure }: Operation) {
  const input = plain(z.toJSONSchema(procedure.input, { io: 'input', unrepresentable: 'any' }));
  const output = plain(z.toJSONSchema(procedure.output, { io: 'output', unrepresentable: 'any' }));
  const wrapped = path.startsWith('/trpc/');
  const needed = !procedure.input.safeParse(undefined).success;
  const body = { content: { 'application/json': { schema: input } }, required: needed };
  const properties = (input.properties ?? {}) as Record<string, unknown>;
  const required = (input.required ?? []) as string[];
  const parameters = wrapped
    ? [{ name: 'input', in: 'query', content: { 'application/json': { schema: input } } }]
    : Object.entries(properties).map(([key, schema]) => ({
        name: key,
        in: 'query',
        required: required.includes(key),
        schema,
      }));
  const answer = wrapped
    ? { type: 'object', properties: { result: { type: 'object', properties: { data: output } } } }
    : output;
  const type = procedure.kind === 'subscription' ? 'text/event-stream' : 'application/json';
  const failures = [...new Set(Object.values(ERRORS).map(({ status }) => status))].sort();
  return {
    operationId: `${wrapped ? '' : 'rest.'}${name}`,
    summary: `${name} (needs the access "${procedure.access}")`,
    tags: [name.split('.')[0]],
    ...(method === 'get' ? { parameters } : { requestBody: body }),
    responses: {
      200: {
        description: 'Done',
        content: { [type]: { schema: procedure.kind === 'subscription' ? output : answer } },
      },
      ...Object.fromEntries(failures.map((status) => [status, FAILURE])),
    },
  };
}

const FAILURE = {
  description: 'Refused or failed; `error.data.code` says why',
  content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
};

const ERROR = {
  type: 'object',
  properties: {
    error: {
      type: 'object',
      properties: {
        message: { type: 'string' },
        data: {
          type: 'object',
          properties: {
            code: { type: 'string', enum: Object.keys(ERRORS) },
            httpStatus: { type: 'integer' },
            action: { type: 'string' },
            details: {},
          },
        },
      },
    },
  },
};

/** OpenAPI has one dialect for the whole document. */
function plain({ $schema: _, ...schema }: Record<string, unknown>): Record<string, unknown> {
  return schema;
}
