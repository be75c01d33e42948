import type { Access, HttpMethod } from '@tally/contracts';
import type { Context as HonoContext } from 'hono';
import type { Caller } from '../callers/auth.ts';
import type { Endpoint } from './edge.ts';

/** The context of an admitted request of a route. */
export type Admitted = {
  caller: Caller;
  /** The inflated body; empty if none was sent. */
  body: Buffer;
  /** The body as JSON. Throws INVALID_JSON. */
  json(): unknown;
  /** Calls a procedure of the service's router as the caller. */
  call(procedure: string, input: unknown): Promise<unknown>;
};

type Answer = Response | Promise<Response>;

/**
 * A path beside tRPC. The edge checks key, access, limits and body before it calls `answer`, and answers with any error
 * thrown.
 */
export type Route = {
  readonly method: HttpMethod;
  /** The path pattern in Hono's syntax; also its name in metrics. */
  readonly path: string;
} & (
  | { readonly access: 'open'; answer(c: HonoContext): Answer }
  | {
      /** `key`: any valid key. */
      readonly access: Access | 'key';
      readonly platform?: true;
      /** For clients of other systems, which may send their key as `Authorization: Basic`. */
      readonly source?: true;
      /** The largest inflated body; default: `MAX_BODY_BYTES`. */
      readonly maxBodyBytes?: number;
      /** Array elements and object members of the body; default: `MAX_ITEMS`. */
      readonly maxItems?: number;
      /** Accepts a body of any content type. */
      readonly anyType?: true;
      /** The content type of binary bodies, to which the limits of JSON do not apply. */
      readonly binaryType?: string;
      readonly errorBody?: Endpoint['errorBody'];
      readonly requestIdHeader?: Endpoint['requestIdHeader'];
      answer(c: HonoContext, admitted: Admitted): Answer;
    }
);
