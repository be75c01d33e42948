import type { ZodError, z } from 'zod';

const TOLD = 5;
const LISTED = 20;
const NAME = 100;
const SENTENCE = 200;
const NAMES = 3;

export type Problems = {
  /** The problems listed, and the number beyond them. */
  message: string;
  fields: { field: string; message: string }[];
};

type Path = readonly PropertyKey[];
/** `sentence`: the message with the name of the field, for a list of problems. */
type Problem = { field: string; message: string; sentence: string };

/**
 * Describes what is wrong with an input, in bounded text. Cuts names and sentences of the input. `root` names an input
 * without a field.
 */
export function problemsOf({ issues }: ZodError, root = ''): Problems {
  const listed = issues.slice(0, LISTED).map((issue) => problemsIn(issue, [], root));
  // Two checks of a field may say the same.
  const problems = [...new Map(listed.map((each) => [each[0]!.sentence, each])).values()];
  const told = problems.slice(0, TOLD).map(([first]) => first!.sentence);
  const more = issues.length - (listed.length - problems.length) - told.length;
  return {
    message: told.join('; ') + (more > 0 ? `; and ${more} more` : ''),
    fields: problems
      .flat()
      .slice(0, LISTED)
      .map(({ field, message }) => ({ field, message })),
  };
}

/** Returns at least one problem; one per field for unknown fields. */
function problemsIn(issue: z.core.$ZodIssue, above: Path, root: string): Problem[] {
  const path = [...above, ...issue.path];
  const field = nameOf(path);
  const name = field || root;
  const message = cut(said(issue), SENTENCE);
  const sentence = [name, message].filter(Boolean).join(': ');
  if (isMissing(issue)) return [{ field, message: 'Missing', sentence: `${name || 'The input'} is missing` }];
  if (issue.code === 'invalid_union') {
    const alternative = issue.errors.find((each) => each.length > 0 && each.every((inner) => !isTypeProblem(inner)));
    // The input has the type of this alternative, so its inner problems help most.
    if (alternative) return problemsIn(alternative[0]!, path, root);
  }
  if (issue.code === 'unrecognized_keys') {
    return issue.keys
      .slice(0, LISTED)
      .map((key) => ({ field: nameOf([...path, key]), message: 'Unrecognized key', sentence }));
  }
  return [{ field, message, sentence }];
}

const nameOf = (path: Path) => cut(path.map(String).join('.'), NAME);

function isMissing(issue: z.core.$ZodIssue): boolean {
  if (issue.code === 'invalid_type') return issue.message.endsWith(', received undefined');
  if (issue.code !== 'invalid_union') return false;
  return issue.errors.some(([first]) => first?.path.length === 0 && isMissing(first));
}

/** Returns true if the value as a whole does not fit: another type, or none of the allowed values. */
const isTypeProblem = ({ code, path }: z.core.$ZodIssue) =>
  path.length === 0 && (code === 'invalid_type' || code === 'invalid_value' || code === 'invalid_union');

/** Returns the sentence of an issue. Keeps a schema's own sentence; rewrites zod's, which start with fixed words. */
function said(issue: z.core.$ZodIssue): string {
  const { message } = issue;
  switch (issue.code) {
    case 'unrecognized_keys': {
      if (issue.keys.length <= NAMES) return message;
      const names = issue.keys.slice(0, NAMES).map((key) => `"${cut(key, SENTENCE / (2 * NAMES))}"`);
      return `Unrecognized keys: ${names.join(', ')} and ${issue.keys.length - NAMES} more`;
    }
    case 'too_big':
      if (!message.startsWith('Too big: ')) return message;
      return limit(issue.inclusive === false ? 'less than' : 'at most', issue.maximum, issue.origin);
    case 'too_small':
      if (!message.startsWith('Too small: ')) return message;
      return limit(issue.inclusive === false ? 'more than' : 'at least', issue.minimum, issue.origin);
    case 'invalid_value':
      return /^Invalid (option|input): /.test(message) ? oneOf(issue.values) : message;
    case 'invalid_key':
      return issue.issues[0] ? said(issue.issues[0]) : message;
    case 'invalid_union':
      return message === 'Invalid input' ? saidOfUnion(issue) : message;
    default:
      return message;
  }
}

/** Lists the allowed values if there are any, else the rule of each alternative. */
function saidOfUnion({ errors, message }: z.core.$ZodIssueInvalidUnion): string {
  const firsts = errors.flatMap((issues) => issues.slice(0, 1));
  const values = firsts.flatMap((each) => (each.code === 'invalid_value' ? each.values : []));
  if (values.length > 0) return oneOf(values);
  const rules = new Set(firsts.map((each) => said(each).replace(/^Invalid input: /, '')));
  return [...rules].join('; or: ') || message;
}

const oneOf = (values: readonly unknown[]) => {
  const names = [...new Set(values)].map((value) => (typeof value === 'string' ? `"${value}"` : String(value)));
  return names.length === 1 ? `Expected ${names[0]}` : `Expected one of ${names.join(', ')}`;
};

/** Created once: creating one takes longer than everything else here. */
const NUMBER = new Intl.NumberFormat('en-US', { maximumFractionDigits: 20 });
const UNITS: Record<string, [one: string, many: string]> = {
  string: ['character', 'characters'],
  array: ['item', 'items'],
  set: ['item', 'items'],
  map: ['entry', 'entries'],
  object: ['field', 'fields'],
  file: ['byte', 'bytes'],
};

function limit(bound: string, value: number | bigint, origin: string): string {
  const unit = UNITS[origin]?.[value === 1 ? 0 : 1];
  return `Expected ${bound} ${NUMBER.format(value)}${unit ? ` ${unit}` : ''}`;
}

const cut = (text: string, most: number) => (text.length > most ? `${text.slice(0, most)}…` : text);
