import type { BreakdownRow } from '@tally/contracts';
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { api, messageOf } from '../../api.ts';
import { apiFilters, type DimensionId, dimensionOf, MEASURES, type MeasureId, measureOf } from '../../measures.ts';
import { format, isZero, percentage, rateText, signed, subtract } from '../../quantity.ts';
import { addDays, before, dayText, rangeText } from '../../time.ts';
import { Swatch } from '../../ui/chart.tsx';
import { Coverage, CoverageBanner } from '../../ui/coverage.tsx';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Banner, Card, CellName, Delta, Empty, padOf, Skeleton } from '../../ui/parts.tsx';
import { type Column, Pager, Table } from '../../ui/table.tsx';
import { CHARTED, OTHERS, OverTime } from './over-time.tsx';
import { Pivot } from './pivot.tsx';
import { type ChangeSearch, type dimensionsOf, nothingFound, type Shown } from './shown.ts';

const PAGE = 50;
/** The limit of rows in one answer: the rows of a page are compared with at most this many of the previous period. */
const MOST = 200;

type Props = Omit<Shown, 'by' | 'and'> & ReturnType<typeof dimensionsOf> & { change: ChangeSearch };

/** Shows a measure by one dimension or two: a chart of the first over time, and a table or a pivot of all. */
export function ByDimension(props: Props) {
  const { range, measure, filters, by, and, pivot, sort } = props;
  const top = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...apiFilters(filters), by, sortBy: sort === 'key' ? measure : sort, limit: CHARTED },
      { placeholderData: keepPreviousData },
    ),
  );
  const charted = useMemo(() => top.data?.rows.slice(0, CHARTED), [top.data]);
  return (
    <>
      <CoverageBanner coverage={top.data?.coverage} />
      <OverTime {...props} top={charted} tools={<Coverage coverage={top.data?.coverage} />} />
      {and && pivot ? (
        <Pivot range={range} measure={measure} filters={filters} compare={props.compare} by={by} and={and} />
      ) : (
        <Rows {...props} color={new Map((charted ?? []).map(({ key }, index) => [key, index + 1]))} />
      )}
    </>
  );
}

type Row = Omit<BreakdownRow, 'key' | 'label' | 'keys' | 'labels' | 'details'> & { keys: string[]; labels: string[] };

/** Gives rows of one dimension the shape of rows of two. */
const rowOf = ({ key, label, keys, labels, details: _details, ...row }: BreakdownRow): Row => ({
  ...row,
  keys: keys ?? [key],
  labels: labels ?? [label],
});

const idOf = ({ keys }: { keys: readonly string[] }) => JSON.stringify(keys);

/** Returns the number of a row in another answer: 0 where that has no such row, undefined where it may have one. */
function valuesIn(
  answer: { rows: readonly BreakdownRow[]; nextCursor: string | null } | undefined,
  measure: MeasureId,
) {
  const values = new Map(answer?.rows.map(rowOf).map((row) => [idOf(row), row[measure]]));
  return (row: Row) => values.get(idOf(row)) ?? (answer?.nextCursor === null ? '0' : undefined);
}

