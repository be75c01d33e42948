import { TallyError, type UsageEntry } from '@tally/contracts';
import { refusalOf } from '../src/sources/pipeline.ts';
import type { Item, Source } from '../src/sources/source.ts';

/**
 * The API of a made-up product, Meterly, as docs/extend/sources.md walks through it: single events in JSON or as a
 * form, batches as lines or in a binary form, a query, and errors of its own shape.
 */
export function meterly(usageOf: (merchantId: string) => Promise<object>): Source {
  return {
    name: 'meterly',
    prefixes: ['/sources/meterly'],
    errorBody: ({ code, message }) => ({
      status: code === 'INVALID_ENTRY' ? 422 : code === 'NOT_FOUND' ? 404 : undefined,
      type: 'application/json',
      body: { meterly_error: { code, message } },
    }),
    events: [
      {
        path: '/sources/meterly/streams/:stream/events',
        read: ({ body, headers, params }) => [itemOf(singleOf(body, headers), params.stream!)],
        answer({ results: [result] }) {
          if (typeof result === 'object') throw refusalOf(result);
          return Response.json({ status: result }, { status: result === 'accepted' ? 201 : 200 });
        },
      },
      {
        path: '/sources/meterly/streams/:stream/batch',
        maxBodyBytes: 1_000_000,
        binaryType: 'application/x-meterly',
        read({ body, headers, params }) {
          const isBinary = headers.get('content-type') === 'application/x-meterly';
          return isBinary ? binaryItems(body, params.stream!) : lineItems(body.toString(), params.stream!);
        },
        answer: ({ results }) =>
          Response.json({ results: results.map((result) => (typeof result === 'object' ? result.code : result)) }),
      },
    ],
    others: [
      {
        method: 'GET',
        path: '/sources/meterly/customers/:customer/usage',
        access: 'read',
        answer: async ({ params }) => Response.json(await usageOf(params.customer!)),
      },
    ],
  };
}

function singleOf(body: Buffer, headers: Headers): Record<string, unknown> {
  const text = body.toString();
  if (headers.get('content-type')?.startsWith('application/x-www-form-urlencoded'))
    return Object.fromEntries(new URLSearchParams(text));
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
}

function itemOf(event: Record<string, unknown>, stream: string): Item {
  const { key, customer, units, at } = event;
  if (event.heartbeat) return 'skipped';
  if (typeof key !== 'string') return { refused: { code: 'INVALID_ENTRY', message: '`key` is missing.' }, id: null };
  const entry = {
    id: `meterly:${key}`,
    merchantId: String(customer),
    metrics: { [stream]: String(units) },
    ...(at !== undefined && { time: at }),
  };
  return { entry: entry as UsageEntry };
}

const lineItems = (text: string, stream: string) =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => itemOf(JSON.parse(line), stream));

/** Each event is a byte: its key. */
const binaryItems = (body: Buffer, stream: string) =>
  [...body.subarray(0, 3)].map((key) => itemOf({ key: `b${key}`, customer: 'acme', units: 1 }, stream));
