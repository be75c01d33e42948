import { ArrowDown, ArrowUp, Pencil, Trash2 } from 'lucide-react';
import { type ReactNode, useState } from 'react';
import type { Kind } from '../quantity.ts';
import { Button, Num, padOf } from './parts.tsx';

/** A column of a table; the first one names its rows. */
export type Column<Row> = {
  /** Distinguishes columns with the same title. */
  id?: string;
  title: string;
  cell: (row: Row) => ReactNode;
  /** For numbers. */
  right?: true;
  /** For sentences, which may take several lines. */
  wrap?: true;
  mono?: true;
  /** Shows the title only to screen readers; such a column of actions stays in view while the table scrolls. */
  untitled?: true;
  /** The sort key of this column; absent: not sortable. */
  sort?: string;
  foot?: ReactNode;
};

/** The order of rows; `onSort` is called with the clicked column. */
export type Sorting = { by: string; order: 'asc' | 'desc'; onSort: (by: string) => void };

/** Shows rows under their columns. The keyboard can reach and scroll it. `tall`: it scrolls by itself. */
export function Table<Row>({
  label = 'Table',
  rows,
  columns,
  keyOf,
  titleOf,
  sorting,
  tall = false,
  children,
}: {
  label?: string;
  rows: readonly Row[];
  columns: readonly (Column<Row> | false | undefined)[];
  keyOf: (row: Row) => string;
  /** The tooltip of a row. */
  titleOf?: (row: Row) => string | undefined;
  sorting?: Sorting;
  tall?: boolean;
  /** Below the rows: a pager. */
  children?: ReactNode;
}) {
  const shown = columns.filter((column) => column !== false && column !== undefined);
  const [naming, ...others] = shown;
  const hasFoot = shown.some(({ foot }) => foot !== undefined);
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
              <Head key={idOf(column)} column={column} sorting={sorting} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)} title={titleOf?.(row)}>
              {naming && <Cell as="th" column={naming} row={row} />}
              {others.map((column) => (
                <Cell key={idOf(column)} as="td" column={column} row={row} />
              ))}
            </tr>
          ))}
        </tbody>
        {hasFoot && (
          <tfoot>
            <tr>
              {naming && <th scope="row">{naming.foot}</th>}
              {others.map((column) => (
                <td key={idOf(column)} className={classOf(column)}>
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

/** Shows a cell. A text that does not fit is whole in its tooltip. */
function Cell<Row>({ as: Tag, column, row }: { as: 'th' | 'td'; column: Column<Row>; row: Row }) {
  const content = column.cell(row);
  const title = typeof content === 'string' && content.length > SHORT ? content : undefined;
  return (
    <Tag scope={Tag === 'th' ? 'row' : undefined} className={classOf(column)} title={title}>
      {content}
    </Tag>
  );
}

/** The letters that fit into every cell. */
const SHORT = 20;

/** The buttons that change and remove what a row shows. */
export const RowActions = ({
  name,
  onChange,
  onRemove,
}: {
  name: string;
  onChange: () => void;
  onRemove: () => void;
}) => (
  <>
    <Button kind="plain" small icon aria-label={`Change ${name}`} onClick={onChange}>
      <Pencil size={15} aria-hidden="true" />
    </Button>
    <Button kind="plain" small icon aria-label={`Remove ${name}`} onClick={onRemove}>
      <Trash2 size={15} aria-hidden="true" />
    </Button>
  </>
);

const idOf = ({ id, title }: Column<never>): string => id ?? title;

const classOf = ({ right, wrap, mono, untitled }: Column<never>): string | undefined =>
  [right && 'right', wrap && 'wrap', mono && 'mono', untitled && 'actions'].filter(Boolean).join(' ') || undefined;

/** Below a list that is read page by page: the number shown, and a button for more; nothing if there is no more. */
export function LoadMore({
  list,
  children,
}: {
  list: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => unknown };
  children: ReactNode;
}) {
  if (!list.hasNextPage) return null;
  return (
    <div className="pager">
      <span>{children}</span>
      <Button small disabled={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
        {list.isFetchingNextPage ? 'Loading…' : 'Load more'}
      </Button>
    </div>
  );
}

const PART = 100;

/** Shows a long list that came in one answer a part at a time: returns the rows to show, and a list for `LoadMore`. */
export function useParts<Row>(rows: readonly Row[]) {
  const [count, setCount] = useState(PART);
  const fetchNextPage = () => setCount(count + PART);
  return {
    shown: rows.slice(0, count),
    list: { hasNextPage: rows.length > count, isFetchingNextPage: false, fetchNextPage },
  };
}

/** Below a list whose address names the page: links to the first and the next page; nothing if there is only one. */
export function Pager({
  cursor,
  nextCursor,
  onTurn,
  children,
}: {
  cursor: string | undefined;
  nextCursor: string | null;
  /** Called with the cursor of the page to show; undefined is the first. */
  onTurn: (cursor: string | undefined) => void;
  children: ReactNode;
}) {
  if (!cursor && !nextCursor) return null;
  return (
    <div className="pager">
      <span>{children}</span>
      <span className="tools">
        {cursor && (
          <Button small onClick={() => onTurn(undefined)}>
            First page
          </Button>
        )}
        {nextCursor && (
          <Button small onClick={() => onTurn(nextCursor)}>
            Next page
          </Button>
        )}
      </span>
    </div>
  );
}

function Head<Row>({
  column: { title, right, untitled, sort },
  sorting,
}: {
  column: Column<Row>;
  sorting: Sorting | undefined;
}) {
  const className = [right && 'right', untitled && 'actions'].filter(Boolean).join(' ') || undefined;
  if (sort === undefined || !sorting)
    return (
      <th scope="col" className={className} title={title.length > SHORT ? title : undefined}>
        {untitled ? <span className="visually-hidden">{title}</span> : title}
      </th>
    );
  const active = sorting.by === sort;
  const Arrow = sorting.order === 'asc' ? ArrowUp : ArrowDown;
  return (
    <th
      scope="col"
      className={className}
      aria-sort={active ? (sorting.order === 'asc' ? 'ascending' : 'descending') : 'none'}
    >
      <button type="button" className="sort" data-active={active ? '' : undefined} onClick={() => sorting.onSort(sort)}>
        {title}
        {active && <Arrow size={13} aria-hidden="true" />}
      </button>
    </th>
  );
}

/** Makes a column of exact quantities with aligned decimal points. */
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
