import type { Meter } from '@tally/contracts';
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { Gauge } from 'lucide-react';
import { useMemo } from 'react';
import { api } from '../../api.ts';
import { dimensionOf, type GroupId, isDimension, namesOf } from '../../measures.ts';
import { add, compare as compareQuantities, format, percentage, subtract } from '../../quantity.ts';
import { before, periodText, type Range, rangeText } from '../../time.ts';
import { ChartWithTable, type Series, Swatch } from '../../ui/chart.tsx';
import { Coverage, CoverageBanner } from '../../ui/coverage.tsx';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Card, CellName, Delta, Empty, Num, padOf, Skeleton, SkeletonRows } from '../../ui/parts.tsx';
import { type Column, numbers, Pager, Table } from '../../ui/table.tsx';
import {
  hasPercentiles,
  isAdditive,
  kindOfMeter,
  meterFilters,
  metricOfMeter,
  percentileName,
  type Window,
} from './meter.ts';
import { CHARTED, OTHERS } from './over-time.tsx';
import {
  type Crossed,
  type CrossedBefore,
  cellOf,
  countOf,
  PIVOT_COLUMNS,
  PIVOT_ROWS,
  PivotTable,
} from './pivot-table.tsx';
import { type ChangeSearch, INTERVAL_NAMES, type Shown } from './shown.ts';

const PAGE = 50;
/** Rows of a table over time. */
const MAX_ROWS = 400;

type Props = Shown & {
  meter: Meter;
  byKey: boolean;
  change: ChangeSearch;
};

type Row = { start: string; group: Record<string, string>; value: string };

/** Shows what a meter counted: over time, and by one of its dimensions or two. */
export function ByMeter(props: Props) {
  const { meter, range, window, timeZone, filters, where, percentile, by, and, pivot, compare, chart } = props;
  const kind = kindOfMeter(meter);
  const dimensions = by === 'time' ? [] : [by, ...(and ? [and] : [])];
  const named = meterFilters(meter, filters, { where, percentile });
  const ask = { meter: meter.key, ...range, ...named, timeZone };
  const past = { ...ask, ...before(range) };
  const keep = { placeholderData: keepPreviousData };
  const total = useQuery(api.analytics.meter.queryOptions({ ...ask, window: 'total' }));
  const parts = useQuery(
    api.analytics.meter.queryOptions(
      { ...ask, window: 'total', groupBy: dimensions },
      { enabled: dimensions.length > 0, ...keep },
    ),
  );
  // What the chart draws: the largest of the first dimension.
  const firsts = useQuery(
    api.analytics.meter.queryOptions(
      { ...ask, window: 'total', groupBy: dimensions.slice(0, 1) },
      { enabled: dimensions.length > 0, ...keep },
    ),
  );
  const pastTotal = useQuery(api.analytics.meter.queryOptions({ ...past, window: 'total' }, { enabled: compare }));
  const pastParts = useQuery(
    api.analytics.meter.queryOptions(
      { ...past, window: 'total', groupBy: dimensions },
      { enabled: compare && dimensions.length > 0 },
    ),
  );
  const top = useMemo(() => firsts.data && largest(firsts.data.rows).slice(0, CHARTED), [firsts.data]);
  const nameOf = useNamesInRange(range);
  const metric = timeZone === 'UTC' ? metricOfMeter(meter) : undefined;
  /** A number of some values of dimensions, explained where it is the sum of a metric. */
  const numberOf = (value: string, group: Record<string, string>, pad = 0) => {
    const own = Object.entries(group);
    const isKnown = where === undefined && own.every(([id]) => isDimension(id));
    if (metric === undefined || !isKnown) return <Num value={value} kind={kind} pad={pad} />;
    const chosen = own.map(([id, key]) => [dimensionOf(id as never).filter, [key]]);
    const merchants = meter.merchantId ? { merchants: [meter.merchantId] } : {};
    return (
      <Explained
        value={value}
        kind={kind}
        metric={metric}
        range={range}
        filters={{ ...filters, ...merchants, ...Object.fromEntries(chosen) }}
        pad={pad}
      />
    );
  };
  const title = `${meter.name}${hasPercentiles(meter) ? `, ${percentileName(percentile)}` : ''}`;
  const shared = { ...props, kind, dimensions, nameOf, numberOf, title };
  return (
    <>
      <CoverageBanner coverage={total.data?.coverage} />
      <Card
        title={title}
        note={[meter.unit, rangeText(range)].filter(Boolean).join(' · ')}
        tools={<Coverage coverage={total.data?.coverage} />}
      >
        <p className="meter-total">
          <Answer query={total} waiting={<Skeleton width={160} height={31} />}>
            {({ rows }) => (rows[0] || isAdditive(meter) ? numberOf(rows[0]?.value ?? '0', {}) : <>–</>)}
          </Answer>{' '}
          {compare && total.data && pastTotal.data && (
            <span title={`${format(pastTotal.data.rows[0]?.value ?? '0', kind)} in ${rangeText(before(range))}`}>
              <Delta
                current={total.data.rows[0]?.value ?? '0'}
                previous={pastTotal.data.rows[0]?.value ?? '0'}
                label={`against ${rangeText(before(range))}`}
              />
            </span>
          )}
        </p>
        <OverTime
          {...{ meter, range, window, timeZone, named, chart, compare, kind, title, nameOf }}
          by={by === 'time' ? undefined : by}
          top={by === 'time' ? NONE : top}
        />
      </Card>
      {by === 'time' ? (
        <Windows ask={{ ...ask, window }} kind={kind} title={title} />
      ) : (
        <Answer
          query={parts}
          waiting={
            <Card flush>
              <SkeletonRows />
            </Card>
          }
        >
          {({ rows }) => {
            if (rows.length === 0) return null;
            const then = compare ? pastParts.data?.rows : undefined;
            return and && pivot && isAdditive(meter) ? (
              <Crossing {...shared} and={and} rows={rows} before={then} />
            ) : (
              <Parts
                {...shared}
                rows={rows}
                before={then}
                total={total.data?.rows[0]?.value}
                colors={new Map(top?.map(({ group }, place) => [group[by]!, place + 1]))}
              />
            );
          }}
        </Answer>
      )}
    </>
  );
}

