import type {
  TRPCBuiltRouter,
  TRPCDefaultErrorShape,
  TRPCMutationProcedure,
  TRPCQueryProcedure,
  TRPCSubscriptionProcedure,
} from '@trpc/server';
import { z } from 'zod';
import type { Access } from './access.ts';
import type { ErrorCode } from './errors.ts';

/**
 * A contract is a value: for each procedure its kind, the access it needs and the schemas of its input and output.
 * Services implement it, clients are typed by it, and neither sees the other's code.
 */
export type Procedure = {
  readonly kind: 'query' | 'mutation' | 'subscription';
  /** What the procedure does, in one short sentence: the title of its operation in the OpenAPI document. */
  readonly summary?: string;
  /** The same procedure at plain HTTP paths. */
  readonly rest?: readonly Rest[];
  readonly access: Access;
  /** Covers all merchants: callers bound to one merchant are refused. */
  readonly platform?: true;
  /**
   * Required if the input has neither `merchantId` nor `merchantIds`. each: every item names its merchant, and the
   * service checks it; own: the procedure finds only what belongs to the caller.
   */
  readonly merchants?: 'each' | 'own';
  /** Array elements and object members that its JSON may have; default: `MAX_ITEMS`. */
  readonly maxItems?: number;
  /** Recorded in the audit log like admin mutations, see `isAudited`. */
  readonly audited?: true;
  /** An input whose fields are all optional may itself be left out: `.prefault({})`. */
  readonly input: z.ZodType;
  readonly output: z.ZodType;
};

/** A plain HTTP path for a procedure: input from the query (GET) or a JSON body (POST). */
export type Rest = {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  /** Fields of the input that the path fixes; callers do not send them. */
  readonly fixed?: Readonly<Record<string, string>>;
  /** Fields of the input that the path does not accept. */
  readonly omit?: readonly string[];
  /** The query parameter `numbers=true` returns quantities as JSON numbers where a number is exact. */
  readonly numbers?: true;
  /** Other names of fields, each with the input field that it stands for. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** The body is read as JSON whatever its content type is. */
  readonly anyType?: true;
};

/** Methods of paths. PUT and DELETE are only for APIs of other products, whose clients send them. */
export const HTTP_METHODS = ['GET', 'POST', 'PUT', 'DELETE'] as const;
export type HttpMethod = (typeof HTTP_METHODS)[number];

/** A path beside the procedures: a download, or the API of another product that a source implements. */
export type Endpoint = {
  readonly method: HttpMethod;
  /** Parameters in braces: `/export/usage.{format}`. */
  readonly path: string;
  readonly summary: string;
  readonly access: Access;
  readonly group: 'files' | 'metrics' | 'sources';
  /** All possible values of a path parameter, or one example if it is free. */
  readonly parameters?: Readonly<Record<string, readonly string[] | string>>;
  readonly query?: z.ZodType;
  /** Fields of `query` that the path does not take. */
  readonly omit?: readonly string[];
  /** Content types of its responses. */
  readonly produces: readonly string[];
};

export type Contract = { readonly [name: string]: Procedure | Contract };

/** The default limit on array elements and object members in the JSON of a call. */
export const MAX_ITEMS = 20_000;

type Parts<I extends z.ZodType, O extends z.ZodType> = {
  summary?: string;
  rest?: readonly Rest[];
  access: Access;
  platform?: true;
  merchants?: 'each' | 'own';
  audited?: true;
  maxItems?: number;
  input: I;
  output: O;
};

export const query = <I extends z.ZodType, O extends z.ZodType>(parts: Parts<I, O>) =>
  ({ kind: 'query', ...parts }) as const;

export const mutation = <I extends z.ZodType, O extends z.ZodType>(parts: Parts<I, O>) =>
  ({ kind: 'mutation', ...parts }) as const;

/** `output` is the schema of one message; the stream ends when either side closes it. */
export const subscription = <I extends z.ZodType, O extends z.ZodType>(parts: Parts<I, O>) =>
  ({ kind: 'subscription', ...parts }) as const;

/** True for a procedure, false for a group of them. */
export function isProcedure(node: Procedure | Contract): node is Procedure {
  return typeof (node as Procedure).kind === 'string' && 'output' in node;
}

/** Returns the input field that names the merchants of a call; undefined if there is none. */
export function merchantFieldOf({ input }: Pick<Procedure, 'input'>): 'merchantId' | 'merchantIds' | undefined {
  // Not from its JSON Schema: making those of all procedures took a tenth of a start.
  const { shape } = objectOf(input);
  return (['merchantId', 'merchantIds'] as const).find((name) => Object.hasOwn(shape, name));
}

/** Returns the object that an input is before it is changed, where there is one. Throws if an input is no object. */
function objectOf(input: unknown): z.ZodObject {
  if (input instanceof z.ZodPrefault) return objectOf(input.unwrap());
  if (input instanceof z.ZodPipe) return objectOf(input.in);
  if (!(input instanceof z.ZodObject)) throw new Error('The input of a procedure is an object.');
  return input;
}

/** True for administrative mutations, each call of which leaves one row in the audit log. */
export const isAudited = ({ kind, access, audited }: Procedure): boolean =>
  kind === 'mutation' && (access === 'admin' || audited === true);

/** The client's view of an error: the domain's code in `data.code`, beside tRPC's own. */
export type TallyErrorShape = Omit<TRPCDefaultErrorShape, 'data'> & {
  data: {
    code: ErrorCode;
    trpcCode: string;
    httpStatus: number;
    path?: string;
    /** What the caller should do: the `action` of the code. */
    action: string;
    /** Details to act on: the failing fields, the limit, the seconds to wait. */
    details?: unknown;
  };
};

type Definition<P extends Procedure> = { meta: unknown; input: z.input<P['input']>; output: z.output<P['output']> };

type ProcedureOf<P extends Procedure> = P['kind'] extends 'query'
  ? TRPCQueryProcedure<Definition<P>>
  : P['kind'] extends 'mutation'
    ? TRPCMutationProcedure<Definition<P>>
    : TRPCSubscriptionProcedure<{
        meta: unknown;
        input: z.input<P['input']>;
        output: AsyncIterable<z.output<P['output']>, void>;
      }>;

type RecordOf<C extends Contract> = {
  [K in keyof C]: C[K] extends Procedure ? ProcedureOf<C[K]> : C[K] extends Contract ? RecordOf<C[K]> : never;
};

/** The router type that a client needs, derived from the contract only. */
export type RouterOf<C extends Contract> = TRPCBuiltRouter<
  { ctx: object; meta: object; errorShape: TallyErrorShape; transformer: false },
  RecordOf<C>
>;
