import { randomBytes } from 'node:crypto';
import * as api from '@opentelemetry/api';
import { context, type HrTime, propagation, ValueType } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { hrTime, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-http';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  AggregationTemporality,
  DataPointType,
  MeterProvider,
  type MetricData,
  type MetricProducer,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, BatchSpanProcessor, type IdGenerator } from '@opentelemetry/sdk-trace-base';
import type { MetricObjectWithValues, MetricValue, Registry } from 'prom-client';
import { type SpanIds, setTracing } from './tracing.ts';

const EXPORT_INTERVAL_MS = 60_000;
/** The longest wait for the receiver, per export and at the end. */
const EXPORT_TIMEOUT_MS = 5_000;
const NAME = 'tally';

/**
 * Sends traces, and the metrics of a registry every minute, to an OTLP receiver over HTTP. Returns a function that
 * stops it.
 */
export function startSdk(endpoint: string, service: string, registry: Registry): () => Promise<void> {
  const base = endpoint.replace(/\/+$/, '');
  const resource = resourceFromAttributes({ 'service.name': service });
  const ids = createIds();
  const traces = new BasicTracerProvider({
    resource,
    idGenerator: ids,
    spanProcessors: [
      new BatchSpanProcessor(new OTLPTraceExporter({ url: `${base}/v1/traces`, timeoutMillis: EXPORT_TIMEOUT_MS })),
    ],
  });
  const metrics = new MeterProvider({
    resource,
    readers: [
      new PeriodicExportingMetricReader({
        exporter: new OTLPMetricExporter({ url: `${base}/v1/metrics`, timeoutMillis: EXPORT_TIMEOUT_MS }),
        exportIntervalMillis: EXPORT_INTERVAL_MS,
        exportTimeoutMillis: EXPORT_TIMEOUT_MS,
        metricProducers: [producerOf(registry, resource)],
      }),
    ],
  });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  setTracing({ api, tracer: traces.getTracer(NAME), withIds: ids.using });
  return async () => {
    setTracing(undefined);
    context.disable();
    propagation.disable();
    // A missing receiver must not keep a service from stopping.
    await Promise.allSettled([traces.shutdown(), metrics.shutdown()]);
  };
}

function createIds(): IdGenerator & { using<T>(own: SpanIds, start: () => T): T } {
  let next: SpanIds | undefined;
  return {
    generateTraceId: () => next?.traceId ?? randomBytes(16).toString('hex'),
    generateSpanId: () => next?.spanId ?? randomBytes(8).toString('hex'),
    using(own, start) {
      next = own;
      try {
        return start();
      } finally {
        next = undefined;
      }
    },
  };
}

/** Reads the metrics of `/metrics` under the same names, so that dashboards and alerts need no second list. */
function producerOf(registry: Registry, resource: ReturnType<typeof resourceFromAttributes>): MetricProducer {
  const startTime = hrTime();
  return {
    async collect() {
      const endTime = hrTime();
      const found = (await registry.getMetricsAsJSON()) as MetricObjectWithValues<MetricValue<string>>[];
      const metrics = found.flatMap((metric) => metricOf(metric, startTime, endTime) ?? []);
      return { resourceMetrics: { resource, scopeMetrics: [{ scope: { name: NAME }, metrics }] }, errors: [] };
    },
  };
}

function metricOf(
  { name, help, type, values }: MetricObjectWithValues<MetricValue<string>>,
  startTime: HrTime,
  endTime: HrTime,
): MetricData | undefined {
  const kind = String(type);
  const shared = {
    descriptor: { name, description: help, unit: '', valueType: ValueType.DOUBLE },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
  };
  const point = { startTime, endTime };
  const numbers = values.map(({ labels, value }) => ({ ...point, attributes: attributesOf(labels), value }));
  if (kind === 'counter')
    return { ...shared, dataPointType: DataPointType.SUM, isMonotonic: true, dataPoints: numbers };
  if (kind === 'gauge') return { ...shared, dataPointType: DataPointType.GAUGE, dataPoints: numbers };
  if (kind !== 'histogram') return undefined;
  const series = new Map<string, { labels: object; buckets: [number, number][]; sum: number; count: number }>();
  for (const { labels, value, metricName } of values as (MetricValue<string> & { metricName?: string })[]) {
    const { le, ...own } = labels as Record<string, string | number>;
    const key = JSON.stringify(own);
    const one = series.get(key) ?? { labels: own, buckets: [], sum: 0, count: 0 };
    series.set(key, one);
    if (metricName?.endsWith('_bucket')) one.buckets.push([le === '+Inf' ? Infinity : Number(le), value]);
    else if (metricName?.endsWith('_sum')) one.sum = value;
    else one.count = value;
  }
  const dataPoints = [...series.values()].map(({ labels, buckets, sum, count }) => {
    const sorted = buckets.sort(([a], [b]) => a - b);
    // Prometheus counts values below each bound, OTLP values between two bounds.
    const counts = sorted.map(([, below], index) => below - (sorted[index - 1]?.[1] ?? 0));
    const boundaries = sorted.map(([bound]) => bound).filter((bound) => bound !== Infinity);
    return { ...point, attributes: attributesOf(labels), value: { buckets: { boundaries, counts }, sum, count } };
  });
  return { ...shared, dataPointType: DataPointType.HISTOGRAM, dataPoints };
}

const attributesOf = (labels: object): Record<string, string> =>
  Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, String(value)]));
