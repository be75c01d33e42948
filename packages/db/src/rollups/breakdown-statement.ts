import type { Grouping, Measure, SortBy } from '@tally/contracts';
import { type Bind, bindings } from '../run-sql.ts';
import type { SumOf } from '../unit-sums.ts';
import { anySum, columnOf, columnsOf, grouped, isByModel, known, PROVIDERS, sumsOf, textsOf } from './grouping.ts';
import type { Missing } from './missing.ts';
import { readsDocuments } from './scope.ts';
import { type Condition, isAmong, type Read, sharingPending } from './source.ts';
import type { Question } from './usage-reader.ts';

/** With the table's name: a bare one would be the page's column, which is text. */
const SORT: Record<SortBy, string> = {
  cost: 'groups.cost',
  requests: 'groups.requests',
  failedRequests: 'groups.failed_requests',
  promptTokens: 'groups.prompt_tokens',
  completionTokens: 'groups.completion_tokens',
  totalTokens: '(groups.prompt_tokens + groups.completion_tokens)',
  key: 'groups.key_1',
};

/** The measures of a sort value, beside the requests that are always read. */
const RANKED_BY: Record<SortBy, readonly Measure[]> = {
  cost: ['cost'],
  requests: [],
  failedRequests: ['failed_requests'],
  promptTokens: ['prompt_tokens'],
  completionTokens: ['completion_tokens'],
  totalTokens: ['prompt_tokens', 'completion_tokens'],
  key: [],
};
/** More groups than this whose ranked measures are 0 are not looked up one by one: all groups are read whole. */
export const MAX_UNSURE = 500;
const TOKENS_OF_DOCUMENTS = '(groups.prompt_tokens + groups.completion_tokens + groups.other_tokens)';

/**
 * Writes the query of a page of groups. Its one row has the page, the sums of all groups, their number, and the number
 * of `unsure` groups: above MAX_UNSURE the page may lack groups.
 */
export function breakdownStatement(
  { totals, ...question }: Question,
  { sum, missing }: { sum: SumOf; missing: Missing },
): { text: string; values: unknown[] } {
  const { bind, values } = bindings();
  const groupings: Grouping[] = [question.by].flat();
  const keys = groupings.map((_, index) => `key_${index + 1}`);
  const all = { ...question, parts: [...question.parts, ...(totals ?? [])] };
  const { pending, read } = sharingPending(all, bind, { sum, missing });
  const { sort, pageBy } = orderOf(question, bind);
  const groups = totals ? rankedGroups(question, { sum, read, pageBy }) : allGroups(question, { sum, read });
  // Only the page is made into text, and the groups are read once for everything derived from them.
  const text = `with ${pending} ${groups.tables}
    select
      (select json_agg(json_build_object(
        'keys', array[${keys.join(', ')}], 'sort_value', sort_value::text, ${textsOf(question)}
        ${isByModel(groupings) ? `, 'providers', providers` : ''}))
      from (select *, ${sort} as sort_value from groups where ${pageBy(keys.map((key) => `groups.${key}`))}) as page) as rows,
      (select ${groups.count} from groups) as total,
      ${groups.unsure}::int as unsure,
      whole.*
    from (select ${sumsOf(question)} from ${totals ? `(${read({ ...question, parts: totals }, '')}) as part` : 'groups'}) as whole`;
  return { text, values };
}

/** Common table expressions that end with `groups`, the number of all groups, and of those that are unsure. */
type Groups = { tables: string; count: string; unsure: string };

const allGroups = (question: Question, reading: { sum: SumOf; read: Read }): Groups => ({
  tables: `groups as materialized (${groupsOf(question, reading)})`,
  count: 'count(*)',
  unsure: '0',
});

/**
 * Ranks all groups by few measures, and reads the first ones whole. A group that these measures leave at zero is unsure:
 * it may still have another one, so it is read whole as well.
 */
function rankedGroups(
  question: Question,
  { sum, read, pageBy }: { sum: SumOf; read: Read; pageBy(keys: readonly string[]): string },
): Groups {
  const groupings: Grouping[] = [question.by].flat();
  const columns = groupings.map(columnOf);
  const list = columns.join(', ');
  const ranking = ['requests', ...RANKED_BY[question.sortBy]];
  const isSure = `(${ranking.map((name) => `groups.${name} <> 0`).join(' or ')})`;
  const candidates = {
    hashed: isAmong(columns, `select ${list} from candidates`),
    indexed: columns.map((column) => `${column} = any(array(select ${column} from candidates))`).join(' and '),
    byMerchant: Boolean(question.merchantIds?.length) || columns.includes('merchant_id'),
  };
  const unsure = `select count(*) from ranks as groups where not ${isSure}`;
  return {
    // Without names of keys: possibly half a million groups are written down.
    tables: `ranks as materialized (
        select ${list}, ${sumsOf(question, sum, ranking)}
        from (${read(question, columnsOf(groupings), { measures: ranking })}) as part
        group by ${list}
      ),
      candidates as materialized (
        (select ${list} from ranks as groups
          where ${isSure} and ${pageBy(columns.map((column) => known(`groups.${column}`)))})
        union all
        (select ${list} from ranks as groups where not ${isSure} limit ${MAX_UNSURE})
      ),
      groups as materialized (${groupsOf(question, { sum, read, only: candidates })})`,
    count: `(select count(*) from ranks as groups where ${isSure}) + count(*) filter (where not ${isSure})`,
    unsure: `(${unsure})`,
  };
}

/** Selects groups with all measures. The providers of a model are listed beside its sums. */
function groupsOf(question: Question, { sum, read, only }: { sum: SumOf; read: Read; only?: Condition }): string {
  const groupings: Grouping[] = [question.by].flat();
  const columns = groupings.map(columnOf);
  const named = columns.map((column, index) => `${known(column)} as key_${index + 1}, ${column}`).join(', ');
  const sums = sumsOf(question, sum);
  const some = anySum(question, sum);
  return `
    select ${named}, ${sums} ${isByModel(groupings) ? `, ${PROVIDERS}` : ''}
    from ${grouped(groupings, read(question, columnsOf(groupings), { only }), { sums, some })}
    group by ${columns.join(', ')} having ${some}`;
}

/** Returns the value that groups are sorted by, and what selects a page in this order by the keys of a group. */
function orderOf(question: Question, bind: Bind): { sort: string; pageBy(keys: readonly string[]): string } {
  const { sortBy, order, after, limit } = question;
  const isByKey = sortBy === 'key';
  const sort = sortBy === 'totalTokens' && readsDocuments(question) ? TOKENS_OF_DOCUMENTS : SORT[sortBy];
  const most = bind(limit);
  const last = after && [
    `${bind(after.value)}::${isByKey ? 'text' : 'numeric'}`,
    ...after.keys.map((key) => `${bind(key)} collate "C"`),
  ];
  return {
    sort,
    pageBy(keys) {
      const sorted = keys.map((key) => `${key} collate "C"`);
      const places = [isByKey ? sorted[0]! : sort, ...sorted];
      const isAfter = last
        ? `(${[isByKey ? keys[0]! : sort, ...sorted].join(', ')}) ${order === 'asc' ? '>' : '<'} (${last.join(', ')})`
        : 'true';
      return `${isAfter} order by ${places.map((place) => `${place} ${order}`).join(', ')} limit ${most}`;
    },
  };
}
