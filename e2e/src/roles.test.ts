import {
  type Access,
  analytics,
  type Contract,
  dayOf,
  engine,
  type HttpMethod,
  ingest,
  isProcedure,
  LITELLM_PATHS,
  type Procedure,
  type Role,
  SERVICES,
} from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { hashKey, migrate } from '@tally/db';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/** Permissions: every role, bound to a merchant and not, against every procedure and every other path. */
const KEYS = { TALLY_ADMIN_KEY: 'the-admin-key-of-the-platform', TALLY_SERVICE_KEY: 'the-service-key-of-the-platform' };
const TODAY = dayOf(Date.now());

/** The permissions of each role, written independently of the code that decides them. */
const MAY: Record<Role, Access[]> = {
  producer: ['record'],
  member: ['record', 'read'],
  viewer: ['read'],
  analyst: ['read', 'define'],
  admin: ['record', 'read', 'define', 'admin', 'internal'],
  service: ['record', 'read', 'admin', 'internal'],
};
const ROLES = ['producer', 'member', 'viewer', 'analyst', 'admin'] as const;

const contracts: Record<string, Contract> = {
  'usage-ingest': ingest,
  'metrics-engine': engine,
  'analytics-api': analytics,
};
const procedures = Object.entries(contracts).flatMap(([service, contract]) =>
  flatten(contract).map(([path, procedure]) => ({ service, path, procedure })),
);

/**
 * `isSource`: it speaks another product's API, including its errors. `byStatus`: only the status shows whether a key
 * was accepted, for such errors, and for procedures without an input that could be refused.
 */
type Path = {
  service: string;
  method: HttpMethod;
  path: string;
  access: Access;
  body?: string;
  isSource?: boolean;
  byStatus?: boolean;
};
/**
 * The paths beside tRPC (tests of the services check that no route is missing here), each with a request that is
 * refused for its input if the key is valid.
 */
const PATHS: Path[] = [
  ...procedures.flatMap(({ service, procedure: { access, rest = [] } }) =>
    rest.map(({ method, path }) =>
      method === 'GET'
        ? { service, method, path: `${path}?unheardOf=1`, access }
        : { service, method, path, access, body: '{"unheardOf":1}' },
    ),
  ),
  ...Object.entries(SERVICES).flatMap(([service, { endpoints }]) =>
    endpoints.flatMap(({ method, path, access, group, query, parameters = {} }) =>
      expand(path, parameters).map((each) => ({
        service,
        method,
        path: each,
        access,
        isSource: group === 'sources',
        byStatus: group === 'sources' || query === undefined,
        ...((method === 'POST' || method === 'PUT') && { body: '7' }),
      })),
    ),
  ),
  // Former addresses, which forward.
  ...Object.values(LITELLM_PATHS).map(
    (path): Path => ({
      ...{ service: 'analytics-api', method: 'POST', path, access: 'record', body: '7' },
      isSource: true,
      byStatus: true,
    }),
  ),
];

type Key = { name: string; secret: string | undefined; role?: Role; bound?: boolean };

let services: Record<string, ServiceProcess> = {};
let releases: (() => Promise<unknown>)[] = [];
const living: Key[] = [];
/** Keys that open nothing, whatever they once were. */
const dead: Key[] = [{ name: 'no key', secret: undefined }];

beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, LOG_LEVEL: 'fatal', ...KEYS };
  const usageIngest = await startServiceProcess('usage-ingest', {
    ...env,
    ENABLE_FLUSH: 'false',
    // analytics-api answers queries of sources: reaching it shows that the key was accepted.
    ANALYTICS_API_URL: 'http://127.0.0.1:1',
  });
  const urls = {
    USAGE_INGEST_URL: usageIngest.url,
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    ADMIN_EXPORT_RATE_LIMIT: '100000',
    ADMIN_CACHE_REBUILD_LIMIT: '100000',
  };
  services = {
    'usage-ingest': usageIngest,
    'metrics-engine': await startServiceProcess('metrics-engine', {
      ...env,
      ...urls,
      ENABLE_METRICS_SCHEDULER: 'false',
    }),
    'analytics-api': await startServiceProcess('analytics-api', { ...env, ...urls }),
  };
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  releases = [
    ...Object.values(services).map((service) => () => service.stop()),
    () => client.end(),
    database.drop,
    redis.drop,
  ];

  const { keys } = createIngestClient({ url: usageIngest.url, key: KEYS.TALLY_ADMIN_KEY });
  for (const role of ROLES) {
    for (const bound of [false, true]) {
      // The example merchant in the paths of sources.
      const made = await keys.create.mutate({ name: role, role, ...(bound && { merchantId: 'acme' }) });
      living.push({ name: `${role}${bound ? ', bound' : ''}`, secret: made.key, role, bound });
    }
  }
  living.push(
    { name: 'the admin key', secret: KEYS.TALLY_ADMIN_KEY, role: 'admin', bound: false },
    { name: 'the service key', secret: KEYS.TALLY_SERVICE_KEY, role: 'service', bound: false },
  );
  const admin = () => keys.create.mutate({ name: 'admin', role: 'admin' });
  const rotated = await admin();
  const { key: current } = await keys.rotate.mutate({ id: rotated.id, overlapSeconds: 600 });
  living.push(
    { name: 'admin, rotated', secret: current, role: 'admin', bound: false },
    { name: 'admin, in the overlap', secret: rotated.key, role: 'admin', bound: false },
  );

  const [revoked, replaced, expired, overlapped] = [await admin(), await admin(), await admin(), await admin()];
  await keys.revoke.mutate({ id: revoked.id });
  await keys.rotate.mutate({ id: replaced.id, overlapSeconds: 0 });
  await keys.rotate.mutate({ id: overlapped.id, overlapSeconds: 600 });
  await client.query(`update api_keys set expires_at = now() - interval '1 second' where hash = $1`, [
    hashKey(expired.key),
  ]);
  await client.query(`update api_keys set previous_expires_at = now() - interval '1 second' where previous_hash = $1`, [
    hashKey(overlapped.key),
  ]);
  dead.push(
    { name: 'a revoked key', secret: revoked.key },
    { name: 'a key that was rotated without an overlap', secret: replaced.key },
    { name: 'an expired key', secret: expired.key },
    { name: 'a key after its overlap', secret: overlapped.key },
    { name: 'a made-up key', secret: `tally_admin_${'x'.repeat(43)}` },
    { name: 'the hash of a key', secret: hashKey(rotated.key) },
  );
});

afterAll(async () => {
  for (const release of releases) await release();
});

describe.each(procedures)('$service: $path', ({ service, path, procedure }) => {
  const { kind, access, platform } = procedure;
  // No procedure accepts unknown fields, so an accepted key reads and changes nothing.
  const input = { unheardOf: 1 };
  const call = (key: Key) =>
    kind === 'mutation'
      ? send(service, { method: 'POST', path: `/trpc/${path}`, body: JSON.stringify(input) }, key)
      : send(service, { method: 'GET', path: `/trpc/${path}?input=${encodeURIComponent(JSON.stringify(input))}` }, key);

  test('is open to those whose role has its access, and refuses bound keys where it is about all merchants', async () => {
    const expected = living.map(({ name, role, bound }) => {
      if (!MAY[role!].includes(access)) return [name, 'FORBIDDEN'];
      return [name, platform && bound ? 'MERCHANT_FORBIDDEN' : 'let in'];
    });
    expect(await answers(living, call)).toEqual(expected);
  });

  test('is closed to every other key', async () => {
    expect(await answers(dead, call)).toEqual(dead.map(({ name }) => [name, 'UNAUTHORIZED']));
  });
});

describe.each(PATHS)('$service: $method $path', (request) => {
  const call = (key: Key) => send(request.service, request, key);

  test('is open to those whose role has its access', async () => {
    const expected = living.map(({ name, role }) => [
      name,
      MAY[role!].includes(request.access) ? 'let in' : 'FORBIDDEN',
    ]);
    expect(await answers(living, call)).toEqual(expected);
  });

  test('is closed to every other key', async () => {
    expect(await answers(dead, call)).toEqual(dead.map(({ name }) => [name, 'UNAUTHORIZED']));
  });
});