const NONE: readonly Row[] = [];
const largest = (rows: readonly Row[]) => [...rows].sort((a, b) => compareQuantities(b.value, a.value));

/** The names of users, keys and merchants with usage in a range. */
function useNamesInRange(range: Range): (dimension: string, key: string) => string {
  const { data } = useQuery(api.analytics.filterOptions.queryOptions(range, { staleTime: 300_000 }));
  return useMemo(() => {
    const namesIn = (rows: readonly { id: string; label: string }[] = []) =>
      new Map(rows.map(({ id, label }) => [id, label]));
    const names: Record<string, ReadonlyMap<string, string>> = {
      user: namesIn(data?.users),
      apiKey: namesIn(data?.apiKeys),
      merchant: namesIn(data?.merchants),
    };
    return (dimension, key) => names[dimension]?.get(key) ?? key;
  }, [data]);
}

type Shared = Props & {
  kind: ReturnType<typeof kindOfMeter>;
  dimensions: readonly GroupId[];
  nameOf: (dimension: string, key: string) => string;
  numberOf: (value: string, group: Record<string, string>, pad?: number) => React.ReactNode;
  title: string;
};

const groupKey = (dimensions: readonly string[], { group }: Pick<Row, 'group'>) =>
  JSON.stringify(dimensions.map((dimension) => group[dimension]));

