import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { api } from '../../api.ts';
import {
  apiFilters,
  type DimensionId,
  dimensionOf,
  type FilterSearch,
  type MeasureId,
  measureOf,
} from '../../measures.ts';
import { before, type Range, rangeText } from '../../time.ts';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Card, Empty } from '../../ui/parts.tsx';
import { type Crossed, type CrossedBefore, countOf, PIVOT_COLUMNS, PIVOT_ROWS, PivotTable } from './pivot-table.tsx';
import { nothingFound } from './shown.ts';

/**
 * Shows a measure with one dimension down and the other across: the largest values of both, and the sum of the others.
 */
export function Pivot({
  range,
  measure,
  filters,
  compare,
  by,
  and,
}: {
  range: Range;
  measure: MeasureId;
  filters: FilterSearch;
  compare: boolean;
  by: DimensionId;
  and: DimensionId;
}) {
  const { kind, metric, label } = measureOf(measure);
  const [down, across] = [dimensionOf(by), dimensionOf(and)];
  const ask = { ...range, ...apiFilters(filters), sortBy: measure };
  const keep = { placeholderData: keepPreviousData };
  const rows = useQuery(api.analytics.breakdown.queryOptions({ ...ask, by, limit: PIVOT_ROWS }, keep));
  const columns = useQuery(api.analytics.breakdown.queryOptions({ ...ask, by: and, limit: PIVOT_COLUMNS }, keep));
  const keysOf = (query: typeof rows) => (query.data?.rows ?? []).map(({ key }) => key);
  const [rowKeys, columnKeys] = [keysOf(rows), keysOf(columns)];
  const known = rowKeys.length > 0 && columnKeys.length > 0;
  const asked = { [down.api]: rowKeys, [across.api]: columnKeys, by: [by, and] as [DimensionId, DimensionId] };
  const cells = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...ask, ...asked, limit: PIVOT_ROWS * PIVOT_COLUMNS },
      { enabled: known, ...keep },
    ),
  );
  const past = { ...ask, ...before(range) };
  const wanted = { enabled: compare && known };
  const pastRows = useQuery(
    api.analytics.breakdown.queryOptions({ ...past, [down.api]: rowKeys, by, limit: PIVOT_ROWS }, wanted),
  );
  const pastColumns = useQuery(
    api.analytics.breakdown.queryOptions({ ...past, [across.api]: columnKeys, by: and, limit: PIVOT_COLUMNS }, wanted),
  );
  const pastCells = useQuery(
    api.analytics.breakdown.queryOptions({ ...past, ...asked, limit: PIVOT_ROWS * PIVOT_COLUMNS }, wanted),
  );
  const pastTotal = useQuery(api.analytics.breakdown.queryOptions({ ...past, by, limit: 1 }, wanted));
  const isEmpty = rows.data?.rows.length === 0;
  const all = {
    data: rows.data && columns.data && (cells.data || isEmpty) ? true : undefined,
    error: rows.error ?? columns.error ?? cells.error,
    refetch: () => Promise.all([rows.refetch(), columns.refetch(), cells.refetch()]),
  };
  const valuesOf = (query: typeof rows) => new Map(query.data?.rows.map((row) => [row.key, row[measure]]));
  const headsOf = (query: typeof rows) =>
    (query.data?.rows ?? []).map((row) => ({ key: row.key, label: row.label, total: row[measure] }));
  return (
    <Card
      title={`${label} by ${down.name} and ${across.name}`}
      note={
        rows.data &&
        columns.data &&
        `${countOf(rows.data.total, rowKeys.length, down.plural)} by ${countOf(columns.data.total, columnKeys.length, across.plural)}, in days of UTC`
      }
      flush
    >
      <Answer query={all}>
        {() => {
          if (isEmpty) return <Empty title="No usage here">{nothingFound(filters)}</Empty>;
          const now: Crossed = {
            rows: headsOf(rows),
            rowCount: rows.data!.total,
            columns: headsOf(columns),
            columnCount: columns.data!.total,
            cells: valuesOf(cells),
            total: rows.data!.totals[measure],
          };
          const isCompared = compare && pastRows.data && pastColumns.data && pastCells.data;
          const then: CrossedBefore | undefined =
            isCompared && pastTotal.data
              ? {
                  rows: valuesOf(pastRows),
                  columns: valuesOf(pastColumns),
                  cells: valuesOf(pastCells),
                  total: pastTotal.data.totals[measure],
                  period: rangeText(before(range)),
                }
              : undefined;
          return (
            <PivotTable
              label={`${label} by ${down.name} and ${across.name}`}
              corner={down.label}
              kind={kind}
              now={now}
              before={then}
              explained={(value, row, column, pad) => (
                <Explained
                  value={value}
                  kind={kind}
                  metric={metric}
                  range={range}
                  filters={{
                    ...filters,
                    ...(row !== undefined && { [down.filter]: [row] }),
                    ...(column !== undefined && { [across.filter]: [column] }),
                  }}
                  pad={pad}
                />
              )}
            />
          );
        }}
      </Answer>
    </Card>
  );
}
