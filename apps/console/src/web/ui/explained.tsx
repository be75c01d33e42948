import { Link } from '@tanstack/react-router';
import type { FilterSearch } from '../measures.ts';
import { format, type Kind } from '../quantity.ts';
import type { Range } from '../time.ts';
import { Digits } from './parts.tsx';

/** A number that opens its explanation. */
export function Explained({
  value,
  kind,
  metric,
  range,
  filters,
  pad,
}: {
  value: string;
  kind: Kind;
  metric: string;
  range: Range;
  filters: FilterSearch;
  pad?: number;
}) {
  return (
    <Link
      className="num"
      to="/app/explain"
      search={{ metric, from: range.startDate, to: range.endDate, ...filters }}
      preload={false}
      title={`${format(value, kind)}: explain this number`}
    >
      <Digits value={value} kind={kind} {...(pad === undefined ? {} : { pad })} />
    </Link>
  );
}