/** Lists the values of a meter by its dimensions, in pages. */
function Parts({
  meter,
  kind,
  dimensions,
  rows,
  before: then,
  range,
  total,
  colors,
  byKey,
  order,
  cursor,
  compare,
  change,
  nameOf,
  numberOf,
  title,
}: Shared & {
  rows: readonly Row[];
  before: readonly Row[] | undefined;
  total: string | undefined;
  colors: ReadonlyMap<string, number>;
}) {
  const idOf = (row: Row) => groupKey(dimensions, row);
  const sorted = useMemo(() => {
    const ascending = byKey
      ? [...rows].sort((a, b) => (groupKey(dimensions, a) < groupKey(dimensions, b) ? -1 : 1))
      : [...rows].sort((a, b) => compareQuantities(a.value, b.value));
    return order === 'asc' ? ascending : ascending.reverse();
  }, [rows, byKey, order, dimensions]);
  const from = Math.min(Number(/^\d+$/.exec(cursor ?? '')?.[0] ?? 0), sorted.length);
  const shown = sorted.slice(from, from + PAGE);
  const past = then && new Map(then.map((row) => [idOf(row), row.value]));
  const pad = padOf([...shown.map(({ value }) => value), total ?? '0'], kind);
  const names = dimensions.map(namesOf);
  const all = `All ${format(String(rows.length), 'count')}`;
  return (
    <Card
      title={names
        .map(({ plural }) => plural)
        .join(' and ')
        .replace(/^./u, (first) => first.toUpperCase())}
      note={`${format(String(rows.length), 'count')} with a value`}
      flush
    >
      <Table
        label={`${title} by ${names.map(({ name }) => name).join(' and ')}`}
        rows={shown}
        keyOf={idOf}
        sorting={{
          by: byKey ? 'key' : 'value',
          order,
          onSort: (id) => {
            const usual = id === 'key' ? 'asc' : 'desc';
            const next = (id === 'key') === byKey ? (order === 'desc' ? 'asc' : 'desc') : usual;
            change({ sort: id === 'key' ? 'key' : undefined, order: next });
          },
        }}
        columns={[
          ...dimensions.map(
            (dimension, place): Column<Row> => ({
              title: names[place]!.label,
              ...(place === 0 ? { sort: 'key', foot: all } : {}),
              cell: ({ group }) => {
                const key = group[dimension]!;
                return (
                  <CellName name={nameOf(dimension, key)} id={key}>
                    {place === 0 && <Swatch color={colors.get(key) ?? OTHERS} />}
                  </CellName>
                );
              },
            }),
          ),
          {
            title,
            sort: 'value',
            right: true,
            cell: ({ group, value }) => numberOf(value, group, pad),
            foot: total === undefined ? '–' : numberOf(total, {}, pad),
          },
          isAdditive(meter) && {
            title: 'Share',
            right: true,
            cell: ({ value }) => {
              const share = percentage(value, total ?? '0');
              return <span className="num">{share === null ? '–' : format(share, 'percent')}</span>;
            },
          },
          compare && {
            title: 'Change',
            right: true,
            cell: (row) => {
              if (!past) return <Skeleton width={44} />;
              const previous = past.get(idOf(row)) ?? '0';
              return (
                <span title={`${format(previous, kind)} in ${rangeText(before(range))}`}>
                  <Delta current={row.value} previous={previous} />
                </span>
              );
            },
          },
        ]}
      />
      <Pager
        cursor={from > 0 ? cursor : undefined}
        nextCursor={from + PAGE < sorted.length ? String(from + PAGE) : null}
        onTurn={(next) => change({ cursor: next })}
      >
        {from + 1} to {from + shown.length} of {format(String(sorted.length), 'count')}
      </Pager>
    </Card>
  );
}