describe.each(['usage-ingest', 'metrics-engine', 'analytics-api'])('%s', (service) => {
  const path = procedures.find((each) => each.service === service && each.procedure.kind === 'mutation')!.path;
  const call = (headers: Record<string, string>) =>
    codeOf(`${services[service]!.url}/trpc/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: '{"unheardOf":1}',
    });

  test('takes a key as Bearer or x-api-key, and not as Basic', async () => {
    const secret = KEYS.TALLY_ADMIN_KEY;
    expect(await call({ authorization: `Bearer ${secret}` })).toBe('let in');
    expect(await call({ 'x-api-key': secret })).toBe('let in');
    expect(await call({ authorization: `Basic ${Buffer.from(`:${secret}`).toString('base64')}` })).toBe('UNAUTHORIZED');
    expect(await call({ 'x-api-key': `${secret}!` })).toBe('UNAUTHORIZED');
  });
});

test.each(PATHS)(
  '$service: $method $path takes Basic only where it is a source',
  async ({ service, method, path, body, isSource }) => {
    const basic = `Basic ${Buffer.from(`tally:${KEYS.TALLY_ADMIN_KEY}`).toString('base64')}`;
    const code = await codeOf(
      `${services[service]!.url}${path}`,
      {
        method,
        headers: { authorization: basic, ...(body !== undefined && { 'content-type': 'application/json' }) },
        ...(body !== undefined && { body }),
      },
      isSource,
    );
    expect(code).toBe(isSource ? 'let in' : 'UNAUTHORIZED');
  },
);

test('an export shows a bound key its own merchant only', async () => {
  const range = `startDate=${TODAY}&endDate=${TODAY}`;
  const bound = living.filter((key) => key.bound && MAY[key.role!].includes('read'));
  const foreign = (key: Key) =>
    send('analytics-api', { method: 'GET', path: `/export/usage.csv?${range}&merchantIds=theirs` }, key);
  expect(await answers(bound, foreign)).toEqual(bound.map(({ name }) => [name, 'MERCHANT_FORBIDDEN']));
});

async function answers(keys: Key[], call: (key: Key) => Promise<string>): Promise<string[][]> {
  const found: string[][] = [];
  for (const key of keys) found.push([key.name, await call(key)]);
  return found;
}

function send(
  service: string,
  { method, path, body, byStatus }: Omit<Path, 'service' | 'access'>,
  { secret }: Key,
): Promise<string> {
  const init = {
    method,
    headers: {
      ...(secret !== undefined && { authorization: `Bearer ${secret}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body }),
  };
  return codeOf(`${services[service]!.url}${path}`, init, byStatus);
}

/** Returns `let in` if the input was refused, else the code of the refusal. */
async function codeOf(url: string, init: RequestInit, byStatus = false): Promise<string> {
  const response = await fetch(url, init);
  const text = await response.text();
  if (byStatus) {
    const code = { 401: 'UNAUTHORIZED', 403: 'FORBIDDEN', 500: text }[response.status];
    return code ?? 'let in';
  }
  // A stream may begin with 200 and then report a refusal, so the status does not count.
  const code = /"code":"([A-Z_]+)"/.exec(text)?.[1] ?? text.slice(0, 200);
  return /^INVALID_/.test(code) ? 'let in' : code;
}

function flatten(contract: Contract, before = ''): [string, Procedure][] {
  return Object.entries(contract).flatMap(([name, node]): [string, Procedure][] =>
    isProcedure(node) ? [[`${before}${name}`, node]] : flatten(node, `${before}${name}.`),
  );
}

/** Replaces each `{parameter}` of a path by each of its values. */
function expand(path: string, parameters: Readonly<Record<string, readonly string[] | string>>): string[] {
  return Object.entries(parameters).reduce(
    (paths, [name, values]) =>
      paths.flatMap((each) => [values].flat().map((value) => each.replace(`{${name}}`, value))),
    [path],
  );
}
