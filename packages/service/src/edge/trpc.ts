import {
  type Contract,
  grants,
  isAudited,
  isProcedure,
  merchantFieldOf,
  type Procedure,
  TallyError,
} from '@tally/contracts';
import { type AnyRouter, initTRPC, TRPCError } from '@trpc/server';
import type { z } from 'zod';
import type { Audit } from '../callers/audit.ts';
import { type Caller, merchantsFor } from '../callers/auth.ts';
import { asTrpcError, errorShape, understand } from '../errors/errors.ts';
import { piecesOfReady } from './ready-json.ts';

/** The context of one HTTP request; a batch of calls shares it. */
export type Context = {
  /** The caller whose key the edge has checked. */
  caller: Caller;
  /** Fields of the request's one log line. */
  event: Record<string, unknown>;
  /** Aborted when the service begins to stop. */
  stopping: AbortSignal;
  /** Returns true once nobody waits for the answer. */
  isGone(): boolean;
};

export type Call<P extends Procedure> = {
  input: z.output<P['input']>;
  caller: Caller;
  event: Record<string, unknown>;
  /** Returns true once nobody waits for the answer, or the service stops, so that long work ends. */
  isGone(): boolean;
};

/** The signal of a subscription is aborted when its client leaves or the service begins to stop. */
type Handler<P extends Procedure> = P['kind'] extends 'subscription'
  ? (call: Call<P> & { signal: AbortSignal }) => AsyncIterable<z.input<P['output']>>
  : (call: Call<P>) => Promise<z.input<P['output']>>;

/** One function per procedure of a contract, in the contract's own shape. */
export type Handlers<C extends Contract> = {
  [K in keyof C]: C[K] extends Procedure ? Handler<C[K]> : C[K] extends Contract ? Handlers<C[K]> : never;
};

/** The path of tRPC's procedures. */
export const TRPC_PATH = '/trpc/';

/** A procedure as a router holds it. */
export type ServedProcedure = { _def: { type: 'query' | 'mutation' | 'subscription'; meta: Needs } };

/** The requirements of a procedure, as the edge reads them from the router. */
export type Needs = { access: Procedure['access']; platform?: true | undefined; maxItems?: number };

const t = initTRPC
  .context<Context>()
  .meta<Needs>()
  .create({
    errorFormatter: ({ shape, error }) => errorShape(understand(error), shape.data.path),
    // A client that vanished is noticed only when something is sent to it.
    sse: { ping: { enabled: true, intervalMs: 15_000 } },
  });

/**
 * Creates the tRPC router of a contract: input, output, access and allowed merchants come from the contract, so none
 * can be forgotten. Handlers get `merchantId` or `merchantIds` already checked. Errors leave as codes of `ERRORS`; an
 * unexpected one becomes INTERNAL without its message. Administrative mutations run through `audit`; a contract that
 * has some cannot be served without it.
 */
export function serveContract<C extends Contract>(contract: C, handlers: Handlers<C>, audit?: Audit): AnyRouter {
  return t.router(build(contract, handlers as Functions, audit));
}

type AnyHandler = (call: Call<Procedure>) => unknown;
type Functions = { [name: string]: Functions | ((call: never) => unknown) };

// biome-ignore lint/suspicious/noExplicitAny: the tree's types are checked at serveContract's face.
function build(contract: Contract, handlers: Functions, audit: Audit | undefined): any {
  return Object.fromEntries(
    Object.entries(contract).map(([name, node]) => {
      const handler = handlers[name]!;
      if (!isProcedure(node)) return [name, build(node, handler as Functions, audit)];
      if (isAudited(node) && !audit) throw new Error(`${name} is audited: serveContract needs an audit log`);
      return [name, procedure(node, handler as AnyHandler, isAudited(node) ? audit : undefined)];
    }),
  );
}

/** The parts of a call that tRPC passes to resolvers. */
type Asked = { ctx: Context; getRawInput(): Promise<unknown>; path: string; signal?: AbortSignal };

const answers = new WeakMap<object, (asked: Asked) => Promise<unknown>>();

/**
 * Calls a query or mutation of `serveContract` without tRPC, whose own work for a call takes longer than the checks.
 * Throws like tRPC.
 */
