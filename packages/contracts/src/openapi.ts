import { z } from 'zod';
import type { Endpoint, HttpMethod, Procedure, Rest } from './contract.ts';
import * as exported from './index.ts';
import { proceduresOf, SERVICES, type ServiceName } from './services.ts';

type Json = { readonly [key: string]: unknown };
type Io = 'input' | 'output';
type Method = Lowercase<HttpMethod>;

export type OpenApiOperation = {
  operationId: string;
  summary: string;
  description: string;
  tags: string[];
  parameters?: Json[];
  requestBody?: Json;
  responses: Json;
};

export type OpenApiDocument = {
  openapi: '3.1.0';
  info: { title: string; version: string; description: string };
  servers: { url: string; description: string }[];
  security: Json[];
  tags: { name: string; description: string }[];
  paths: Record<string, Partial<Record<Method, OpenApiOperation>>>;
  components: { schemas: Record<string, Json>; responses: Json; securitySchemes: Json };
};

const API_VERSION = '1';
const REF = '#/components/schemas/';
const JSON_TYPE = 'application/json';
const EXAMPLE_ID = '0f8c2f0e-5d0f-4c11-9a53-2f6c1f0a7b11';

/** Returns the OpenAPI 3.1 document of one service, or of all of them, made from the schemas that check the calls. */
export function openApi(only?: ServiceName): OpenApiDocument {
  const names = only ? [only] : (Object.keys(SERVICES) as ServiceName[]);
  const served = names.flatMap((service) =>
    proceduresOf(SERVICES[service].contract).map(([name, procedure]) => ({ service, name, procedure })),
  );
  const schemas = schemasOf(served);
  const paths: OpenApiDocument['paths'] = {};
  const add = (path: string, method: Method, operation: OpenApiOperation) => {
    paths[path] = { ...paths[path], [method]: operation };
  };
  for (const { name, procedure } of served) {
    for (const rest of procedure.rest ?? [])
      add(rest.path, methodOf(rest), restOperation(name, procedure, rest, schemas));
    add(`/trpc/${name}`, procedure.kind === 'subscription' ? 'get' : 'post', callOperation(name, procedure, schemas));
  }
  for (const service of names)
    for (const endpoint of SERVICES[service].endpoints)
      add(endpoint.path, methodOf(endpoint), endpointOperation(endpoint, schemas));

  const groups = new Map<string, string>(
    served.map(({ name, service }) => [groupOf(name), `${service}: ${SERVICES[service].summary}`]),
  );
  return {
    openapi: '3.1.0',
    info: {
      title: only ? `Tally ${only}` : 'Tally',
      version: API_VERSION,
      description: only
        ? SERVICES[only].summary
        : 'Usage metering in which every number can prove itself. Quantities are exact decimal strings, times are ISO 8601, days are UTC.',
    },
    servers: [{ url: '/', description: 'The address of this document.' }],
    security: [{ bearer: [] }, { apiKey: [] }],
    tags: [
      ...[...groups].map(([name, description]) => ({ name, description })),
      ...Object.entries(ENDPOINT_GROUPS)
        .filter(([group]) => names.some((service) => SERVICES[service].endpoints.some((each) => each.group === group)))
        .map(([name, description]) => ({ name, description })),
    ],
    paths,
    components: {
      schemas: { ...schemas.all(), ErrorCode: ERROR_CODE, Error: ERROR },
      responses: {
        Error: {
          description: 'Refused or failed. `error.data.code` says why, `error.data.action` what to do.',
          content: { [JSON_TYPE]: { schema: { $ref: `${REF}Error` } } },
        },
      },
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'An API key.' },
        apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key', description: 'An API key.' },
      },
    },
  };
}

/** Adds a procedure under its name. Queries accept POST as well as GET: their input may be longer than a URL. */
function callOperation(name: string, procedure: Procedure, schemas: Schemas): OpenApiOperation {
  const input = schemas.of(procedure.input, 'input');
  const output = schemas.of(procedure.output, 'output');
  const answer = exampleOf(output, schemas.resolve);
  const common = {
    operationId: name,
    summary: procedure.summary ?? name,
    description: descriptionOf(procedure),
    tags: [groupOf(name)],
  };
  if (procedure.kind === 'subscription')
    return {
      ...common,
      parameters: [{ name: 'input', in: 'query', content: { [JSON_TYPE]: { schema: input } } }],
      responses: responses('text/event-stream', output, answer),
    };
  const wrapped = object({ result: object({ data: output }) });
  return {
    ...common,
    ...bodyOf(procedure, input, schemas),
    responses: responses(JSON_TYPE, wrapped, { result: { data: answer } }),
  };
}

