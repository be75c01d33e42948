import { type CallOptions, type FinishedCall, isObject, recordCall } from './call.ts';

/** Reads the usage of a call from the events of its stream. */
export type StreamReader = {
  /** Returns false for an event that only we requested: the caller does not get it. */
  see(event: unknown): boolean;
  /** Called once, when the stream has ended; `failed`: by an error, `left`: because its caller stopped reading. */
  end(failed: boolean, left: boolean): void;
};

/** How to record the calls of one method of a vendor's client. */
export type Method = {
  /** Returns the request to make in place of the given one. */
  prepare?(request: Request): Request;
  done(response: unknown, request: Request): void;
  failed(request: Request): void;
  reader(request: Request): StreamReader;
};

type Request = Record<string, unknown>;

/** How to read a vendor's answers: a whole response (only the request if there was none), and a stream. */
export type Vendor = {
  callOf(response: unknown, request: Request): FinishedCall;
  readerOf(options: CallOptions<Request>, request: Request): StreamReader;
};

/** Returns the method of a vendor's client, recording its calls by what `vendor` reads from the answers. */
export function recordedMethod({ callOf, readerOf }: Vendor, options: CallOptions<Request>): Method {
  return {
    done: (response, request) => recordCall(options, request, callOf(response, request)),
    failed: (request) => recordCall(options, request, { ...callOf(undefined, request), failed: true }),
    reader: (request) => readerOf(options, request),
  };
}

type Callable = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Wraps a client so that some of its methods are recorded; results, streams and errors reach the caller unchanged. A
 * call is recorded when its promise is awaited; one that is read only as a raw response (`asResponse`) is not.
 */
export function watchClient<Client extends object>(
  client: Client,
  methods: { readonly [path: string]: Method },
): Client {
  const paths = Object.keys(methods);

  function watched<T extends object>(target: T, path: string): T {
    const inside = new Map<string, object>();
    return new Proxy(target, {
      get(real, name) {
        const value: unknown = Reflect.get(real, name, real);
        if (typeof name !== 'string') return value;
        const full = path === '' ? name : `${path}.${name}`;
        const method = methods[full];
        if (method && typeof value === 'function') {
          return (request: Record<string, unknown>, ...rest: unknown[]) =>
            watchCall(method, request, (prepared) => (value as Callable).call(real, prepared, ...rest));
        }
        if (isObject(value) && paths.some((each) => each.startsWith(`${full}.`))) {
          if (!inside.has(full)) inside.set(full, watched(value, full));
          return inside.get(full);
        }
        // The client's own methods may use private fields, which a proxy does not have.
        return typeof value === 'function' && path === '' ? (value as Callable).bind(real) : value;
      },
    });
  }

  return watched(client, '');
}

function watchCall(method: Method, given: unknown, call: (request: unknown) => unknown): unknown {
  const request = isObject(given) ? given : {};
  const result = call(isObject(given) && method.prepare ? method.prepare(given) : given);
  if (!isObject(result) || typeof result.then !== 'function') return result;
  const promise = result as unknown as Promise<unknown> & { withResponse?(): Promise<{ data: unknown }> };
  let over = false;
  const seen = (value: unknown) => {
    if (!over) {
      over = true;
      if (isStream(value)) watchStream(value, method.reader(request));
      else method.done(value, request);
    }
    return value;
  };
  const failed = (error: unknown): never => {
    if (!over) method.failed(request);
    over = true;
    throw error;
  };
  let awaited: Promise<unknown> | undefined;
  const wait = () => (awaited ??= promise.then(seen, failed));
  return new Proxy(promise, {
    get(real, name) {
      if (name === 'then') return (...handlers: Parameters<Promise<unknown>['then']>) => wait().then(...handlers);
      if (name === 'catch') return (handler: () => unknown) => wait().catch(handler);
      if (name === 'finally') return (handler: () => void) => wait().finally(handler);
      if (name === 'withResponse' && real.withResponse) {
        return () =>
          real.withResponse!().then((response) => {
            seen(response.data);
            return response;
          }, failed);
      }
      const value: unknown = Reflect.get(real, name, real);
      return typeof value === 'function' ? (value as Callable).bind(real) : value;
    },
  });
}

type Stream = AsyncIterable<unknown> & { iterator?: () => AsyncIterator<unknown> };

const isStream = (value: unknown): value is Stream => isObject(value) && Symbol.asyncIterator in value;

/** Patches a stream in place so that all its events pass the reader, however the stream is read. */
export function watchStream<S extends AsyncIterable<unknown>>(stream: S, reader: StreamReader): S {
  // The vendors' streams are always read (iteration, tee, toReadableStream) through this one function.
  const own = stream as S & Stream;
  const place = typeof own.iterator === 'function' ? 'iterator' : Symbol.asyncIterator;
  const original = (own[place as typeof Symbol.asyncIterator] as () => AsyncIterator<unknown>).bind(stream);
  Object.defineProperty(stream, place, {
    configurable: true,
    writable: true,
    value: () => watchIterator(original(), reader),
  });
  return stream;
}

async function* watchIterator(source: AsyncIterator<unknown>, reader: StreamReader): AsyncGenerator<unknown> {
  let failed = false;
  let left = true;
  try {
    for await (const event of { [Symbol.asyncIterator]: () => source }) if (reader.see(event)) yield event;
    left = false;
  } catch (error) {
    failed = true;
    left = false;
    throw error;
  } finally {
    reader.end(failed, left);
  }
}
