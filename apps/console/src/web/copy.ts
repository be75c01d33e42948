import type { DimensionId, GroupId } from './measures.ts';

/** A query about usage, in the API's form. */
type UsageQuestion = {
  startDate: string;
  endDate: string;
  by?: DimensionId | [DimensionId, DimensionId];
  /** Of a series over time. */
  interval?: string;
  timeZone?: string;
  sortBy?: string;
  order?: 'asc' | 'desc';
  merchantIds?: string[];
  teams?: string[];
  userIds?: string[];
  apiKeys?: string[];
  models?: string[];
  providers?: string[];
};

/** A query about a meter, in the API's form. */
type MeterQuestion = {
  meter: string;
  startDate: string;
  endDate: string;
  merchantIds?: string[];
  filters?: Record<string, string[]>;
  window: string;
  timeZone: string;
  groupBy?: GroupId[];
};

export type Question = UsageQuestion | MeterQuestion;

const LISTS = ['merchantIds', 'teams', 'userIds', 'apiKeys', 'models', 'providers'] as const;

/** Returns the address of a file with the answer to a query. */
export function exportLink(question: Question, ending: 'csv' | 'xlsx' | 'json'): string {
  const query = new URLSearchParams({ startDate: question.startDate, endDate: question.endDate });
  const list = (name: string, values: readonly string[] = []) => {
    // The API splits a list given once at its commas; an empty one beside it prevents that.
    if (values.length === 1 && values[0]!.includes(',')) query.append(name, '');
    for (const value of values) query.append(name, value);
  };
  if ('meter' in question) {
    const { meter, window, timeZone, groupBy, filters = {}, merchantIds } = question;
    for (const [name, value] of Object.entries({ meter, window, timeZone })) query.set(name, value);
    list('merchantIds', merchantIds);
    list('groupBy', groupBy);
    list(
      'filter',
      Object.entries(filters).flatMap(([name, values]) => values.map((value) => `${name}=${value}`)),
    );
    return `/export/meter.${ending}?${query}`;
  }
  if (question.by) query.set('by', [question.by].flat().join(','));
  if (question.interval) query.set('interval', question.interval);
  if (question.interval && question.timeZone) query.set('timeZone', question.timeZone);
  for (const name of LISTS) list(name, question[name]);
  return `/export/usage.${ending}?${query}`;
}

type Series = { interval: string; timeZone: string };

/** Returns the query for each period of the first dimension. */
export function overTime(question: Question, { interval, timeZone }: Series): Question {
  if ('meter' in question) {
    const { groupBy, ...rest } = question;
    return { ...rest, window: interval, ...(groupBy && { groupBy: groupBy.slice(0, 1) }) };
  }
  const { by, sortBy: _sortBy, order: _order, ...rest } = question;
  const [first] = by === undefined ? [] : [by].flat();
  return { ...rest, ...(first && { by: first }), interval, timeZone };
}

function callOf(question: Question): { procedure: 'breakdown' | 'timeseries' | 'meter'; input: object } {
  if ('meter' in question) return { procedure: 'meter', input: question };
  return { procedure: question.by ? 'breakdown' : 'timeseries', input: question };
}

/** Returns a command that runs the same query. */
export function curlOf(question: Question): string {
  const { procedure, input } = callOf(question);
  const text = JSON.stringify(input).replaceAll("'", "'\\''");
  return [
    `curl -sG '${location.origin}/trpc/analytics.${procedure}' \\`,
    `  -H "Authorization: Bearer $TALLY_KEY" \\`,
    `  --data-urlencode 'input=${text}'`,
  ].join('\n');
}

/** Returns a program that runs the same query. */
export function typescriptOf(question: Question): string {
  const { procedure, input } = callOf(question);
  const text = JSON.stringify(input, null, 2).replace(/^( +)"(\w+)":/gm, '$1$2:');
  return [
    `import { createAnalyticsClient } from '@tally/contracts/client';`,
    '',
    `const tally = createAnalyticsClient({ url: '${location.origin}', key: process.env.TALLY_KEY! });`,
    `const answer = await tally.analytics.${procedure}.query(${text});`,
  ].join('\n');
}