export const callDirectly = (served: object, asked: Asked): Promise<unknown> => answers.get(served)!(asked);

/**
 * Checks and answers in the resolver itself: tRPC copies a call's options for each middleware, which cost more than the
 * middlewares did.
 */
function procedure(definition: Procedure, handler: AnyHandler, audit: Audit | undefined) {
  const { access, platform, maxItems, kind } = definition;
  const served = t.procedure.meta({ access, ...(platform && { platform }), ...(maxItems && { maxItems }) });
  const field = platform ? undefined : merchantFieldOf(definition);

  async function callOf({ ctx, getRawInput, path }: Asked): Promise<Call<Procedure>> {
    // The edge already checked a single call; calls of a batch are checked only here.
    const refusal = refusalOf(ctx.caller, definition, path);
    if (refusal) throw refusal;
    const raw = await getRawInput();
    let sent: unknown;
    try {
      // Not `parseAsync`: zod compiles the checks of objects for synchronous parsing alone.
      sent = definition.input.parse(raw);
    } catch (cause) {
      throw new TRPCError({ code: 'BAD_REQUEST', cause });
    }
    const input = field === undefined ? sent : ofMerchants(sent as Record<string, unknown>, field, ctx.caller);
    return { input, caller: ctx.caller, event: ctx.event, isGone: ctx.isGone };
  }

  async function answer(asked: Asked): Promise<unknown> {
    try {
      const call = await callOf(asked);
      const answered = audit
        ? await audit({ name: asked.path, caller: call.caller, input: call.input }, async () => handler(call))
        : await handler(call);
      return piecesOfReady(answered) === undefined ? outputOf(definition, answered) : answered;
    } catch (error) {
      throw asTrpcError(error);
    }
  }

  async function* messages(asked: Asked): AsyncGenerator<unknown> {
    const { ctx, signal } = asked;
    const ended = new AbortController();
    const end = () => ended.abort();
    const ends: (AbortSignal | undefined)[] = [signal, ctx.stopping];
    for (const each of ends) each?.addEventListener('abort', end);
    if (ends.some((each) => each?.aborted)) end();
    try {
      const call = { ...(await callOf(asked)), signal: ended.signal };
      for await (const message of handler(call) as AsyncIterable<unknown>) yield definition.output.parse(message);
      // Clients reconnect after this error, to another instance.
      if (ctx.stopping.aborted) throw new TallyError('UNAVAILABLE', 'The service is stopping.');
    } catch (error) {
      throw asTrpcError(error);
    } finally {
      for (const each of ends) each?.removeEventListener('abort', end);
    }
  }

  // tRPC's types omit what resolvers get beside the input.
  if (kind === 'subscription') return served.subscription(messages as never);
  const built = kind === 'query' ? served.query(answer as never) : served.mutation(answer as never);
  answers.set(built, answer);
  return built;
}

function outputOf({ output }: Procedure, answer: unknown): unknown {
  try {
    return output.parse(answer);
  } catch (cause) {
    throw new TRPCError({ code: 'INTERNAL_SERVER_ERROR', message: 'Output validation failed', cause });
  }
}

/**
 * Limits a call to the merchants that its caller may name: the named ones, else the caller's own. Throws
 * MERCHANT_FORBIDDEN.
 */
function ofMerchants(input: Record<string, unknown>, field: 'merchantId' | 'merchantIds', caller: Caller): object {
  if (field === 'merchantIds') return { ...input, merchantIds: merchantsFor(caller, input.merchantIds as string[]) };
  const named = input.merchantId as string | undefined;
  const [merchantId] = merchantsFor(caller, named === undefined ? undefined : [named]) ?? [];
  return { ...input, merchantId };
}

/** Returns why a caller may not call a procedure or route at all; undefined if it may. */
export function refusalOf({ role, merchantId }: Caller, { access, platform }: Needs, name: string) {
  if (!grants(role, access))
    return new TallyError('FORBIDDEN', `The role ${role} may not call ${name}: it needs the access "${access}".`);
  if (platform && merchantId !== null)
    return new TallyError(
      'MERCHANT_FORBIDDEN',
      `This key is bound to merchant ${merchantId}; ${name} is about all merchants.`,
    );
  return undefined;
}
