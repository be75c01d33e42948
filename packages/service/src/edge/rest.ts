import { type Procedure, proceduresOf, type Rest, SERVICES, type ServiceName, TallyError } from '@tally/contracts';
import { openApi } from '@tally/contracts/openapi';
import { z } from 'zod';
import { numbersOf } from './numbers.ts';
import { queryOf } from './query.ts';
import { textOfReady } from './ready-json.ts';
import type { Route } from './route.ts';

/**
 * Creates the REST paths of a service's contract, and its `/openapi.json`. A REST call becomes the call of its
 * procedure, with the same access, checks and errors. The answer has no tRPC wrapper.
 */
export function contractRoutes(service: ServiceName): Route[] {
  // Made when first asked: it takes a tenth of a start, and few ask.
  let document: string | undefined;
  return [
    ...proceduresOf(SERVICES[service].contract).flatMap(([name, procedure]) =>
      (procedure.rest ?? []).map((rest) => routeOf(name, procedure, rest)),
    ),
    {
      method: 'GET',
      path: '/openapi.json',
      access: 'open',
      answer(c) {
        document ??= JSON.stringify(openApi(service));
        return c.body(document, 200, { 'content-type': 'application/json' });
      },
    },
  ];
}

function routeOf(name: string, procedure: Procedure, rest: Rest): Route {
  const { access, platform, maxItems } = procedure;
  const { method, path, anyType } = rest;
  const fromQuery = method === 'GET' ? queryReader(procedure) : undefined;
  const { fixed } = rest;
  const asNumbers = rest.numbers ? numbersOf(procedure.output) : undefined;
  return {
    method,
    path,
    access,
    ...(platform && { platform }),
    ...(maxItems && { maxItems }),
    ...(anyType && { anyType }),
    async answer(c, { call, json }) {
      const { url, numbers } = rest.numbers ? withoutNumbers(c.req.url) : { url: c.req.url, numbers: false };
      const given = fromQuery ? fromQuery(url) : json();
      const input = rest.aliases || fixed ? { ...renamed(given, rest), ...fixed } : given;
      const answer = await call(name, input);
      const ready = textOfReady(answer);
      if (numbers && asNumbers) return c.json(asNumbers(ready === undefined ? answer : JSON.parse(ready)) as object);
      return ready === undefined
        ? c.json(answer as object)
        : c.body(ready, 200, { 'content-type': 'application/json' });
    },
  };
}

/** Removes the parameter `numbers` from a URL. */
function withoutNumbers(text: string): { url: string; numbers: boolean } {
  const url = new URL(text);
  const given = url.searchParams.getAll('numbers');
  if (given.length > 1 || (given.length === 1 && given[0] !== 'true' && given[0] !== 'false'))
    throw new TallyError('INVALID_INPUT', 'numbers: Expected true or false, once.');
  url.searchParams.delete('numbers');
  return { url: url.href, numbers: given[0] === 'true' };
}

function renamed(given: unknown, { aliases = {} }: Rest): Record<string, unknown> {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new TallyError('INVALID_INPUT', 'Send a JSON object.');
  for (const [alias, name] of Object.entries(aliases)) {
    if (Object.hasOwn(given, alias) && Object.hasOwn(given, name))
      throw new TallyError('INVALID_INPUT', `${alias} and ${name} are the same; send one of them.`);
  }
  const nameOf = (field: string) => (Object.hasOwn(aliases, field) ? aliases[field]! : field);
  return Object.fromEntries(Object.entries(given).map(([field, value]) => [nameOf(field), value]));
}

const DECIMAL = /^-?\d+(\.\d+)?$/;

/** Reads the input of a procedure from query parameters. */
function queryReader({ input }: Procedure): (url: string) => object {
  const { properties = {} } = z.toJSONSchema(input, { io: 'input', unrepresentable: 'any' });
  const ofType = (...types: unknown[]) =>
    Object.keys(properties).filter((key) => types.includes((properties[key] as { type?: string }).type));
  /** Returns one value or several of them. */
  const either = Object.keys(properties).filter((key) =>
    (properties[key] as { anyOf?: { type?: string }[] }).anyOf?.some(({ type }) => type === 'array'),
  );
  const lists = [...ofType('array'), ...either];
  const numbers = ofType('integer', 'number');
  const flags = ofType('boolean');
  // The schema rejects anything that is no number or flag.
  const read = (key: string, value: string | string[]) => {
    if (numbers.includes(key) && DECIMAL.test(String(value))) return Number(value);
    if (flags.includes(key) && (value === 'true' || value === 'false')) return value === 'true';
    if (!either.includes(key) || value.length > 1) return value;
    // Several of them are short names of the contract, so a comma divides them as in exports.
    return value[0]!.includes(',') ? value[0]!.split(',') : value[0];
  };
  return (url) =>
    Object.fromEntries(Object.entries(queryOf(url, lists)).map(([key, value]) => [key, read(key, value)]));
}