function restOperation(name: string, procedure: Procedure, rest: Rest, schemas: Schemas): OpenApiOperation {
  const { fixed = {}, omit = [], aliases } = rest;
  const output = schemas.of(procedure.output, 'output');
  const whole = schemas.resolve(schemas.of(procedure.input, 'input'));
  const fields = Object.entries((whole.properties ?? {}) as Json).filter(
    ([field]) => !(field in fixed) && !omit.includes(field),
  );
  const required = ((whole.required ?? []) as string[]).filter((field) => !(field in fixed));
  const also = aliases
    ? [
        `Other names of fields: ${Object.entries(aliases)
          .map(([alias, field]) => `\`${alias}\` is \`${field}\``)
          .join(', ')}.`,
      ]
    : [];
  return {
    operationId: operationIdOf(rest),
    summary: procedure.summary ?? name,
    description: [`Answers like \`${name}\`.`, descriptionOf(procedure), ...also].join(' '),
    tags: [groupOf(name)],
    ...(rest.method === 'GET'
      ? {
          parameters: [
            ...fields.map(([field, schema]) => parameter(field, schema as Json, required.includes(field))),
            ...(rest.numbers ? [NUMBERS] : []),
          ],
        }
      : bodyOf(
          procedure,
          Object.keys(fixed).length > 0
            ? schemas.add(`${pascal(operationIdOf(rest))}Input`, {
                ...whole,
                properties: Object.fromEntries(fields),
                required,
              })
            : schemas.of(procedure.input, 'input'),
          schemas,
        )),
    responses: responses(JSON_TYPE, output, exampleOf(output, schemas.resolve)),
  };
}

const NUMBERS = {
  name: 'numbers',
  in: 'query',
  required: false,
  schema: { type: 'boolean' },
  description: 'With `true`, quantities are JSON numbers, those that a number holds exactly; others stay strings.',
};

const ENDPOINT_GROUPS = {
  files: 'Files to download.',
  metrics: 'Numbers for monitoring.',
  sources: 'APIs of other products, whose clients can send their usage to Tally.',
};

const ANSWER_OF: Record<Endpoint['group'], string> = {
  files: 'The file.',
  metrics: 'The numbers.',
  sources: 'As the product answers whose API this is.',
};

function endpointOperation(endpoint: Endpoint, schemas: Schemas): OpenApiOperation {
  const query = endpoint.query ? schemas.resolve(schemas.of(endpoint.query, 'input')) : {};
  const required = (query.required ?? []) as string[];
  return {
    operationId: operationIdOf(endpoint),
    summary: endpoint.summary,
    description: descriptionOf(endpoint),
    tags: [endpoint.group],
    parameters: [
      ...Object.entries(endpoint.parameters ?? {}).map(([name, values]) => ({
        name,
        in: 'path',
        required: true,
        ...(typeof values === 'string'
          ? { schema: { type: 'string' }, example: values }
          : { schema: { type: 'string', enum: values } }),
      })),
      ...Object.entries((query.properties ?? {}) as Json)
        .filter(([name]) => !endpoint.omit?.includes(name))
        .map(([name, schema]) => parameter(name, schema as Json, required.includes(name))),
    ],
    responses: {
      200: {
        description: ANSWER_OF[endpoint.group],
        content: Object.fromEntries(endpoint.produces.map((type) => [type, { schema: { type: 'string' } }])),
      },
      ...(endpoint.group === 'files' && { 206: { description: 'The rest of a file, for `Range` with `If-Range`.' } }),
      default: FAILED,
    },
  };
}

const parameter = (name: string, schema: Json, required: boolean) => ({ name, in: 'query', required, schema });

const FAILED = { $ref: '#/components/responses/Error' };

const responses = (type: string, schema: Json, example: unknown) => ({
  200: { description: 'Done.', content: { [type]: { schema, example } } },
  default: FAILED,
});

/** Returns undefined for input without fields: no body is sent. */
function bodyOf({ input }: Procedure, schema: Json, schemas: Schemas): { requestBody?: Json } {
  const { properties } = schemas.resolve(schema);
  if (properties && Object.keys(properties).length === 0) return {};
  const required = !input.safeParse(undefined).success;
  return {
    requestBody: { required, content: { [JSON_TYPE]: { schema, example: exampleOf(schema, schemas.resolve) } } },
  };
}

