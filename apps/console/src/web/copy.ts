import type { DimensionId } from './measures.ts';

/** A question about usage, as the API takes it. */
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

/** The address of a file with the answer to a question. */
export function exportLink(question: Question, ending: 'csv' | 'xlsx' | 'json'): string {
  const query = new URLSearchParams({ startDate: question.startDate, endDate: question.endDate });
  if (question.by) query.set('by', [question.by].flat().join(','));
  for (const name of LISTS) {
    const values = question[name] ?? [];
    // A list that is given once is split at its commas; with an empty one beside it, it is not.
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

/** A command that asks the same question. */
export function curlOf(question: Question, series: Series): string {
  const { procedure, input } = callOf(question, series);
  const text = JSON.stringify(input).replaceAll("'", "'\\''");
  return [
    `curl -sG '${location.origin}/trpc/analytics.${procedure}' \\`,
    `  -H "Authorization: Bearer $TALLY_KEY" \\`,
    `  --data-urlencode 'input=${text}'`,
  ].join('\n');
}

/** A program that asks the same question. */
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
