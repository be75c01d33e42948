import type { ReactNode } from 'react';
import type { Kind } from '../quantity.ts';
import { Num, padOf } from './parts.tsx';

/** A column of a table; the first one names its rows. */
export type Column<Row> = {
  title: string;
  cell: (row: Row) => ReactNode;
  /** For numbers. */
  right?: true;
  /** For sentences, which may take several lines. */
  wrap?: true;
  mono?: true;
  /** The title is for screen readers only. */
  untitled?: true;
  foot?: ReactNode;
};

/** Shows rows under their columns. The keyboard can reach and scroll it. `tall`: it scrolls by itself. */
export function Table<Row>({
  label = 'Table',
  rows,
  columns,
  keyOf,
  titleOf,
  tall = false,
  children,
}: {
  label?: string;
  rows: readonly Row[];
  columns: readonly (Column<Row> | false | undefined)[];
  keyOf: (row: Row) => string;
  /** Shown when a row is pointed at. */
  titleOf?: (row: Row) => string | undefined;
  tall?: boolean;
  /** Below the rows: a pager. */
  children?: ReactNode;
}) {
  const shown = columns.filter((column) => column !== false && column !== undefined);
  const [naming, ...others] = shown;
  const hasFoot = shown.some(({ foot }) => foot !== undefined);
  const classOf = ({ right, wrap, mono }: Column<Row>) =>
    [right && 'right', wrap && 'wrap', mono && 'mono'].filter(Boolean).join(' ') || undefined;
  return (
    // biome-ignore lint/a11y/useSemanticElements: a group that scrolls is no set of fields.
    <div
      className={tall ? 'table-scroll table-tall' : 'table-scroll'}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by the keyboard.
      tabIndex={0}
      role="group"
      aria-label={label}
    >
      <table className="table">
        <thead>
          <tr>
            {shown.map((column) => (
              <th key={column.title} scope="col" className={column.right ? 'right' : undefined}>
                {column.untitled ? <span className="visually-hidden">{column.title}</span> : column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)} title={titleOf?.(row)}>
              {naming && (
                <th scope="row" className={classOf(naming)}>
                  {naming.cell(row)}
                </th>
              )}
              {others.map((column) => (
                <td key={column.title} className={classOf(column)}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
        {hasFoot && (
          <tfoot>
            <tr>
              {naming && <th scope="row">{naming.foot}</th>}
              {others.map((column) => (
                <td key={column.title} className={classOf(column)}>
                  {column.foot}
                </td>
              ))}
            </tr>
          </tfoot>
        )}
      </table>
      {children}
    </div>
  );
}

/** Makes a column of exact quantities, their decimal points under each other. */
export function numbers<Row>(
  title: string,
  rows: readonly Row[],
  quantityOf: (row: Row) => string | null,
  kind: Kind = 'count',
): Column<Row> {
  const pad = padOf(
    rows.flatMap((row) => quantityOf(row) ?? []),
    kind,
  );
  return {
    title,
    right: true,
    cell: (row) => {
      const value = quantityOf(row);
      return value === null ? '–' : <Num value={value} kind={kind} pad={pad} />;
    },
  };
}
