import { isTallyError } from '@tally/contracts';
import { BUILT_IN_SOURCES } from '@tally/db';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { loadParser, parseFormula } from './formula.ts';

beforeAll(loadParser);

const parse = (text: string) => parseFormula(text, { source: BUILT_IN_SOURCES.events, method: 'SUM' });

const codeOf = (text: string): string => {
  try {
    parse(text);
    return 'accepted';
  } catch (error) {
    if (!isTallyError(error)) throw error;
    const { offset, allowed } = error.details as { offset: number; allowed: string[] };
    expect(offset).toBeGreaterThanOrEqual(0);
    expect(offset).toBeLessThanOrEqual(text.length);
    expect(allowed.length).toBeGreaterThan(0);
    return error.code;
  }
};

const REFUSED = /^FORMULA_(SYNTAX|FORBIDDEN|TYPE|TOO_COMPLEX)$/;

const FUNCTIONS =
  `pg_sleep(10) pg_read_file('/etc/passwd') pg_ls_dir('.') lo_import('x') dblink('x','y') version() current_database()
  current_setting('tally.merchant_id') set_config('tally.merchant_id','*',true) pg_terminate_backend(1) nextval('x')
  pg_advisory_lock(1) pg_notify('a','b') generate_series(1,9) unnest(cost) array_agg(cost) string_agg(model,',') json_agg(cost)
  jsonb_agg(cost) xmlagg(cost) row_to_json(cost) to_json(cost) query_to_xml('select_1',true,true,'') random() gen_random_uuid() now()
  clock_timestamp() md5(model) repeat('a',1000000000) lpad('a',1000000000) length(model) lower(model) upper(model) concat(model)
  format('%s',model) substr(model,1) to_char(cost,'9') to_number(model,'9') abs(cost) power(cost,999) exp(cost) ln(cost) sqrt(cost)
  round(cost) floor(cost) ceil(cost) factorial(1000) mod(1,2) width_bucket(1,2,3,4) greatest(cost,1) least(cost,1) date_trunc('day',time)
  extract(day) pg_size_pretty(1) inet_server_addr() has_table_privilege('x','y') col_description(1,1) obj_description(1) txid_current()
  pg_backend_pid() stddev(cost) variance(cost) corr(cost,cost) bool_and(true) every(true) mode() rank() row_number() lag(cost) lead(cost)
  first_value(cost) grouping(model) cast(cost) regexp_replace(model,'a','b') encode(model,'hex') decode(model,'hex') ts_rank(cost)`.split(
    /\s+/,
  );

