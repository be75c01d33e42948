import { LangfuseSpanProcessor } from '@langfuse/otel';
import { setLangfuseTracerProvider, startObservation } from '@langfuse/tracing';
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { expect, test } from 'vitest';
import { clientsWorld } from '../../../test/clients-world.ts';

const world = clientsWorld();

/** The options that the OTLP exporters take; their type for compression is not exported. */
type Options = NonNullable<ConstructorParameters<typeof JsonExporter>[0]>;
const GZIP = 'gzip' as NonNullable<Options['compression']>;

async function exported(Exporter: typeof JsonExporter | typeof ProtobufExporter, merchantId: string, spans: number) {
  const headers = { authorization: `Bearer ${world.adminKey}` };
  const exporter = new Exporter({ url: `${world.url}/v1/traces`, headers, compression: GZIP });
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': merchantId }),
    spanProcessors: [new BatchSpanProcessor(exporter)],
  });
  const tracer = provider.getTracer('test');
  for (let index = 0; index < spans; index++) {
    const attributes = { 'gen_ai.request.model': 'gpt-4o', 'gen_ai.usage.input_tokens': 374 };
    const of = index % 2 === 0 ? { ...attributes, 'gen_ai.prompt': 'The secret prompt.' } : { 'http.method': 'GET' };
    tracer.startSpan('chat', { attributes: of }).end();
  }
  await provider.shutdown();
}

test.each([
  ['json', JsonExporter],
  ['protobuf', ProtobufExporter],
])(
  'the OTLP exporter (%s, gzip) sends batches, and sends them again after 503 and after a lost answer',
  async (name, Exporter) => {
    world.failing.before = 1;
    world.failing.after = 1;
    await exported(Exporter, name, 600);
    expect(await world.totalsOf(name)).toEqual({ requests: '300', prompt_tokens: String(300 * 374) });
  },
);

test.each([
  ['batched', 1],
  ['immediate', 0],
] as const)(
  "Langfuse's client (%s) sends generations once, also after 503, and no other observation",
  async (mode, failures) => {
    const merchantId = `langfuse-${mode}`;
    const processor = new LangfuseSpanProcessor({
      ...{ publicKey: 'pk-lf-any', secretKey: await world.keyOf('producer', merchantId) },
      ...{ baseUrl: `${world.url}/sources/langfuse`, exportMode: mode },
    });
    const provider = new BasicTracerProvider({ spanProcessors: [processor] });
    setLangfuseTracerProvider(provider);
    world.failing.before = failures;
    try {
      for (let index = 0; index < 3; index++) {
        const agent = startObservation('agent', { input: 'The secret question.' }, { asType: 'agent' });
        agent
          .startObservation(
            'answer',
            {
              ...{ model: 'gpt-4o', input: [{ role: 'user', content: 'The secret prompt.' }], output: 'The answer.' },
              usageDetails: { input: 374, output: 44, cache_read_input_tokens: 100, total: 418 },
              costDetails: { input: 0.001, output: 0.0013, total: 0.0023 },
            },
            { asType: 'generation' },
          )
          .end();
        agent.startObservation('search', { input: 'x' }, { asType: 'tool' }).end();
        agent.end();
      }
      await provider.shutdown();
    } finally {
      setLangfuseTracerProvider(null);
    }
    expect(await world.totalsOf(merchantId)).toEqual({
      ...{ requests: '3', prompt_tokens: '1122', completion_tokens: '132', cached_tokens: '300', cost: '0.0069' },
    });
    const { rows } = await world.admin.usage.recent.query({ merchantId });
    expect(rows.map(({ model }) => model)).toEqual(['gpt-4o', 'gpt-4o', 'gpt-4o']);
    expect(JSON.stringify(rows)).not.toContain('secret');
    expect(await world.resultsOf('langfuse')).toMatchObject({ rejected: 0 });
  },
);
