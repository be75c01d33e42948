import { useQuery } from '@tanstack/react-query';
import { api } from '../../api.ts';
import {
  apiFilters,
  type DimensionId,
  dimensionOf,
  type FilterSearch,
  type MeasureId,
  measureOf,
} from '../../measures.ts';
import { add, approximate, format, isZero, subtract } from '../../quantity.ts';
import type { Range } from '../../time.ts';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Card, Empty, Num, padOf } from '../../ui/parts.tsx';
import { type Column, Table } from '../../ui/table.tsx';
import { nothingFound } from './shown.ts';

/** All cells are one answer, which has at most 200 rows. */
const ROWS = 25;
const COLUMNS = 8;
/** The share of the accent in the darkest cell, in percent. */
const HEAT = 26;

type Row = { key: string; label: string; cells: string[]; others: string; total: string };

/**
 * Shows a measure with one dimension down and the other across: the largest values of both, and the sum of the others.
 */
export function Pivot({
  range,
  measure,
  filters,
  by,
  and,
}: {
  range: Range;
  measure: MeasureId;
  filters: FilterSearch;
  by: DimensionId;
  and: DimensionId;
}) {
  const { kind, metric, label } = measureOf(measure);
  const [down, across] = [dimensionOf(by), dimensionOf(and)];
  const ask = { ...range, ...apiFilters(filters), sortBy: measure };
  const keep = { placeholderData: <T,>(known: T) => known };
  const rows = useQuery(api.analytics.breakdown.queryOptions({ ...ask, by, limit: ROWS }, keep));
  const columns = useQuery(api.analytics.breakdown.queryOptions({ ...ask, by: and, limit: COLUMNS }, keep));
  const keysOf = (query: typeof rows) => (query.data?.rows ?? []).map(({ key }) => key);
  const cells = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...ask, [down.api]: keysOf(rows), [across.api]: keysOf(columns), by: [by, and], limit: ROWS * COLUMNS },
      { enabled: keysOf(rows).length > 0 && keysOf(columns).length > 0, ...keep },
    ),
  );
  const isEmpty = rows.data?.rows.length === 0;
  const all = {
    data: rows.data && columns.data && (cells.data || isEmpty) ? true : undefined,
    error: rows.error ?? columns.error ?? cells.error,
    refetch: () => Promise.all([rows.refetch(), columns.refetch(), cells.refetch()]),
  };
  return (
    <Card
      title={`${label} by ${down.name} and ${across.name}`}
      note={
        rows.data &&
        columns.data &&
        `${countOf(rows.data, ROWS, down.plural)} by ${countOf(columns.data, COLUMNS, across.plural)}, in days of UTC`
      }
      flush
    >
      <Answer query={all}>
        {() => {
          if (isEmpty) return <Empty title="No usage here">{nothingFound(filters)}</Empty>;
          const heads = columns.data!.rows;
          const found = new Map((cells.data?.rows ?? []).map((row) => [row.key, row[measure]]));
          const shown = rows.data!.rows.map((row): Row => {
            const own = heads.map(({ key }) => found.get(JSON.stringify([row.key, key])) ?? '0');
            const total = row[measure];
            return { key: row.key, label: row.label, cells: own, others: subtract(total, add(...own)), total };
          });
          const [total, ofRows] = [rows.data!.totals[measure], add(...shown.map((row) => row.total))];
          const most = Math.max(...shown.flatMap((row) => row.cells.map(approximate)));
          const hasOthers = shown.some((row) => !isZero(row.others)) || columns.data!.total > heads.length;
          const pad = padOf([...shown.flatMap((row) => [...row.cells, row.total]), total], kind);
          const ofOthers = subtract(total, add(...heads.map((head) => head[measure])));
          const explained = (value: string, own: FilterSearch) => (
            <Explained value={value} kind={kind} metric={metric} range={range} filters={own} pad={pad} />
          );
          return (
            <Table
              label={`${label} by ${down.name} and ${across.name}`}
              rows={shown}
              keyOf={({ key }) => key}
              columns={[
                {
                  title: down.label,
                  cell: (row) => <Name name={row.label} id={row.key} />,
                  foot: 'All',
                },
                ...heads.map(
                  (head, place): Column<Row> => ({
                    id: `value ${head.key}`,
                    title: head.label,
                    right: true,
                    cell: ({ key, cells: own }) =>
                      isZero(own[place]!) ? (
                        <span className="muted">–</span>
                      ) : (
                        <span
                          className="heat"
                          style={
                            {
                              '--heat': `${Math.round((HEAT * Math.max(0, approximate(own[place]!))) / (most || 1))}%`,
                            } as React.CSSProperties
                          }
                        >
                          {explained(own[place]!, { ...filters, [down.filter]: [key], [across.filter]: [head.key] })}
                        </span>
                      ),
                    foot: explained(head[measure], { ...filters, [across.filter]: [head.key] }),
                  }),
                ),
                hasOthers && {
                  title: 'All others',
                  right: true,
                  cell: ({ others }) => <Num value={others} kind={kind} pad={pad} />,
                  foot: <Num value={ofOthers} kind={kind} pad={pad} />,
                },
                {
                  title: 'Total',
                  right: true,
                  cell: (row) => <b>{explained(row.total, { ...filters, [down.filter]: [row.key] })}</b>,
                  foot: explained(total, filters),
                },
              ]}
            >
              {rows.data!.total > shown.length && (
                <p className="pager">
                  The {ROWS} largest of {format(String(rows.data!.total), 'count')} are listed; the others have{' '}
                  {format(subtract(total, ofRows), kind)}. All of them are in the list and in exports.
                </p>
              )}
            </Table>
          );
        }}
      </Answer>
    </Card>
  );
}

const countOf = ({ total }: { total: number }, most: number, plural: string) =>
  total > most ? `the ${most} largest of ${format(String(total), 'count')} ${plural}` : `${total} ${plural}`;

const Name = ({ name, id }: { name: string; id: string }) => (
  <span className="cell-name">
    <span title={id}>
      {name}
      {name !== id && <small>{id}</small>}
    </span>
  </span>
);
