import { TallyError } from '@tally/contracts';
import { MAX_CALLS } from './limits.ts';
import { ownerOfProcedure, type Service } from './owners.ts';
import { type Problem, problemOf } from './problem.ts';

/** The answers to the calls of a batch, or the one error that all of them get. */
export type Answers = unknown[] | Problem;

/** The calls of a batch that one service answers, by their positions in the whole batch. */
export type Part = { service: Service; names: string[]; places: number[] };

/** The calls of a batch by service; `unknown` has the positions of calls that no service owns. */
export type Split = { parts: Part[]; unknown: number[] };

/** Divides the calls of a batch among the services that own them, in order. */
export function splitBatch(names: readonly string[]): Split {
  const parts = new Map<Service, Part>();
  const unknown: number[] = [];
  for (const [place, name] of names.entries()) {
    const service = ownerOfProcedure(name)?.service;
    if (!service) {
      unknown.push(place);
      continue;
    }
    const part = parts.get(service) ?? { service, names: [], places: [] };
    part.names.push(name);
    part.places.push(place);
    parts.set(service, part);
  }
  return { parts: [...parts.values()], unknown };
}

/** Returns the inputs of a part, numbered as the part's own batch. */
export function inputsOfPart(part: Part, inputs: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const own = part.places.flatMap((place, index) =>
    Object.hasOwn(inputs, place) ? [[String(index), inputs[place]] as const] : [],
  );
  return Object.fromEntries(own);
}

/** Parses the inputs of a batch. Throws INVALID_JSON unless they are an object by position. */
export function parseInputs(text: string): Record<string, unknown> {
  if (text === '') return {};
  let inputs: unknown;
  try {
    inputs = JSON.parse(text);
  } catch {}
  if (typeof inputs === 'object' && inputs !== null && !Array.isArray(inputs)) return inputs as Record<string, unknown>;
  throw new TallyError('INVALID_JSON', 'The inputs of a batch are a JSON object.');
}

/** Puts the answers of the parts into the order of the batch. */
export function mergeAnswers(names: readonly string[], split: Split, answers: readonly Answers[]): unknown[] {
  const merged: unknown[] = names.map((name) => unknownProcedure(name));
  for (const [index, { places, names: own, service }] of split.parts.entries()) {
    for (const [at, place] of places.entries()) merged[place] = answerAt(answers[index]!, at, own[at]!, service);
  }
  return merged;
}

function answerAt(answers: Answers, at: number, name: string, service: Service): unknown {
  if (!Array.isArray(answers)) {
    const { error } = answers;
    return { error: { ...error, data: { ...error.data, path: name } } };
  }
  return answers[at] ?? problemOf('UNAVAILABLE', `${service} left this call without an answer.`, { path: name });
}

export const unknownProcedure = (name: string): Problem =>
  problemOf('NOT_FOUND', `No service has a procedure "${name.slice(0, 100)}".`, { path: name.slice(0, 100) });

export const tooManyCalls = (): Problem =>
  problemOf('INVALID_INPUT', `A batch has at most ${MAX_CALLS} calls.`, { details: { maxCalls: MAX_CALLS } });

/** Returns the HTTP status of a merged answer: that of its calls if they agree, else 207, like tRPC. */
export function statusOf(answers: readonly unknown[]): number {
  const statuses = new Set(answers.map((answer) => (answer as Partial<Problem>).error?.data.httpStatus ?? 200));
  return statuses.size === 1 ? [...statuses][0]! : 207;
}

/** Returns the longest wait that an answer requests, in seconds; undefined without one. */
export function retryAfterOf(answers: readonly unknown[]): number | undefined {
  const waits = answers.flatMap((answer) => {
    const details = (answer as Partial<Problem>).error?.data.details as { retryAfter?: unknown } | undefined;
    return typeof details?.retryAfter === 'number' ? [details.retryAfter] : [];
  });
  return waits.length > 0 ? Math.max(...waits) : undefined;
}
