import type { Access, HttpMethod } from '@tally/contracts';
import type { Context as HonoContext } from 'hono';
import type { Caller } from './auth.ts';
import type { Endpoint } from './edge.ts';

/** What an admitted request of a route comes with. */
export type Admitted = {
  caller: Caller;
  /** The body, inflated; empty where none was sent. */
  body: Buffer;
  /** The body as JSON; INVALID_JSON where it is none. */
  json(): unknown;
  /** Calls a procedure of the service's router as the caller. */
  call(procedure: string, input: unknown): Promise<unknown>;
};

type Answer = Response | Promise<Response>;

/**
 * A path beside tRPC. The edge checks the key, the access, the limits and the body before `answer` is called; what it throws
 * is answered as an error.
 */
export type Route = {
  readonly method: HttpMethod;
  /** As Hono writes it; also its name in metrics. */
  readonly path: string;
} & (
  | { readonly access: 'open'; answer(c: HonoContext): Answer }
  | {
      /** `key`: any valid key. */
      readonly access: Access | 'key';
      readonly platform?: true;
      /** For clients of other systems, which may send their key as `Authorization: Basic`. */
      readonly source?: true;
      /** Inflated; default: `MAX_BODY_BYTES`. */
      readonly maxBodyBytes?: number;
      /** Array elements and object members of the body; default: `MAX_ITEMS`. */
      readonly maxItems?: number;
      /** Whatever its content type says, the route reads its body. */
      readonly anyType?: true;
      /** The content type of bodies that are not text, so that the limits of JSON do not apply to them. */
      readonly binaryType?: string;
      readonly errorBody?: Endpoint['errorBody'];
      answer(c: HonoContext, admitted: Admitted): Answer;
    }
);
