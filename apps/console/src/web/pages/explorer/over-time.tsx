import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { api } from '../../api.ts';
import { apiFilters, type DimensionId, dimensionOf, measureOf } from '../../measures.ts';
import { add, subtract } from '../../quantity.ts';
import { periodText, rangeText } from '../../time.ts';
import { ChartWithTable, type Series } from '../../ui/chart.tsx';
import { Answer, Card, Empty, Skeleton } from '../../ui/parts.tsx';
import { INTERVAL_NAMES, nothingFound, type Shown } from './shown.ts';

/** The palette has ten colours; the last is for all others. */
export const CHARTED = 9;
export const OTHERS = 10;

/** Draws the named values of a dimension over time, and the sum of all others. `top` is undefined while it loads. */
export function OverTime({
  range,
  measure,
  interval,
  timeZone,
  filters,
  chart,
  by,
  top,
  tools,
}: Omit<Shown, 'by'> & {
  by: DimensionId;
  top: readonly { key: string; label: string }[] | undefined;
  tools: React.ReactNode;
}) {
  const { kind, label } = measureOf(measure);
  const dimension = dimensionOf(by);
  const named = apiFilters(filters);
  const totals = useQuery(api.analytics.timeseries.queryOptions({ ...range, ...named, interval, timeZone }));
  const keys = (top ?? []).map(({ key }) => key);
  const grouped = useQuery(
    api.analytics.timeseries.queryOptions(
      { ...range, ...named, [dimension.api]: keys, interval, timeZone, groupBy: by },
      { enabled: keys.length > 0, placeholderData: keepPreviousData },
    ),
  );
  const points = totals.data?.points;
  const groups = grouped.data?.points;
  const times = useMemo(() => (points ?? []).map(({ start }) => Date.parse(start) / 1000), [points]);
  const series = useMemo<Series[]>(() => {
    if (!points || !groups || !top || groups.length !== points.length) return [];
    const found = groups.map((point) => new Map(point.groups?.map((group) => [group.key, group[measure]])));
    const own = top.map(
      (row, index): Series => ({
        label: row.label,
        color: index + 1,
        values: found.map((group) => group.get(row.key) ?? '0'),
      }),
    );
    const rest = points.map((point, index) =>
      subtract(point[measure], add(...own.map(({ values }) => values[index]!))),
    );
    return rest.some((value) => value !== '0') ? [...own, { label: 'All others', color: OTHERS, values: rest }] : own;
  }, [points, groups, top, measure]);
  const drawn = {
    data: series.length > 0 || top?.length === 0 ? points : undefined,
    error: totals.error ?? grouped.error,
    refetch: () => Promise.all([totals.refetch(), grouped.refetch()]),
  };
  return (
    <Card title={`${label} by ${dimension.name}`} tools={tools}>
      <Answer query={drawn} waiting={<Skeleton height={330} />}>
        {(shown) =>
          series.length === 0 ? (
            <Empty title="No usage here">{nothingFound(filters)}</Empty>
          ) : (
            <ChartWithTable
              label={`${label} by ${dimension.name} and ${INTERVAL_NAMES[interval].toLowerCase()}, ${rangeText(range)}`}
              times={times}
              names={shown.map(({ start }) => periodText(start, interval, timeZone))}
              series={series}
              kind={kind}
              mode={chart}
              height={300}
              timeZone={timeZone}
            />
          )
        }
      </Answer>
    </Card>
  );
}
