import { analytics, type Contract, engine, ingest, isProcedure, MAX_ITEMS, type Procedure } from '@tally/contracts';

export const SERVICES = ['usage-ingest', 'metrics-engine', 'analytics-api'] as const;
export type Service = (typeof SERVICES)[number];

const CONTRACTS: Record<Service, Contract> = {
  'usage-ingest': ingest,
  'metrics-engine': engine,
  'analytics-api': analytics,
};

/** Path prefixes outside of tRPC, the longest first. */
const PATHS: readonly (readonly [prefix: string, owner: Service])[] = (
  [
    ['/api/admin/metrics/', 'metrics-engine'],
    ['/api/v1/admin/usage/', 'analytics-api'],
    ['/api/v1/usage/', 'analytics-api'],
    ['/api/v1/events', 'usage-ingest'],
    ['/export/', 'analytics-api'],
    ['/metrics/usage', 'analytics-api'],
    ['/sources/', 'usage-ingest'],
    ['/sources/litellm/', 'analytics-api'],
    ['/v1/traces', 'usage-ingest'],
    ['/v1/billing/', 'usage-ingest'],
    ['/v2/billing/', 'usage-ingest'],
    ['/docs', 'metrics-engine'],
    ['/openapi.json', 'metrics-engine'],
  ] satisfies [string, Service][]
).sort(([a], [b]) => b.length - a.length);

type Owned = { service: Service; kind: Procedure['kind']; maxItems: number };

const procedures = new Map<string, Owned>();
for (const service of SERVICES) collect(service, CONTRACTS[service], '');

function collect(service: Service, contract: Contract, prefix: string): void {
  for (const [name, node] of Object.entries(contract)) {
    if (isProcedure(node)) {
      const { kind, maxItems = MAX_ITEMS } = node;
      procedures.set(prefix + name, { service, kind, maxItems });
    } else collect(service, node, `${prefix}${name}.`);
  }
}

/** Returns the service that answers a tRPC procedure, the procedure's kind, and the items its JSON may have; undefined for an unknown name. */
export const ownerOfProcedure = (name: string): Owned | undefined => procedures.get(name);

/** Returns the service that answers a path outside of tRPC; undefined where none does. */
export function ownerOfPath(path: string): Service | undefined {
  return PATHS.find(([prefix]) => (prefix.endsWith('/') ? path.startsWith(prefix) : isWithin(path, prefix)))?.[1];
}

const isWithin = (path: string, prefix: string) => path === prefix || path.startsWith(`${prefix}/`);
