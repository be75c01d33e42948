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
