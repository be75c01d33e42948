import type { HttpMethod, Rejection, UsageEntry } from '@tally/contracts';
import type { Caller, ErrorBody } from '@tally/service';

/** A request to a source. Its key, its access and the size of its body are checked. */
export type SourceRequest = {
  caller: Caller;
  /** Inflated; empty where none was sent. */
  body: Buffer;
  headers: Headers;
  /** Parameters of the path (`:name`), decoded. */
  params: Readonly<Record<string, string>>;
  query: URLSearchParams;
  /** The time of the service, in milliseconds. */
  now: number;
  /** Calls a procedure of usage-ingest as the caller. */
  call(procedure: string, input: unknown): Promise<unknown>;
};

/**
 * One event of a request: the entry to count; why it cannot be read; or `skipped` for what is no usage.
 * `seen` says that the source knows an earlier report of the event, and how the two differ (undefined where they agree): the
 * answer is then a duplicate or ID_CONFLICT by this, not by the content of the entries.
 * `lacks` says what the source could not know of the call; metrics show how many were accepted so.
 */
export type Item =
  | { entry: UsageEntry; seen?: { differs: string | undefined } | undefined; lacks?: 'tokens' }
  | { refused: Pick<Rejection, 'code' | 'message'>; id?: string | null | undefined }
  | 'skipped';

/** What became of a request. `results` has the result of each item, in the order of the items. */
export type Outcome = {
  results: ('accepted' | 'duplicate' | 'skipped' | Rejection)[];
  accepted: number;
  duplicates: number;
  skipped: number;
  /** `index` is the place among the items. */
  rejected: Rejection[];
};

/** A path that events are posted to. */
export type EventsRoute = {
  /** As Hono writes it, such as `/sources/example/:stream/events`. */
  path: string;
  /** Inflated; default: `MAX_BODY_BYTES`. */
  maxBodyBytes?: number;
  /** Array elements and object members of the body; default: `MAX_ITEMS`. */
  maxItems?: number;
  /** The content type of bodies that are not text, such as protobuf. */
  binaryType?: string;
  /** Reads the events of a request. What it throws is answered by `errorBody`, and nothing is counted. */
  read(request: SourceRequest): readonly Item[] | Promise<readonly Item[]>;
  /** Presents the outcome as the product would. What it throws is answered by `errorBody`; see `refusalOf`. */
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

/** A foreign API that Tally speaks. It only translates; the pipeline does all else. */
export type Source = {
  /** Its name in metrics, in `sources.status` and in rejections. */
  name: string;
  events: readonly EventsRoute[];
  others?: readonly OtherRoute[];
  /** All other paths below these are answered with NOT_FOUND in the product's shape. Each starts with `/`, ends without. */
  prefixes?: readonly string[];
  /** Presents errors as the product does, with its own status codes. Default: the errors of tRPC. */
  errorBody?: ErrorBody;
  /** The source compares the reports of an event itself: repeats may differ. Each of its items then has `seen` where needed. */
  comparesReports?: true;
};
