import type { DimensionId } from './measures.ts';

/** A query about usage, in the API's form. */
export type Question = {
  startDate: string;
  endDate: string;
  by?: DimensionId | [DimensionId, DimensionId];
  sortBy?: string;
  order?: 'asc' | 'desc';
  merchantIds?: string[];
  teams?: string[];
  userIds?: string[];
  apiKeys?: string[];
  models?: string[];
  providers?: string[];
};

const LISTS = ['merchantIds', 'teams', 'userIds', 'apiKeys', 'models', 'providers'] as const;

/** Returns the address of a file with the answer to a query. */
export function exportLink(question: Question, ending: 'csv' | 'xlsx' | 'json'): string {
  const query = new URLSearchParams({ startDate: question.startDate, endDate: question.endDate });
  if (question.by) query.set('by', [question.by].flat().join(','));
  for (const name of LISTS) {
    const values = question[name] ?? [];
    // The API splits a list given once at its commas; an empty one beside it prevents that.
    if (values.length === 1 && values[0]!.includes(',')) query.append(name, '');
    for (const value of values) query.append(name, value);
  }
  return `/export/usage.${ending}?${query}`;
}

type Series = { interval: string; timeZone: string };

function callOf(question: Question, series: Series): { procedure: 'breakdown' | 'timeseries'; input: object } {
  if (question.by) return { procedure: 'breakdown', input: question };
  return { procedure: 'timeseries', input: { ...question, ...series } };
}

/** Returns a command that runs the same query. */
export function curlOf(question: Question, series: Series): string {
  const { procedure, input } = callOf(question, series);
  const text = JSON.stringify(input).replaceAll("'", "'\\''");
  return [
    `curl -sG '${location.origin}/trpc/analytics.${procedure}' \\`,
    `  -H "Authorization: Bearer $TALLY_KEY" \\`,
    `  --data-urlencode 'input=${text}'`,
  ].join('\n');
}

/** Returns a program that runs the same query. */
export function typescriptOf(question: Question, series: Series): string {
  const { procedure, input } = callOf(question, series);
  const text = JSON.stringify(input, null, 2).replace(/^( +)"(\w+)":/gm, '$1$2:');
  return [
    `import { createAnalyticsClient } from '@tally/contracts/client';`,
    '',
    `const tally = createAnalyticsClient({ url: '${location.origin}', key: process.env.TALLY_KEY! });`,
    `const answer = await tally.analytics.${procedure}.query(${text});`,
  ].join('\n');
}