function descriptionOf({ access, platform }: Pick<Procedure, 'access' | 'platform'>): string {
  const needs = `Needs the access \`${access}\`.`;
  return platform ? `${needs} About all merchants: refused to keys that are bound to one.` : needs;
}

type Schemas = {
  /** The reference to a schema, or the schema itself where it has no name. */
  of(schema: z.ZodType, io: Io): Json;
  add(name: string, schema: Json): Json;
  /** Follows a reference. */
  resolve(schema: Json): Json;
  all(): Record<string, Json>;
};

/**
 * Names the schemas of the procedures: exported ones keep their names, the others are named after their procedure. A
 * schema that reads and writes differently (defaults, transforms) becomes `Name` and `NameInput`.
 */
function schemasOf(served: readonly { service: ServiceName; name: string; procedure: Procedure }[]): Schemas {
  const named = new Map<z.ZodType, string>();
  for (const [name, schema] of Object.entries(exported)) if (schema instanceof z.ZodType) named.set(schema, name);
  const users = new Map<z.ZodType, { io: Io; names: string[] }>();
  for (const { name, procedure } of served)
    for (const io of ['input', 'output'] as const) {
      const known = users.get(procedure[io]);
      if (known) known.names.push(name);
      else users.set(procedure[io], { io, names: [name] });
    }
  const taken = new Set(named.values());
  for (const [schema, { io, names }] of users) {
    if (named.has(schema)) continue;
    const choices = [sharedName(names), names[0]!].map(
      (name) => `${pascal(name)}${io === 'input' ? 'Input' : 'Output'}`,
    );
    const name = choices.find((choice) => !taken.has(choice))!;
    taken.add(name);
    named.set(schema, name);
  }

  const forms = { input: formsOf(named, 'input'), output: formsOf(named, 'output') };
  const roots = { input: new Set<string>(), output: new Set<string>() };
  for (const { procedure } of served)
    for (const io of ['input', 'output'] as const) roots[io].add(named.get(procedure[io])!);
  for (const { endpoints } of Object.values(SERVICES))
    for (const { query } of endpoints) if (query && named.has(query)) roots.input.add(named.get(query)!);
  const used = { input: reach(roots.input, forms.input), output: reach(roots.output, forms.output) };

  const split = new Set<string>();
  for (let size = -1; size !== split.size; ) {
    size = split.size;
    for (const name of used.input) {
      if (!used.output.has(name)) continue;
      const [input, output] = [JSON.stringify(forms.input[name]), JSON.stringify(forms.output[name])];
      if (input !== output || refsIn(forms.input[name]!).some((ref) => split.has(ref))) split.add(name);
    }
  }
  const nameOf = (name: string, io: Io) => (io === 'input' && split.has(name) ? `${name}Input` : name);
  const all = new Map<string, Json>();
  for (const io of ['input', 'output'] as const)
    for (const name of used[io])
      all.set(
        nameOf(name, io),
        mapRefs(forms[io][name]!, (ref) => nameOf(ref, io)),
      );

  const resolve = (schema: Json): Json =>
    typeof schema.$ref === 'string' ? resolve(all.get(schema.$ref.slice(REF.length))!) : schema;
  return {
    of: (schema, io) => ({ $ref: REF + nameOf(named.get(schema)!, io) }),
    add(name, schema) {
      all.set(name, schema);
      return { $ref: REF + name };
    },
    resolve,
    all: () => Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

function formsOf(named: ReadonlyMap<z.ZodType, string>, io: Io): Record<string, Json> {
  const registry = z.registry<{ id: string }>();
  for (const [schema, id] of named) registry.add(schema, { id });
  const { schemas } = z.toJSONSchema(registry, {
    io,
    unrepresentable: 'any',
    uri: (id) => REF + id,
    override({ zodSchema, jsonSchema }) {
      // zod drops them for input that is transformed; ours are always input.
      const { examples } = z.globalRegistry.get(zodSchema) ?? {};
      if (examples) jsonSchema.examples = examples as unknown[];
    },
  });
  return Object.fromEntries(
    Object.entries(schemas).map(([name, { $schema: _, $id: __, ...schema }]) => [name, simplified(schema, io)]),
  );
}

/** Removes the bounds of safe integers, and lets answers gain fields in later versions. */
function simplified(schema: Json, io: Io): Json {
  return JSON.parse(JSON.stringify(schema), (key, value) => {
    if (key === 'additionalProperties' && value === false && io === 'output') return undefined;
    if ((key === 'minimum' || key === 'maximum') && Math.abs(value) === Number.MAX_SAFE_INTEGER) return undefined;
    return value;
  }) as Json;
}

function refsIn(schema: Json): string[] {
  const refs: string[] = [];
  mapRefs(schema, (ref) => {
    refs.push(ref);
    return ref;
  });
  return refs;
}

function mapRefs(schema: Json, change: (name: string) => string): Json {
  return JSON.parse(JSON.stringify(schema), (key, value) =>
    key === '$ref' && typeof value === 'string' ? REF + change(value.slice(REF.length)) : value,
  ) as Json;
}

function reach(roots: Iterable<string>, forms: Record<string, Json>): Set<string> {
  const seen = new Set<string>(roots);
  for (const name of seen) for (const ref of refsIn(forms[name]!)) seen.add(ref);
  return seen;
}

/** Returns the parts that all names share: `rollups.run` for `rollups.daily.run` and `rollups.weekly.run`. */
const sharedName = ([first = '', ...others]: readonly string[]): string =>
  first
    .split('.')
    .filter((part) => others.every((other) => other.split('.').includes(part)))
    .join('.');

const groupOf = (name: string) => name.split('.')[0]!;
const methodOf = ({ method }: { method: HttpMethod }): Method => method.toLowerCase() as Method;
const pascal = (name: string) =>
  name
    .replace(/(?:^|[^A-Za-z0-9]+)([A-Za-z0-9])/g, (_, letter: string) => letter.toUpperCase())
    .replace(/[^A-Za-z0-9]/g, '');
const operationIdOf = ({ method, path }: { method: HttpMethod; path: string }) => methodOf({ method }) + pascal(path);
const object = (properties: Json): Json => ({ type: 'object', properties, required: Object.keys(properties) });

/** Makes a value of a schema from its examples. Leaves out optional fields without one. */
function exampleOf(schema: Json, resolve: (schema: Json) => Json): unknown {
  const {
    examples,
    const: constant,
    enum: values,
    anyOf,
    oneOf,
    allOf,
    type: types,
    ...rest
  } = resolve(schema) as {
    examples?: unknown[];
    enum?: unknown[];
    anyOf?: Json[];
    oneOf?: Json[];
    allOf?: Json[];
    [key: string]: unknown;
  };
  const type = Array.isArray(types) ? types[0] : types;
  if (examples) return examples[0];
  if (constant !== undefined) return constant;
  if (values) return values[0];
  const of = (each: Json) => exampleOf(each, resolve);
  const [choice] = anyOf ?? oneOf ?? [];
  if (choice) return of(choice);
  if (allOf) return of(Object.assign({}, ...allOf.map(resolve), rest, { type }));
  if (type === 'array') return [of(rest.items as Json)];
  if (type === 'object') {
    const {
      required = [],
      properties = {},
      additionalProperties,
      propertyNames,
    } = rest as Json & {
      required?: string[];
      properties?: Record<string, Json>;
    };
    const fields = required.map((name) => [name, of(properties[name]!)]);
    if (typeof additionalProperties !== 'object') return Object.fromEntries(fields);
    const name = propertyNames ? String(of({ type: 'string', ...(propertyNames as Json) })) : 'name';
    return Object.fromEntries([...fields, [name, of(additionalProperties as Json)]]);
  }
  if (type === 'integer' || type === 'number') return Math.max(Number(rest.minimum ?? 0), 1);
  if (type === 'boolean') return true;
  if (type === 'null') return null;
  if (rest.format === 'uuid') return EXAMPLE_ID;
  return 'text';
}

const ERROR_CODE: Json = {
  type: 'string',
  enum: Object.keys(exported.ERRORS),
  description: Object.entries(exported.ERRORS)
    .map(([code, { status, action }]) => `- \`${code}\` (${status}): ${action}`)
    .join('\n'),
};

const ERROR: Json = object({
  error: {
    ...object({
      message: { type: 'string' },
      data: {
        type: 'object',
        properties: {
          code: { $ref: `${REF}ErrorCode` },
          httpStatus: { type: 'integer' },
          action: { type: 'string', description: 'What to do about it.' },
          path: { type: 'string', description: 'The procedure or the path.' },
          details: { description: 'What the caller can act on: the failing fields, the limit, the seconds to wait.' },
        },
        required: ['code', 'httpStatus', 'action'],
      },
    }),
  },
});
