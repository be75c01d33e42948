import type { Registry } from 'prom-client';
import type { Releasers } from './releasers.ts';

/**
 * Sends traces and metrics by OTLP if `OTEL_EXPORTER_OTLP_ENDPOINT` is set, until the releasers run. Otherwise the SDK
 * is not even loaded.
 */
export async function startTelemetry(
  { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }: { OTEL_EXPORTER_OTLP_ENDPOINT?: string | undefined },
  { service, registry, releasers }: { service: string; registry: Registry; releasers: Releasers },
): Promise<void> {
  if (endpoint === undefined) return;
  const { startSdk } = await import('./otel.ts');
  releasers.push('telemetry', startSdk(endpoint, service, registry));
}
