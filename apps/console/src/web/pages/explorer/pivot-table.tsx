import { add, approximate, format, isZero, type Kind, subtract } from '../../quantity.ts';
import { CellName, Delta, Num, padOf } from '../../ui/parts.tsx';
import { type Column, Table } from '../../ui/table.tsx';

/** Rows and columns at most. All cells of a measure are one answer, which has at most 200 rows. */
export const PIVOT_ROWS = 25;
export const PIVOT_COLUMNS = 8;
/** The share of the accent in the darkest cell, in percent. */
const HEAT = 26;

type Head = { key: string; label: string; total: string };

/** Quantities by two dimensions: the largest rows and columns, how many there are, and the total of all. */
export type Crossed = {
  rows: readonly Head[];
  rowCount: number;
  columns: readonly Head[];
  columnCount: number;
  /** By `cellOf`; absent: nothing. */
  cells: ReadonlyMap<string, string>;
  total: string;
};

/** The same rows and columns in the period before, by their keys; absent: nothing. */
export type CrossedBefore = {
  rows: ReadonlyMap<string, string>;
  columns: ReadonlyMap<string, string>;
  cells: ReadonlyMap<string, string>;
  total: string;
  /** What it is, such as `1 – 7 Nov 2026`. */
  period: string;
};

export const cellOf = (row: string, column: string): string => JSON.stringify([row, column]);

/** Shows quantities with one dimension down and the other across; rows and columns add up. */
export function PivotTable({
  label,
  corner,
  kind,
  now: { rows, rowCount, columns, columnCount, cells, total },
  before,
  explained,
}: {
  label: string;
  /** The name of what the rows are. */
  corner: string;
  kind: Kind;
  now: Crossed;
  before: CrossedBefore | undefined;
  /** Renders a quantity that can be explained; a key that is absent stands for all. */
  explained: (value: string, row: string | undefined, column: string | undefined, pad: number) => React.ReactNode;
}) {
  const shown = rows.map((row) => {
    const own = columns.map(({ key }) => cells.get(cellOf(row.key, key)) ?? '0');
    return { ...row, cells: own, others: subtract(row.total, add(...own)) };
  });
  const most = Math.max(...shown.flatMap((row) => row.cells.map(approximate)));
  const hasOthers = shown.some((row) => !isZero(row.others)) || columnCount > columns.length;
  const pad = padOf([...shown.flatMap((row) => [...row.cells, row.total]), total], kind);
  const changed = (current: string, previous: string | undefined = '0') =>
    before && (
      <small className="cell-delta" title={`${format(previous, kind)} in ${before.period}`}>
        <Delta current={current} previous={previous} />
      </small>
    );
  type Row = (typeof shown)[number];
  return (
    <Table
      label={label}
      rows={shown}
      keyOf={({ key }) => key}
      columns={[
        { title: corner, cell: (row) => <CellName name={row.label} id={row.key} />, foot: 'All' },
        ...columns.map(
          (head, place): Column<Row> => ({
            id: `value ${head.key}`,
            title: head.label,
            right: true,
            cell: ({ key, cells: own }) => {
              const delta = changed(own[place]!, before?.cells.get(cellOf(key, head.key)));
              if (isZero(own[place]!) && !before?.cells.has(cellOf(key, head.key)))
                return <span className="muted">–</span>;
              const heat = Math.round((HEAT * Math.max(0, approximate(own[place]!))) / (most || 1));
              return (
                <span className="heat" style={{ '--heat': `${heat}%` } as React.CSSProperties}>
                  {explained(own[place]!, key, head.key, pad)}
                  {delta}
                </span>
              );
            },
            foot: (
              <>
                {explained(head.total, undefined, head.key, pad)}
                {changed(head.total, before?.columns.get(head.key))}
              </>
            ),
          }),
        ),
        hasOthers && {
          title: 'All others',
          right: true,
          cell: ({ others }) => <Num value={others} kind={kind} pad={pad} />,
          foot: <Num value={subtract(total, add(...columns.map((head) => head.total)))} kind={kind} pad={pad} />,
        },
        {
          title: 'Total',
          right: true,
          cell: (row) => (
            <>
              <b>{explained(row.total, row.key, undefined, pad)}</b>
              {changed(row.total, before?.rows.get(row.key))}
            </>
          ),
          foot: (
            <>
              {explained(total, undefined, undefined, pad)}
              {changed(total, before?.total)}
            </>
          ),
        },
      ]}
    >
      {rowCount > rows.length && (
        <p className="pager">
          The {rows.length} largest of {format(String(rowCount), 'count')} are listed; the others have{' '}
          {format(subtract(total, add(...rows.map((row) => row.total))), kind)}. All of them are in the list and in
          exports.
        </p>
      )}
    </Table>
  );
}

/** Says how many rows or columns there are, and how many of them are shown. */
export const countOf = (total: number, shown: number, plural: string) =>
  total > shown ? `the ${shown} largest of ${format(String(total), 'count')} ${plural}` : `${total} ${plural}`;