const HOSTILE = [
  ...FUNCTIONS,
  ...FUNCTIONS.map((call) => `SUM(${call})`),
  // Statements, clauses, several expressions
  ...`SUM(cost); drop table usage_events|SUM(cost) from usage_events|1) from usage_events --|1) from (select 1|SUM(cost), SUM(requests)
  |SUM(cost) as x|SUM(cost) x|distinct SUM(cost)|SUM(cost) where true|SUM(cost) group by 1|SUM(cost) limit 1|SUM(cost) union select 1
  |SUM(cost) into x|SUM(cost) for update|with x as (select 1) select 1|select 1|table usage_events|values (1)|insert into x values (1)
  |delete from usage_events|truncate usage_events|copy x to program 'x'|do 'x'|set role postgres|begin|commit|SUM(cost) order by 1`.split(
    '|',
  ),
  // Subqueries
  ...`(select 1)|(select count(*) from usage_events)|SUM((select 1))|exists (select 1)|cost in (select 1)|SUM(cost) = any (select 1)
  |array(select 1)|(table api_keys)|(select hash from api_keys limit 1)|COUNT(*) filter (where exists (select 1 from api_keys))
  |coalesce((select 1), 2)|case when (select true) then SUM(cost) end|(with x as (select 1) select * from x)`.split(
    '|',
  ),
  // Casts, arrays, rows, collations, parameters, operators
  ...`cost::text|SUM(cost::int)|cast(SUM(cost) as text)|'1'::int|int '1'|date '2026-01-01'|interval '1 day'|array[1,2]|SUM(cost)[1]|(1,2)|row(1)
  |row(1,2) = row(1,2)|model collate "C"|COUNT(model collate "C")|$1|SUM($1)|:x|@x|cost ^ 2|cost \u0026 1|cost # 1|~cost|cost << 1|cost >> 1|!!cost|@ cost
  |cost operator(pg_catalog.+) 1|COUNT(*) filter (where model ~ 'a')|COUNT(*) filter (where model like '%a')|COUNT(*) filter (where model ilike 'a')
  |COUNT(*) filter (where model similar to 'a')|COUNT(*) filter (where model is distinct from 'a')|COUNT(*) filter (where true is true)
  |COUNT(*) filter (where time at time zone 'UTC' = time)|COUNT(*) filter (where (time, time) overlaps (time, time))|SUM(cost) is json`.split(
    /\|(?!\|)/,
  ),
  'model || model',
  "COUNT(model || 'a')",
  "SUM(metrics -> 'a')",
  "SUM(metrics ->> 'a')",
  "properties -> 'a'",
  "COUNT(properties ? 'a')",
  // Comments and quoting
  'SUM(cost) -- x',
  'SUM(cost) /* x */',
  'SUM(/**/cost)',
  '/* /* */ */ SUM(cost)',
  'SUM(cost)--',
  '"SUM"(cost)',
  'SUM("cost")',
  'SUM(U&"cost")',
  "E'a'",
  "COUNT(*) filter (where model = E'\\\\'')",
  "COUNT(*) filter (where model = U&'a')",
  'COUNT(*) filter (where model = $$a$$)',
  'COUNT(*) filter (where model = $a$x$a$)',
  "COUNT(*) filter (where model = B'1')",
  "COUNT(*) filter (where model = X'1')",
  "COUNT(*) filter (where model = N'1')",
  "COUNT(*) filter (where model = 'a)",
  "'",
  "''''''",
  '"',
  '`model`',
  'SUM(cost)\0',
  'SUM(cost)\u0001',
  'SUM(cost)\u00a0',
  'SUM(\uff43ost)',
  'SUM(cost)\u2028',
  '\ufeffSUM(cost)',
  'SUM(c\u043est)',
  "'a' 'b'",
  '\\x',
  'SUM(cost)\\g',
  // System columns, other tables and merchants
  ...`SUM(ctid)|xmin|SUM(xmax)|COUNT(tableoid)|COUNT(cmin)|source.cost|SUM(source.cost)|SUM(usage_events.cost)|SUM(tally_sources.events.cost)|COUNT(source)
  |COUNT(events)|COUNT(events.*)|COUNT(api_keys.hash)|SUM(*)|COUNT(source.*)|*|SUM(flush_id)|COUNT(id)|COUNT(metrics)|COUNT(properties)|COUNT(failed)|SUM(calls)
  |__proto__|SUM(constructor)|COUNT(toString)|SUM(hasOwnProperty)|COUNT(hash)|current_user|session_user|user|current_role|current_catalog|current_schema
  |current_date|current_timestamp|localtime|pg_catalog.sum(cost)|pg_catalog.pg_sleep(1)|public.sum(cost)|tally_sources.percentile_cont(cost,1)`.split(
    '|',
  ),
  // Aggregates abused
  ...`SUM(SUM(cost))|SUM(COUNT(*))|AVG(cost) over ()|SUM(cost) over (partition by model)|COUNT(*) over w|SUM(cost order by cost)|SUM(distinct cost)|SUM(variadic cost)
  |SUM()|SUM(cost, cost)|COUNT()|COUNT(cost, cost)|COUNT(distinct *)|COUNT(*, 1)|SUM(cost) filter (where SUM(cost) > 1)|PERCENTILE_CONT(2) within group (order by cost)
  |PERCENTILE_CONT(-1) within group (order by cost)|PERCENTILE_CONT(cost) within group (order by cost)|PERCENTILE_CONT(0.5)|PERCENTILE_CONT(0.5, 0.6) within group (order by cost)
  |PERCENTILE_CONT(array[0.5]) within group (order by cost)|PERCENTILE_CONT(0.5) within group (order by cost, cost)|PERCENTILE_CONT(0.5) within group (order by cost nulls first)
  |PERCENTILE_CONT(0.5) within group (order by cost using <)|PERCENTILE_CONT(0.5) within group (order by model)|PERCENTILE_DISC(null) within group (order by cost)
  |SUM(cost) within group (order by cost)|cost + SUM(cost)|model|SUM(cost) + requests|case when model = 'a' then SUM(cost) end|SUM(cost) filter (where cost)`.split(
    '|',
  ),
  // Types
  ...`SUM(model)|SUM(date)|AVG(time)|MIN(model)|SUM(true)|SUM('1')|SUM(cost) and true|SUM(cost) > 1|not SUM(cost)|-model|COUNT(*) filter (where model = 1)|COUNT(*) filter (where cost = 'a')
  |COUNT(*) filter (where model > 'a')|COUNT(*) filter (where date = 'yesterday')|COUNT(*) filter (where date = '2026-02-30')|COUNT(*) filter (where time > 'now')|coalesce(SUM(cost), 'a')
  |nullif(SUM(cost), 'a')|case when 1 then SUM(cost) end|case SUM(cost) when 'a' then 1 end|SUM(case when cost > 1 then model else 1 end)|1|1 + 1|null|'a'|true|coalesce(1, 2)`.split(
    '|',
  ),
  // Names of metrics and properties
  ...`metric()|SUM(metric(model))|SUM(metric(1))|SUM(metric('a', 'b'))|SUM(metric('a' || 'b'))|SUM(metric(null))|SUM(metric(''))|COUNT(property())|COUNT(property(model))|COUNT(property('a') -> 'b')
  |SUM(metric(distinct 'a'))|SUM(metric('a') over ())|SUM(metric('a') filter (where true))|SUM(metric(variadic 'a'))`.split(
    '|',
  ),
  // Size and numbers
  'SUM(cost) * 1e308',
  'SUM(cost) * 1e99999',
  'SUM(cost) * 0x7f',
  'SUM(cost) * 0b1',
  'SUM(cost) * 1_000',
  `SUM(cost) * ${'9'.repeat(19)}`,
  `SUM(cost) * 0.${'1'.repeat(13)}`,
  'SUM(cost) * NaN',
  'SUM(cost) * Infinity',
  `SUM(cost)${' + 1'.repeat(400)}`,
  `${'('.repeat(33)}1${')'.repeat(33)}`,
  `${'- '.repeat(100)}SUM(cost)`,
  `${'not '.repeat(400)}true`,
  `SUM(cost)${' '.repeat(2000)}`,
  `COUNT(*) filter (where model = '${'a'.repeat(600)}')`,
  `${'case when true then '.repeat(60)}SUM(cost)${' end'.repeat(60)}`,
  `${'coalesce('.repeat(40)}SUM(cost)${')'.repeat(40)}`,
  '(',
  ')',
  '()',
  ')(',
  '',
  ' ',
  ',',
  'SUM(cost',
  'SUM cost)',
  'SUM((cost)',
  '1 +',
  '* 2',
  'SUM(cost) SUM(cost)',
  '1) + (SUM(cost)',
  // Node kinds, spellings and bombs that other white lists forgot
  'ROW(cost, requests)',
  'ROW(SUM(cost)).f1',
  '(ROW(1, 2)).*',
  'ARRAY[SUM(cost), SUM(requests)]',
  'ARRAY[ARRAY[1]]',
  '(ARRAY[SUM(cost)])[1:2]',
  "'usage_events'::regclass",
  "SUM(CAST('api_keys' AS regclass)::oid)",
  'SUM(cost) GROUP BY GROUPING SETS ((), (model))',
  'GROUPING(model, provider)',
  'SUM(cost) HAVING true',
  'SUM(cost) WINDOW w AS ()',
  'XMLELEMENT(name a, cost)',
  'XMLFOREST(cost)',
  "XMLPARSE(DOCUMENT '<a/>')",
  "XMLSERIALIZE(CONTENT '<a/>' AS text)",
  'XMLCONCAT(model)',
  'JSON_OBJECT(model: cost)',
  'JSON_ARRAYAGG(cost)',
  "JSON_VALUE('{}', '$.a')",
  "JSON_TABLE('[]', '$[*]' COLUMNS (a int))",
  "COUNT(*) FILTER (WHERE current_setting('tally.merchant_id') = 'a')",
  "CURRENT_SETTING('data_directory')",
  'SUM(cost OPERATOR(pg_catalog.+) 1)',
  'COUNT(*) FILTER (WHERE model OPERATOR(public.=) model)',
  'OPERATOR(pg_catalog.-) SUM(cost)',
  `COUNT(*) FILTER (WHERE model COLLATE pg_catalog."default" = 'a')`,
  'PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY cost COLLATE "C")',
  "COUNT(*) FILTER (WHERE model SIMILAR TO '(a|b)*' ESCAPE '!')",
  'COUNT(*) FILTER (WHERE cost NOT BETWEEN SYMMETRIC 2 AND 1)',
  'COUNT(*) FILTER (WHERE cost BETWEEN SYMMETRIC 2 AND 1)',
  "COUNT(*) FILTER (WHERE model = U&'\\0061' UESCAPE '!')",
  "COUNT(*) FILTER (WHERE model = E'\\u0061')",
  `U&"\\0073um"(cost)`,
  `${'('.repeat(10_000)}SUM(cost)${')'.repeat(10_000)}`,
  `${'-'.repeat(10_000)}1`,
  `SUM(${'abs('.repeat(10_000)}cost${')'.repeat(10_000)})`,
  `SUM(cost)${'::int'.repeat(300)}`,
  `SUM(cost) + '${'a'.repeat(1_000_000)}'`,
  'a'.repeat(1_000_000),
  ' '.repeat(1_000_000),
  `COUNT(*) FILTER (WHERE model IN (${Array.from({ length: 400 }, (_, i) => i).join(',')}))`,
  'SUM($1)',
  '$2147483648',
  '?',
  'SUM(oid)',
  'SUM(tableoid)',
  'SUM(ctid::text)',
  "SUM('NaN'::numeric)",
  "SUM('Infinity')",
  "SUM('-inf'::float8)",
  "SUM(cost) * float8 'NaN'",
  "INTERVAL '999999999 years'",
  "time + INTERVAL '178956970 years'",
  "COUNT(*) FILTER (WHERE time > TIMESTAMP 'infinity')",
  "COUNT(*) FILTER (WHERE date = 'infinity')",
  "COUNT(*) FILTER (WHERE date = 'epoch')",
  "COUNT(*) FILTER (WHERE time = '294277-01-01')",
  "COUNT(REPEAT('a', 2147483647))",
  "COUNT(LPAD('', 2147483647, 'a'))",
  "COUNT(FORMAT('%2147483647s', 'a'))",
  'SUM(POWER(10, 131071))',
  'SUM(FACTORIAL(100000))',
  "COUNT(*) FILTER (WHERE model ~ '(a*)*$')",
  "COUNT(*) FILTER (WHERE model !~* '((a+)+)+b')",
  `COUNT(*) FILTER (WHERE model LIKE '${'%a'.repeat(200)}')`,
  "COUNT(*) FILTER (WHERE model NOT ILIKE '%' ESCAPE '!')",
  "REGEXP_COUNT(model, '(a+)+')",
  "COUNT(*) FILTER (WHERE model ^@ 'a')",
  "COUNT(*) FILTER (WHERE model @@ 'a')",
  'COUNT(*) FILTER (WHERE model IS NORMALIZED)',
  'COUNT(*) FILTER (WHERE model IS DOCUMENT)',
  "COUNT(*) FILTER (WHERE cost = ANY ('{1,2}'))",
  'COUNT(*) FILTER (WHERE cost > ALL (ARRAY[1]))',
  'EXTRACT(epoch FROM time)',
  "OVERLAY(model PLACING 'a' FROM 1)",
  "POSITION('a' IN model)",
  "TRIM(BOTH 'a' FROM model)",
  'TREAT(cost AS numeric)',
  'COLLATION FOR (model)',
  'MERGE_ACTION()',
  'CURRENT OF cursor_name',
  'DEFAULT',
  'SUM(DEFAULT)',
  'SETTODEFAULT(cost)',
  'SUM(cost) IGNORE NULLS OVER ()',
  'ANY_VALUE(cost)',
  'SUM(ALL cost ORDER BY cost)',
  'CAST(ROW(1) AS api_keys)',
  'SUM((usage_events).cost)',
  'SUM(cost) FOR UPDATE',
  'SUM(cost) FETCH FIRST 1 ROW ONLY',
  'SUM(cost) OFFSET 1',
  'SUM(cost) INTERSECT SELECT 1',
  'NOT NOT NOT SUM(cost)',
  'SUM(named => cost)',
  'SUM(named := cost)',
  'PERCENTILE_CONT(1e-1) WITHIN GROUP (ORDER BY cost)',
  'HYPOTHETICAL(1) WITHIN GROUP (ORDER BY cost)',
].map((formula) => formula.replace(/^\n\s*/, ''));