function Rows({
  range,
  measure,
  filters,
  compare,
  by,
  and,
  sort,
  order,
  cursor,
  since,
  change,
  color,
}: Props & { color: ReadonlyMap<string, number> }) {
  const dimensions = [by, ...(and ? [and] : [])].map(dimensionOf);
  const named = apiFilters(filters);
  const groupings = and ? ([by, and] as [DimensionId, DimensionId]) : by;
  const query = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...named, by: groupings, sortBy: sort, order, limit: PAGE, ...(cursor ? { cursor } : {}) },
      { placeholderData: keepPreviousData },
    ),
  );
  const rows = query.data?.rows.map(rowOf);
  const past = before(range);
  const keysAt = (place: number) => [...new Set((rows ?? []).map(({ keys }) => keys[place]!))];
  const shownOnly = Object.fromEntries(dimensions.map(({ api: list }, place) => [list, keysAt(place)]));
  const earlier = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...past, ...named, ...shownOnly, by: groupings, sortBy: measure, limit: MOST },
      { enabled: compare && (rows ?? []).length > 0 },
    ),
  );
  const then = valuesIn(earlier.data, measure);
  const known = {
    ...{ ...range, ...named, by: groupings, sortBy: measure },
    ...(since && { asKnownOn: `${addDays(since, 1)}T00:00:00Z` }),
  };
  const knownRows = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...known, ...shownOnly, limit: MOST },
      { enabled: since !== undefined && (rows ?? []).length > 0 },
    ),
  );
  const knownTotal = useQuery(
    api.analytics.breakdown.queryOptions({ ...known, limit: 1 }, { enabled: since !== undefined }),
  );
  const isLast = since !== undefined && query.data?.nextCursor === null;
  const gone = useGone({ asked: { ...range, ...named, by: groupings, sortBy: measure }, known, dimensions, isLast });
  const ofShown = valuesIn(knownRows.data, measure);
  const ofGone = valuesIn({ rows: gone.then, nextCursor: null }, measure);
  const atThatTime = (row: Row) => (gone.rows.includes(row) ? ofGone(row) : ofShown(row));
  const filtersOf = ({ keys }: Row) => ({
    ...filters,
    ...Object.fromEntries(dimensions.map(({ filter }, place) => [filter, [keys[place]!]])),
  });
  const sorting = {
    by: sort,
    order,
    onSort: (id: string) => {
      const next = id as MeasureId | 'key';
      const usual = next === 'key' ? 'asc' : 'desc';
      change({ sort: next, order: sort !== next ? usual : order === 'desc' ? 'asc' : 'desc' });
    },
  };

  return (
    <Card
      title={dimensions
        .map(({ plural }) => plural)
        .join(' and ')
        .replace(/^./, (first) => first.toUpperCase())}
      note={query.data && `${format(String(query.data.total), 'count')} with usage, in days of UTC`}
      flush
    >
      <Answer query={query}>
        {(answer) => {
          if (answer.rows.length + gone.rows.length === 0)
            return (
              <Empty title="No usage here">
                {nothingFound(filters)}
                {since && knownTotal.data && !isZero(knownTotal.data.totals[measure]) && (
                  <>
                    {' '}
                    At the end of {dayText(since)}, it was{' '}
                    {format(knownTotal.data.totals[measure], measureOf(measure).kind)}.
                  </>
                )}
              </Empty>
            );
          const shown = [...answer.rows.map(rowOf), ...gone.rows];
          const pad = padOf([...shown.map(({ cost }) => cost), answer.totals.cost], 'money');
          const all = `All ${format(String(answer.total), 'count')}`;
          const padded = (id: MeasureId) => (id === 'cost' ? { pad } : {});
          const names = dimensions.map(
            ({ label }, place): Column<Row> => ({
              title: label,
              ...(place === 0 ? { sort: 'key', foot: all } : {}),
              cell: ({ keys, labels }) => (
                <CellName name={labels[place]!} id={keys[place]!}>
                  {place === 0 && <Swatch color={color.get(keys[0]!) ?? OTHERS} />}
                </CellName>
              ),
            }),
          );
          return (
            <>
              {since && knownTotal.error && <Banner>{messageOf(knownTotal.error)}</Banner>}
              {gone.mayLack && (
                <Banner>
                  Rows whose usage was all taken back may be missing below: only the {MOST} largest of {dayText(since!)}{' '}
                  were looked for.
                </Banner>
              )}
              <Table
                label={`Usage by ${dimensions.map(({ name }) => name).join(' and ')}`}
                rows={shown}
                keyOf={idOf}
                sorting={sorting}
                columns={[
                  ...names,
                  ...MEASURES.map(
                    ({ id, label, kind, metric }): Column<Row> => ({
                      title: label,
                      sort: id,
                      right: true,
                      cell: (row) => (
                        <Explained
                          value={row[id]}
                          kind={kind}
                          metric={metric}
                          range={range}
                          filters={filtersOf(row)}
                          {...padded(id)}
                        />
                      ),
                      foot: (
                        <Explained
                          value={answer.totals[id]}
                          kind={kind}
                          metric={metric}
                          range={range}
                          filters={filters}
                          {...padded(id)}
                        />
                      ),
                    }),
                  ),
                  {
                    title: 'Share',
                    right: true,
                    cell: (row) => <Percent value={percentage(row[measure], answer.totals[measure])} />,
                  },
                  {
                    title: 'Success',
                    right: true,
                    cell: ({ successRate }) => <Rate value={successRate} />,
                    foot: <Rate value={answer.totals.successRate} />,
                  },
                  since !== undefined && {
                    title: `Since ${dayText(since)}`,
                    right: true,
                    cell: (row) => (
                      <Since current={row[measure]} known={atThatTime(row)} {...{ measure, day: since }} />
                    ),
                    foot: (
                      <Since
                        current={answer.totals[measure]}
                        known={knownTotal.data?.totals[measure]}
                        {...{ measure, day: since }}
                      />
                    ),
                  },
                  compare && {
                    title: 'Change',
                    right: true,
                    cell: (row) => (
                      <Change
                        current={row[measure]}
                        previous={then(row)}
                        waiting={earlier.data === undefined && !earlier.error}
                        about={`${measureOf(measure).label.toLowerCase()} of ${rangeText(past)}`}
                        kind={measureOf(measure).kind}
                      />
                    ),
                  },
                ]}
              />
              <Pager cursor={cursor} nextCursor={answer.nextCursor} onTurn={(next) => change({ cursor: next })}>
                {answer.rows.length} of {format(String(answer.total), 'count')}
              </Pager>
            </>
          );
        }}
      </Answer>
    </Card>
  );
}

