import { analytics, analyticsEndpoints } from './analytics.ts';
import { type Contract, type Endpoint, isProcedure, type Procedure } from './contract.ts';
import { engine } from './engine.ts';
import { ingest } from './ingest.ts';
import { sourceEndpoints } from './sources.ts';

export type ServiceName = 'usage-ingest' | 'metrics-engine' | 'analytics-api';

export type ServiceContract = {
  /** The purpose of the service, in one sentence. */
  readonly summary: string;
  readonly contract: Contract;
  readonly endpoints: readonly Endpoint[];
};

/** The contract of each service. */
export const SERVICES: Readonly<Record<ServiceName, ServiceContract>> = {
  'usage-ingest': {
    summary: 'Records usage and explains every number.',
    contract: ingest,
    endpoints: sourceEndpoints,
  },
  'analytics-api': { summary: 'Answers queries about usage.', contract: analytics, endpoints: analyticsEndpoints },
  'metrics-engine': {
    summary: 'Computes rollups, realtime metrics and custom metrics.',
    contract: engine,
    endpoints: [],
  },
};

/** Returns the paths of a service beside tRPC, health and metrics. */
export function pathsOf(service: ServiceName): readonly Pick<Endpoint, 'method' | 'path'>[] {
  const { contract, endpoints } = SERVICES[service];
  return [...proceduresOf(contract).flatMap(([, { rest = [] }]) => rest), ...endpoints];
}

/** Returns the procedures of a contract with their names, such as `usage.record`. */
export function proceduresOf(contract: Contract, prefix = ''): [name: string, procedure: Procedure][] {
  return Object.entries(contract).flatMap(([key, node]): [string, Procedure][] =>
    isProcedure(node) ? [[prefix + key, node]] : proceduresOf(node, `${prefix}${key}.`),
  );
}
