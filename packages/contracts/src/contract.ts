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
  /** What it does, in one short sentence: the title of its operation in the OpenAPI document. */
  readonly summary?: string;
  /** The same procedure at plain HTTP paths. */
  readonly rest?: readonly Rest[];
  readonly access: Access;
  /** About all merchants: refused to a caller that is bound to one. */
  readonly platform?: true;
  /**
   * Needed where the input has neither `merchantId` nor `merchantIds`, by which a bound caller is kept to its merchant.
   * each: every item names its own, and the service checks it; own: about what belongs to the caller, and nothing else is found.
   */
  readonly merchants?: 'each' | 'own';
  /** Array elements and object members that its JSON may have; default: `MAX_ITEMS`. */
  readonly maxItems?: number;
  /** Recorded in the audit log like what admins do, see `isAudited`. */
  readonly audited?: true;
  /** Where every field may be left out, so may all of it: `.prefault({})`. */
  readonly input: z.ZodType;
  readonly output: z.ZodType;
};

/** A plain HTTP path that answers what a procedure answers: input from the query (GET) or a JSON body (POST). */
export type Rest = {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  /** Fields of the input that the path states, so that callers do not send them. */
  readonly fixed?: Readonly<Record<string, string>>;
  /** Fields that the path does not take. */
  readonly omit?: readonly string[];
  /** With the query parameter `numbers=true` quantities are JSON numbers, those that a number holds exactly. */
  readonly numbers?: true;
  /** Other names of fields, and the field of the input that each stands for. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** The body is read as JSON whatever its content type is. */
  readonly anyType?: true;
};

/** PUT and DELETE are only for APIs of other products, whose clients send them. */
export type HttpMethod = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** A path beside the procedures: a file to download, or the API of another product that a source speaks. */
export type Endpoint = {
  readonly method: HttpMethod;
  /** Parameters in braces: `/export/usage.{format}`. */
  readonly path: string;
  readonly summary: string;
  readonly access: Access;
  readonly group: 'files' | 'metrics' | 'sources';
  /** The values that a parameter of the path can have, or one example where it can have any. */
  readonly parameters?: Readonly<Record<string, readonly string[] | string>>;
  readonly query?: z.ZodType;
  /** Content types of its answers. */
  readonly produces: readonly string[];
};

export type Contract = { readonly [name: string]: Procedure | Contract };

/** Array elements and object members that the JSON of a call may have, unless its procedure says otherwise. */
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

/** The field of an input that names the merchants which a call is about; undefined where it has none. */
export function merchantFieldOf({ input }: Pick<Procedure, 'input'>): 'merchantId' | 'merchantIds' | undefined {
  const { properties = {} } = z.toJSONSchema(input, { io: 'input', unrepresentable: 'any' });
  return (['merchantId', 'merchantIds'] as const).find((name) => Object.hasOwn(properties, name));
}

/** True for administrative mutations, each call of which leaves one row in the audit log. */
export const isAudited = ({ kind, access, audited }: Procedure): boolean =>
  kind === 'mutation' && (access === 'admin' || audited === true);

/** What a client sees of an error: the domain's code in `data.code`, tRPC's own beside it. */
export type TallyErrorShape = Omit<TRPCDefaultErrorShape, 'data'> & {
  data: {
    code: ErrorCode;
    trpcCode: string;
    httpStatus: number;
    path?: string;
    /** What to do about it: the `action` of its code. */
    action: string;
    /** What the caller can act on: the failing fields, the limit, the seconds to wait. */
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

/** The router type a client needs, derived from the contract alone. */
export type RouterOf<C extends Contract> = TRPCBuiltRouter<
  { ctx: object; meta: object; errorShape: TallyErrorShape; transformer: false },
  RecordOf<C>
>;