test('every hostile formula is refused in a moment, however large it is', () => {
  const largest = HOSTILE.filter((formula) => formula.length > 5_000);
  expect(largest.length).toBeGreaterThanOrEqual(5);
  for (const formula of largest) expect(codeOf(formula)).toBe('FORMULA_TOO_COMPLEX');
});

test('there are at least 400 hostile formulas, all different', () => {
  expect(new Set(HOSTILE).size).toBeGreaterThanOrEqual(400);
});

test('every hostile formula is refused with a code, the place and what is allowed', () => {
  expect(HOSTILE.filter((formula) => !REFUSED.test(codeOf(formula)))).toEqual([]);
});

test.each([
  ['SUM(cost) + pg_sleep(1)', 'FORMULA_FORBIDDEN', 12],
  ["COUNT(*) FILTER (WHERE model = 'ü' AND nothing = 1)", 'FORMULA_FORBIDDEN', 39],
  ['SUM(cost) +', 'FORMULA_SYNTAX', 11],
  ['SUM(model)', 'FORMULA_TYPE', 4],
])('the place of what is wrong in %s is told in characters', (formula, code, offset) => {
  expect(() => parse(formula)).toThrow(expect.objectContaining({ code, details: expect.objectContaining({ offset }) }));
});

test('any text is parsed or refused with a code', () => {
  const word = fc.constantFrom(
    ...`SUM( COUNT( AVG( PERCENTILE_CONT( 0.5 ) WITHIN GROUP (ORDER BY ) FILTER (WHERE ) cost model requests time metric( property( 'a' '2026-01-01' 1 2.5 + - * / % = <> < > ( ) ,
    CASE WHEN THEN ELSE END COALESCE( NULLIF( AND OR NOT IS NULL IN ( BETWEEN TRUE DISTINCT * OVER () :: [ ] ; -- /* " $1 select from`.split(
      /\s+/,
    ),
  );
  const text = fc.oneof(
    fc.array(word, { maxLength: 20 }).map((words) => words.join(' ')),
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.tuple(fc.constantFrom(...HOSTILE), fc.constantFrom(...HOSTILE)).map(([a, b]) => `${a} + ${b}`),
  );
  fc.assert(
    fc.property(text, (formula) => {
      expect(codeOf(formula)).toMatch(/^accepted$|^FORMULA_/);
    }),
    { numRuns: 3_000 },
  );
});
