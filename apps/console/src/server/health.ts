import { VERSION } from '@tally/service';
import { readWithin } from './body.ts';
import { SERVICES, type Service } from './owners.ts';
import type { Upstream } from './upstream.ts';

export type ServiceState = { ok: boolean; [fact: string]: unknown };
export type ConsoleHealth = {
  /** True while at least one service answers: its functions work without the others. */
  ok: boolean;
  degraded: boolean;
  service: 'console';
  version: string;
  services: Record<Service, ServiceState>;
};

const ANSWER_WITHIN_MS = 2_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/** Requests the readiness of every service. */
export async function readHealth(upstream: Upstream): Promise<ConsoleHealth> {
  const states = await Promise.all(
    SERVICES.map(async (service) => [service, await stateOf(upstream, service)] as const),
  );
  const services = Object.fromEntries(states) as Record<Service, ServiceState>;
  const ready = states.filter(([, { ok }]) => ok).length;
  const degraded = states.some(([, state]) => !state.ok || state.degraded === true);
  return { ok: ready > 0, degraded, service: 'console', version: VERSION, services };
}

async function stateOf(upstream: Upstream, service: Service): Promise<ServiceState> {
  try {
    const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
    const answer = await upstream.send({ service, method: 'GET', path: '/readyz', headers: {}, body: null, signal });
    const facts = JSON.parse(await readWithin(answer.body, MAX_ANSWER_BYTES)) as Record<string, unknown>;
    return { ...facts, ok: answer.statusCode === 200 };
  } catch {
    return { ok: false, notes: [`${service} does not answer.`] };
  }
}