/** Shows a meter whose values add up with one dimension down and the other across. */
function Crossing({
  rows,
  before: then,
  by,
  and,
  kind,
  range,
  nameOf,
  numberOf,
  title,
}: Shared & { and: GroupId; rows: readonly Row[]; before: readonly Row[] | undefined }) {
  const [down, across] = [by as GroupId, and];
  const now = crossedOf(rows, down, across);
  const headsOf = (sums: ReadonlyMap<string, string>, dimension: GroupId, most: number) =>
    [...sums]
      .sort(([, a], [, b]) => compareQuantities(b, a))
      .slice(0, most)
      .map(([key, total]) => ({ key, label: nameOf(dimension, key), total }));
  const crossed: Crossed = {
    rows: headsOf(now.rows, down, PIVOT_ROWS),
    rowCount: now.rows.size,
    columns: headsOf(now.columns, across, PIVOT_COLUMNS),
    columnCount: now.columns.size,
    cells: now.cells,
    total: now.total,
  };
  const past: CrossedBefore | undefined = then && {
    ...crossedOf(then, down, across),
    period: rangeText(before(range)),
  };
  const label = `${title} by ${namesOf(down).name} and ${namesOf(across).name}`;
  return (
    <Card
      title={label}
      note={`${countOf(crossed.rowCount, crossed.rows.length, namesOf(down).plural)} by ${countOf(crossed.columnCount, crossed.columns.length, namesOf(across).plural)}`}
      flush
    >
      <PivotTable
        label={label}
        corner={namesOf(down).label}
        kind={kind}
        now={crossed}
        before={past}
        explained={(value, row, column, pad) =>
          numberOf(
            value,
            { ...(row !== undefined && { [down]: row }), ...(column !== undefined && { [across]: column }) },
            pad,
          )
        }
      />
    </Card>
  );
}

/** Sums rows of two dimensions by each of them. */
function crossedOf(rows: readonly Row[], down: GroupId, across: GroupId) {
  const sum = (keyOf: (row: Row) => string) => {
    const sums = new Map<string, string>();
    for (const row of rows) sums.set(keyOf(row), add(sums.get(keyOf(row)) ?? '0', row.value));
    return sums;
  };
  return {
    rows: sum(({ group }) => group[down]!),
    columns: sum(({ group }) => group[across]!),
    cells: sum(({ group }) => cellOf(group[down]!, group[across]!)),
    total: add(...rows.map(({ value }) => value)),
  };
}

