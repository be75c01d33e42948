import type { HttpMethod, Rejection, UsageEntry } from '@tally/contracts';
import type { Caller, ErrorBody } from '@tally/service';

/** A request to a source. Its key, access and body size are already checked. */
export type SourceRequest = {
  caller: Caller;
  /** The inflated body; empty if none was sent. */
  body: Buffer;
  headers: Headers;
  /** Parameters of the path (`:name`), decoded. */
  params: Readonly<Record<string, string>>;
  query: URLSearchParams;
  /** The current time of the service, in milliseconds. */
  now: number;
  /** Calls a procedure of usage-ingest as the caller. */
  call(procedure: string, input: unknown): Promise<unknown>;
};

/**
 * One event of a request: the entry to count, or why it is unreadable, or `skipped` if it is no usage. `seen`: the
 * source knows an earlier report of the event, and how the two differ (undefined if they agree); this decides between
 * duplicate and ID_CONFLICT, not the content of the entries. `lacks`: what the source could not know about the call;
 * metrics count such events.
 */
export type Item =
  | { entry: UsageEntry; seen?: { differs: string | undefined } | undefined; lacks?: 'tokens' }
  | { refused: Pick<Rejection, 'code' | 'message'>; id?: string | null | undefined }
  | 'skipped';

/** The outcome of a request. `results` has the result of each item, in order of the items. */
export type Outcome = {
  results: ('accepted' | 'duplicate' | 'skipped' | Rejection)[];
  accepted: number;
  duplicates: number;
  skipped: number;
  /** `index` is the position among the items. */
  rejected: Rejection[];
};

/** A path that accepts events. */
export type EventsRoute = {
  /** The path pattern in Hono's syntax, such as `/sources/example/:stream/events`. */
  path: string;
  /** The largest inflated body; default: `MAX_BODY_BYTES`. */
  maxBodyBytes?: number;
  /** Array elements and object members of the body; default: `MAX_ITEMS`. */
  maxItems?: number;
  /** The content type of binary bodies, such as protobuf. */
  binaryType?: string;
  /** Reads the events of a request. `errorBody` answers what it throws, and nothing is counted. */
  read(request: SourceRequest): readonly Item[] | Promise<readonly Item[]>;
  /** Presents the outcome like the product would. `errorBody` answers what it throws; see `refusalOf`. */
  answer(outcome: Outcome, request: SourceRequest): Response;
};

/** Another path of the same product, such as a query of its usage. */
export type OtherRoute = {
  method: HttpMethod;
  path: string;
  access: 'read' | 'record' | 'admin';
  maxBodyBytes?: number;
  answer(request: SourceRequest): Response | Promise<Response>;
};

/** A foreign API that Tally implements. A source only translates; the pipeline does everything else. */
export type Source = {
  /** Its name in metrics, in `sources.status` and in rejections. */
  name: string;
  events: readonly EventsRoute[];
  others?: readonly OtherRoute[];
  /**
   * All other paths below these are answered with NOT_FOUND in the product's shape. Each starts with `/`, ends without.
   */
  prefixes?: readonly string[];
  /** Presents errors as the product does, with its own status codes. Default: the errors of tRPC. */
  errorBody?: ErrorBody;
  /** The header in which its clients look for the id of a request, if it is not `x-request-id`. */
  requestIdHeader?: string;
  /**
   * The source compares the reports of an event itself: repeats may differ. Its items then have `seen` where needed.
   */
  comparesReports?: true;
};
