import type { ZodError, z } from 'zod';

const TOLD = 5;
const LISTED = 20;
const NAME = 100;
const SENTENCE = 200;
const NAMES = 3;

export type Problems = {
  /** The first few, and how many more there are. */
  message: string;
  fields: { field: string; message: string }[];
};

/** What is wrong with an input, however much that is, in few words: names and sentences of the input's own are cut. */
export function problemsOf({ issues }: ZodError, root = ''): Problems {
  const fields = issues
    .slice(0, LISTED)
    .map((issue) => ({ field: cut(issue.path.map(String).join('.'), NAME), message: cut(said(issue), SENTENCE) }));
  const told = fields.slice(0, TOLD).map(({ field, message }) => [field || root, message].filter(Boolean).join(': '));
  const more = issues.length - told.length;
  return { message: told.join('; ') + (more > 0 ? `; and ${more} more` : ''), fields };
}

function said(issue: z.core.$ZodIssue): string {
  if (issue.code !== 'unrecognized_keys' || issue.keys.length <= NAMES) return issue.message;
  const names = issue.keys.slice(0, NAMES).map((key) => `"${cut(key, SENTENCE / (2 * NAMES))}"`);
  return `Unrecognized keys: ${names.join(', ')} and ${issue.keys.length - NAMES} more`;
}

const cut = (text: string, most: number) => (text.length > most ? `${text.slice(0, most)}…` : text);