/** Draws a meter by windows: the largest values of a dimension, or the whole. */
function OverTime({
  meter,
  range,
  window,
  timeZone,
  named,
  chart,
  compare,
  kind,
  title,
  by,
  top,
  nameOf,
}: Pick<Props, 'meter' | 'range' | 'window' | 'timeZone' | 'chart' | 'compare'> &
  Pick<Shared, 'kind' | 'title' | 'nameOf'> & {
    named: ReturnType<typeof meterFilters>;
    by: GroupId | undefined;
    top: readonly Row[] | undefined;
  }) {
  const ask = { meter: meter.key, ...range, ...named, window, timeZone };
  const past = before(range);
  const pastText = rangeText(past);
  // Where windows begin in a zone, the services know; a meter has no row for a window without events.
  const periods = useQuery(api.analytics.timeseries.queryOptions({ ...range, interval: window, timeZone }));
  const whole = useQuery(api.analytics.meter.queryOptions(ask));
  const pastPeriods = useQuery(
    api.analytics.timeseries.queryOptions({ ...past, interval: window, timeZone }, { enabled: compare && !by }),
  );
  const pastWhole = useQuery(api.analytics.meter.queryOptions({ ...ask, ...past }, { enabled: compare && !by }));
  const keys = (top ?? []).map(({ group }) => group[by!]!);
  const ofTop = by && (by === 'merchant' ? { merchantIds: keys } : { filters: { ...named.filters, [by]: keys } });
  const parts = useQuery(
    api.analytics.meter.queryOptions(
      { ...ask, ...ofTop, groupBy: by ? [by] : [] },
      { enabled: by !== undefined && keys.length > 0, placeholderData: keepPreviousData },
    ),
  );
  const starts = useMemo(() => periods.data?.points.map(({ start }) => start), [periods.data]);
  const times = useMemo(() => (starts ?? []).map((start) => Date.parse(start) / 1000), [starts]);
  const empty = isAdditive(meter) ? '0' : null;
  const series = useMemo<Series[] | undefined>(() => {
    if (!starts || !whole.data) return undefined;
    const valuesOf = (rows: readonly Row[], at: readonly string[] = starts) => {
      const values = new Map(rows.map(({ start, value }) => [Date.parse(start), value]));
      return at.map((start) => values.get(Date.parse(start)) ?? empty);
    };
    if (by === undefined) {
      const own: Series = { label: title, color: 1, values: valuesOf(whole.data.rows) };
      if (!pastWhole.data || !pastPeriods.data) return [own];
      const then = valuesOf(
        pastWhole.data.rows,
        pastPeriods.data.points.map(({ start }) => start),
      );
      const values = starts.map((_, index) => then[index] ?? null);
      return [own, { label: pastText, color: 0, values }];
    }
    if (!top || (top.length > 0 && !parts.data)) return undefined;
    const own = top.map(({ group }, index): Series => {
      const key = group[by]!;
      const rows = parts.data!.rows.filter((row) => row.group[by] === key);
      return { label: nameOf(by, key), color: index + 1, values: valuesOf(rows) };
    });
    if (!isAdditive(meter)) return own;
    const all = valuesOf(whole.data.rows);
    const rest = all.map((value, index) => subtract(value!, add(...own.map(({ values }) => values[index]!))));
    return rest.some((value) => value !== '0') ? [...own, { label: 'All others', color: OTHERS, values: rest }] : own;
  }, [
    starts,
    whole.data,
    pastWhole.data,
    pastPeriods.data,
    parts.data,
    by,
    top,
    nameOf,
    title,
    pastText,
    meter,
    empty,
  ]);
  const drawn = {
    data: series,
    error: periods.error ?? whole.error ?? parts.error,
    refetch: () => Promise.all([periods.refetch(), whole.refetch(), parts.refetch()]),
  };
  const every = INTERVAL_NAMES[window].toLowerCase();
  return (
    <Answer query={drawn} waiting={<Skeleton height={330} />}>
      {(shown) =>
        whole.data?.rows.length === 0 ? (
          <Empty icon={Gauge} title="Nothing was counted here">
            The meter counts events that fit its definition, from its creation on and back as far as events are kept.
          </Empty>
        ) : (
          <ChartWithTable
            label={`${title} by ${every}, ${rangeText(range)}`}
            times={times}
            names={starts!.map((start) => periodText(start, window, timeZone))}
            series={shown}
            kind={kind}
            // Only sums can stand on each other.
            mode={isAdditive(meter) ? chart : 'lines'}
            height={300}
            timeZone={timeZone}
          />
        )
      }
    </Answer>
  );
}

/** Lists the windows of a meter, newest first. */
function Windows({
  ask,
  kind,
  title,
}: Pick<Shared, 'kind' | 'title'> & { ask: { meter: string; window: Window; timeZone: string } & Range }) {
  const query = useQuery(api.analytics.meter.queryOptions(ask));
  const every = INTERVAL_NAMES[ask.window];
  return (
    <Card title={`Every ${every.toLowerCase()}`} note="with a value, newest first" flush>
      <Answer query={query}>
        {({ rows }) => {
          const shown = [...rows].reverse().slice(0, MAX_ROWS);
          if (shown.length === 0) return <Empty icon={Gauge} title="Nothing was counted here" />;
          return (
            <Table
              label={`${title} over time`}
              rows={shown}
              keyOf={({ start }) => start}
              columns={[
                {
                  title: every,
                  cell: ({ start }) => <span className="num">{periodText(start, ask.window, ask.timeZone)}</span>,
                },
                numbers(title, shown, ({ value }) => value, kind),
              ]}
            >
              {rows.length > MAX_ROWS && (
                <p className="pager">The newest {MAX_ROWS} are listed. Choose a longer interval to see all.</p>
              )}
            </Table>
          );
        }}
      </Answer>
    </Card>
  );
}
