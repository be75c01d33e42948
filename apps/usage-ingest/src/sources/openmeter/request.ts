import { TallyError } from '@tally/contracts';
import { isRecord } from '../foreign-event.ts';
import type { SourceRequest } from '../source.ts';

export const BASE = '/sources/openmeter/api/v1';

export const invalid = (message: string) => new TallyError('INVALID_INPUT', message);

export function jsonIn({ body }: SourceRequest): unknown {
  try {
    return JSON.parse(body.toString());
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
}

export function objectIn(request: SourceRequest): Record<string, unknown> {
  const value = jsonIn(request);
  if (!isRecord(value)) throw invalid('Expected an object.');
  return value;
}

/** Returns a text or a list of texts as a list. */
export function textsOf(value: unknown, name: string): string[] {
  const list = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  if (!list.every((each) => typeof each === 'string')) throw invalid(`${name.slice(0, 80)}: expected texts.`);
  return list;
}
