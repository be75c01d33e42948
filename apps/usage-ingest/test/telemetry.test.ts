import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { afterEach, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

type Ids = { traceId: string; spanId: string };
type Span = Ids & { name: string; kind: number; parentSpanId?: string; links?: Ids[] };
type Point = { attributes: { key: string; value: { stringValue: string } }[]; asDouble: number };
type Metric = { name: string; sum?: { dataPoints: Point[] }; histogram?: { dataPoints: { bucketCounts: number[] }[] } };
type Body = {
  resourceSpans?: { resource: { attributes: object[] }; scopeSpans: { spans: Span[] }[] }[];
  resourceMetrics?: { scopeMetrics: { metrics: Metric[] }[] }[];
};

/** A receiver of OTLP over HTTP, as JSON. */
const received: { path: string | undefined; body: Body }[] = [];
const receiver: Server = createServer(async (request, response) => {
  received.push({ path: request.url, body: (await json(request)) as Body });
  response.end('{}');
});
let ingest: Fixture | undefined;
const endpoint = async () => {
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  return `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`;
};

afterEach(async () => {
  await ingest?.close();
  receiver.close();
});

test('traces lead from a request to the rollups, and metrics have the names of /metrics', async () => {
  ingest = await startIngest({ OTEL_EXPORTER_OTLP_ENDPOINT: await endpoint() });
  const { admin, app, derive } = ingest;
  const parent = { traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7' };
  const entry = (id: string) => ({ id, merchantId: 'acme', time: '2026-11-22T11:00:00Z', metrics: { queries: '1' } });
  const answer = await app.request('/trpc/usage.record', {
    method: 'POST',
    headers: {
      ...{ authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
      traceparent: `00-${parent.traceId}-${parent.spanId}-01`,
    },
    body: JSON.stringify({ entries: [entry('traced')] }),
  });
  expect(answer.status).toBe(200);
  await admin.usage.record.mutate({ entries: [entry('other'), { ...entry('old'), time: '2026-11-01T11:00:00Z' }] });
  await app.request('/livez');
  await admin.flush.run.mutate({});
  await derive.run();
  // What is left is sent when the service stops.
  await ingest.close();
  ingest = undefined;

  const spans = received
    .flatMap(({ body }) => body.resourceSpans ?? [])
    .flatMap(({ scopeSpans }) => scopeSpans.flatMap((each) => each.spans));
  const named = (name: string) => spans.filter((span) => span.name === name);
  const isLinked = (from: Span, to: Ids) =>
    (from.links ?? []).some((link) => link.spanId === to.spanId && link.traceId === to.traceId);
  const [request, other] = named('POST usage.record');
  expect(request).toMatchObject({ traceId: parent.traceId, parentSpanId: parent.spanId });
  expect(other!.parentSpanId ?? '').toBe('');
  const accept = named('tally.accept').find((span) => isLinked(span, request!))!;
  const flush = named('tally.flush').find((span) => isLinked(span, accept))!;
  const direct = named('tally.flush').find((span) => isLinked(span, other!))!;
  expect(direct.spanId).not.toBe(flush.spanId);
  const derived = named('tally.derive');
  for (const each of [flush, direct]) expect(derived.some((span) => isLinked(span, each))).toBe(true);
  expect(spans.filter(({ name }) => name.includes('livez'))).toEqual([]);
  expect(received.every(({ path }) => path === '/v1/traces' || path === '/v1/metrics')).toBe(true);

  const metrics = received
    .flatMap(({ body }) => body.resourceMetrics ?? [])
    .flatMap(({ scopeMetrics }) => scopeMetrics.flatMap((each) => each.metrics));
  const requests = metrics.find(({ name }) => name === 'tally_http_requests_total')!;
  const counted = requests.sum!.dataPoints.find(({ attributes }) =>
    attributes.some(({ value }) => value.stringValue === 'usage.record'),
  );
  expect(counted!.asDouble).toBe(2);
  const slices = metrics.find(({ name }) => name === 'tally_derive_slice_seconds')!;
  expect(slices.histogram!.dataPoints[0]!.bucketCounts).toHaveLength(11);
});

test('without an endpoint nothing is traced', async () => {
  ingest = await startIngest();
  await ingest.admin.usage.record.mutate({ entries: [{ id: 'a', merchantId: 'acme', metrics: { queries: '1' } }] });
  const { activeRequest } = await import('@tally/service');
  expect(activeRequest()).toBeUndefined();
});
