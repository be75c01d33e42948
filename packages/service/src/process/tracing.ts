import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type * as Api from '@opentelemetry/api';
import type { Attributes, Link, SpanContext, Tracer } from '@opentelemetry/api';

/** A finished step on the path of events. */
export type Step = {
  name: string;
  /** Identifies the step for later ones, in any process. */
  key: string;
  /** The steps it continues, by key, and the requests it serves. */
  after?: Iterable<string>;
  requests?: Iterable<SpanContext | undefined>;
  /** Milliseconds since 1970. */
  startedAt: number;
  attributes?: Attributes;
};

export type SpanIds = { traceId: string; spanId: string };

/**
 * The parts of the SDK that tracing uses; see otel.ts, which alone loads them. `withIds` creates a span with these ids.
 */
type Sdk = { api: typeof Api; tracer: Tracer; withIds<T>(ids: SpanIds, start: () => T): T };

/** Machines call these every few seconds. */
const UNTRACED = /^\/(livez|readyz|metrics)$/;

/** The tracer of the process, like OpenTelemetry's global API. Undefined: nothing is traced, and nothing costs. */
let sdk: Sdk | undefined;

/** Switches tracing on, or off with undefined. */
export function setTracing(next: Sdk | undefined): void {
  sdk = next;
}

/**
 * Starts the span of a request, as a child of its `traceparent`. `run` makes it the active one; `end` ends it. Returns
 * undefined while nothing is traced.
 */
export function requestSpan({ method = '', url = '', headers }: IncomingMessage) {
  if (!sdk || UNTRACED.test(url)) return undefined;
  const { context, propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = sdk.api;
  const parent = propagation.extract(ROOT_CONTEXT, headers);
  const span = sdk.tracer.startSpan(method, { kind: SpanKind.SERVER }, parent);
  const own = trace.setSpan(parent, span);
  return {
    run: <T>(work: () => T): T => context.with(own, work),
    end(route: string, status: number): void {
      span.updateName(`${method} ${route}`);
      span.setAttributes({ 'http.request.method': method, 'http.route': route, 'http.response.status_code': status });
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end();
    },
  };
}

/** The span of the request that the caller works for; undefined without one, or while nothing is traced. */
export function activeRequest(): SpanContext | undefined {
  return sdk?.api.trace.getSpanContext(sdk.api.context.active());
}

/** Returns headers that add a call to another service to the active trace. */
export function traceHeaders(): Record<string, string> {
  const headers: Record<string, string> = {};
  if (sdk) sdk.api.propagation.inject(sdk.api.context.active(), headers);
  return headers;
}

/**
 * Records a step that ends now. Its ids are derived from its key, so that a later step in another process can link to
 * it with only the key stored on the way. Does not call `stepOf` while nothing is traced.
 */
export function recordStep(stepOf: () => Step): void {
  if (!sdk) return;
  const { name, key, after = [], requests = [], startedAt, attributes = {} } = stepOf();
  const { api, tracer, withIds } = sdk;
  const spans = new Map([...requests].flatMap((span) => (span ? [[span.spanId, span] as const] : [])));
  const links: Link[] = [
    ...[...spans.values()].map((span) => ({ context: span })),
    ...[...new Set(after)].map((before) => ({ context: { ...idsOf(before), traceFlags: api.TraceFlags.SAMPLED } })),
  ];
  const options = { root: true, startTime: startedAt, links, attributes };
  withIds(idsOf(key), () => tracer.startSpan(name, options)).end();
}

function idsOf(key: string): SpanIds {
  const hash = createHash('sha256').update(key).digest('hex');
  return { traceId: hash.slice(0, 32), spanId: hash.slice(32, 48) };
}