/** What a row has now whose usage was all taken back. */
const NOTHING = Object.fromEntries(MEASURES.map(({ id }) => [id, '0'])) as Record<MeasureId, string>;

type Question = Parameters<typeof api.analytics.breakdown.queryOptions>[0] & object;

/** Returns the rows that an earlier answer had and the answer of now has not, below the last page of it. */
function useGone({
  asked,
  known,
  dimensions,
  isLast,
}: {
  asked: Question;
  /** The same question, about the earlier state. */
  known: Question;
  dimensions: readonly { api: string }[];
  isLast: boolean;
}): { rows: readonly Row[]; then: readonly BreakdownRow[]; mayLack: boolean } {
  const earlier = useQuery(api.analytics.breakdown.queryOptions({ ...known, limit: MOST }, { enabled: isLast }));
  const then = earlier.data?.rows ?? [];
  const named = Object.fromEntries(
    dimensions.map(({ api: list }, place) => [list, [...new Set(then.map((row) => rowOf(row).keys[place]!))]]),
  );
  const now = useQuery(
    api.analytics.breakdown.queryOptions({ ...asked, ...named, limit: MOST }, { enabled: isLast && then.length > 0 }),
  );
  const there = now.data?.nextCursor === null && isLast ? new Set(now.data.rows.map(rowOf).map(idOf)) : undefined;
  const rows = then
    .map(rowOf)
    .flatMap((row) => (!there || there.has(idOf(row)) ? [] : [{ ...row, ...NOTHING, successRate: null }]));
  const mayLack = isLast && [earlier, now].some(({ data }) => data !== undefined && data.nextCursor !== null);
  return { rows, then, mayLack };
}

const Percent = ({ value }: { value: string | null }) => (
  <span className="num">{value === null ? '–' : format(value, 'percent')}</span>
);

const Rate = ({ value }: { value: number | null }) => <span className="num">{rateText(value)}</span>;

/** Shows the change from the previous period; a dash if that period has more rows than were read. */
function Change({
  current,
  previous,
  waiting,
  about,
  kind,
}: {
  current: string;
  previous: string | undefined;
  waiting: boolean;
  about: string;
  kind: 'money' | 'count';
}) {
  if (waiting) return <Skeleton width={44} />;
  if (previous === undefined) return <span title="The period before has too many rows to compare this one.">–</span>;
  return (
    <span title={`${format(previous, kind)} ${about}`}>
      <Delta current={current} previous={previous} />
    </span>
  );
}

/** Shows what came to a number after the end of a day; a dash while it is not known. */
function Since({
  current,
  known,
  measure,
  day,
}: {
  current: string;
  known: string | undefined;
  measure: MeasureId;
  day: string;
}) {
  if (known === undefined) return <>–</>;
  const { kind } = measureOf(measure);
  const difference = subtract(current, known);
  return (
    <span className="num" title={`${format(known, kind)} as known at the end of ${dayText(day)} (UTC)`}>
      {isZero(difference) ? 'no change' : signed(difference, kind)}
    </span>
  );
}
