import { SERVICES as CONTRACTS, MAX_ITEMS, type Procedure, proceduresOf, type ServiceName } from '@tally/contracts';

export type Service = ServiceName;
export const SERVICES = Object.keys(CONTRACTS) as readonly Service[];

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
    ['/v1/traces', 'usage-ingest'],
    ['/v1/billing/', 'usage-ingest'],
    ['/v2/billing/', 'usage-ingest'],
  ] satisfies [string, Service][]
).sort(([a], [b]) => b.length - a.length);

type Owned = { service: Service; kind: Procedure['kind']; maxItems: number };

const procedures = new Map<string, Owned>(
  SERVICES.flatMap((service) =>
    proceduresOf(CONTRACTS[service].contract).map(
      ([name, { kind, maxItems = MAX_ITEMS }]) => [name, { service, kind, maxItems }] as const,
    ),
  ),
);

/** Returns the owner of a tRPC procedure, its kind, and its limit of JSON items; undefined for an unknown name. */
export const ownerOfProcedure = (name: string): Owned | undefined => procedures.get(name);

/** Returns the service that answers a path outside of tRPC; undefined without one. */
export function ownerOfPath(path: string): Service | undefined {
  return PATHS.find(([prefix]) => (prefix.endsWith('/') ? path.startsWith(prefix) : isWithin(path, prefix)))?.[1];
}

const isWithin = (path: string, prefix: string) => path === prefix || path.startsWith(`${prefix}/`);
