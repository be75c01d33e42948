import type { Meter } from '@tally/contracts';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Gauge } from 'lucide-react';
import { api } from '../../api.ts';
import { compare, type Kind } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { countDays, PRESETS, periodText, type Range, rangeText } from '../../time.ts';
import { Chart, type Series } from '../../ui/chart.tsx';
import { Coverage, CoverageBanner } from '../../ui/coverage.tsx';
import { Answer, Card, Empty, Num, Skeleton } from '../../ui/parts.tsx';
import { FilterChip, Select } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { numbers, Table } from '../../ui/table.tsx';
import { dimensionText } from './meter.ts';

const CHARTED = 9;
const ROWS = 50;

const kindOf = ({ unit }: Meter): Kind => (unit === 'USD' ? 'money' : 'count');

/** Shows the usage of a meter: by day, and by one of its dimensions. */
export function MeterUsage({ meter }: { meter: Meter }) {
  const search = useSearch({ from: '/frame/app/meters' });
  const navigate = useNavigate({ from: '/app/meters' });
  const who = useWho();
  const usual = PRESETS.find(({ id }) => id === '30d')!.range();
  const range: Range = { startDate: search.from ?? usual.startDate, endDate: search.to ?? usual.endDate };
  const dimensions = [...(who.merchantId === null ? ['merchant'] : []), ...meter.dimensions];
  const by = dimensions.find((dimension) => dimension === search.by);
  const kind = kindOf(meter);
  const change = (next: Partial<typeof search>) =>
    void navigate({ search: (known) => ({ ...known, ...next }), replace: true });
  const merchants = search.merchants ?? [];
  const ask = {
    meter: meter.key,
    ...range,
    ...(meter.merchantId
      ? { merchantIds: [meter.merchantId] }
      : merchants.length > 0
        ? { merchantIds: merchants }
        : {}),
  };
  const groupBy = by ? { groupBy: [by] } : {};
  const windows = useQuery(api.analytics.meter.queryOptions({ ...ask, window: 'day', ...groupBy }));
  const total = useQuery(api.analytics.meter.queryOptions({ ...ask, window: 'total' }));
  const parts = useQuery(
    api.analytics.meter.queryOptions({ ...ask, window: 'total', ...groupBy }, { enabled: by !== undefined }),
  );
  const options = useQuery(
    api.analytics.filterOptions.queryOptions(range, {
      enabled: who.merchantId === null && meter.merchantId === null,
      staleTime: 300_000,
    }),
  );
  const largest = [...(parts.data?.rows ?? [])].sort((a, b) => compare(b.value, a.value));
  return (
    <>
      <CoverageBanner coverage={total.data?.coverage} />
      <Card
        title={meter.name}
        note={[meter.unit, rangeText(range)].filter(Boolean).join(' · ')}
        tools={
          <span className="tools">
            <Coverage coverage={total.data?.coverage} />
            {who.merchantId === null && meter.merchantId === null && (
              <FilterChip
                label="Merchant"
                options={(options.data?.merchants ?? []).map(({ id, label }) => ({ value: id, label }))}
                values={merchants}
                waiting={options.isLoading}
                onChange={(values) => change({ merchants: values.length > 0 ? values : undefined } as never)}
              />
            )}
            <Select
              label="Group the meter by"
              prefix="by"
              value={by ?? 'nothing'}
              options={[
                { value: 'nothing', label: 'nothing' },
                ...dimensions.map((value) => ({ value, label: dimensionText(value) })),
              ]}
              onChange={(next) => change({ by: next === 'nothing' ? undefined : next } as never)}
            />
            <RangePicker
              range={range}
              onChange={({ startDate, endDate }) => change({ from: startDate, to: endDate })}
            />
          </span>
        }
      >
        <p className="meter-total">
          <Answer query={total} waiting={<Skeleton width={160} height={32} />}>
            {({ rows }) => <Num value={rows[0]?.value ?? '0'} kind={kind} />}
          </Answer>
        </p>
        <Answer query={windows} waiting={<Skeleton height={260} />}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty icon={Gauge} title="Nothing was counted on these days">
                The meter counts events that fit its definition, from its creation on and back as far as events are
                kept.
              </Empty>
            ) : (
              <Windows rows={rows} range={range} meter={meter} by={by} top={largest.map(({ group }) => group[by!]!)} />
            )
          }
        </Answer>
      </Card>
      {by && largest.length > 0 && (
        <Card title={`By ${dimensionText(by)}`} note={largest.length > ROWS ? `the ${ROWS} largest` : undefined} flush>
          <Table
            label={`${meter.name} by ${dimensionText(by)}`}
            rows={largest.slice(0, ROWS)}
            keyOf={({ group }) => group[by]!}
            columns={[
              {
                title: dimensionText(by).replace(/^./, (first) => first.toUpperCase()),
                cell: ({ group }) => group[by],
              },
              numbers(meter.name, largest.slice(0, ROWS), ({ value }) => value, kind),
            ]}
          />
        </Card>
      )}
    </>
  );
}

type Row = { start: string; group: Record<string, string>; value: string };

/** Draws windows of a day; the API leaves out windows without events, which have no value here. */
function Windows({
  rows,
  range,
  meter,
  by,
  top,
}: {
  rows: readonly Row[];
  range: Range;
  meter: Meter;
  by: string | undefined;
  top: readonly string[];
}) {
  const first = Date.parse(`${range.startDate}T00:00:00Z`);
  const starts = Array.from({ length: countDays(range) }, (_, index) =>
    new Date(first + index * 86_400_000).toISOString(),
  );
  const isAdded = meter.aggregation === 'SUM' || meter.aggregation === 'COUNT';
  const seriesOf = (label: string, color: number, of: readonly Row[]): Series => {
    const values = new Map(of.map(({ start, value }) => [Date.parse(start), value]));
    return { label, color, values: starts.map((start) => values.get(Date.parse(start)) ?? (isAdded ? '0' : null)) };
  };
  const series = by
    ? top.slice(0, CHARTED).map((key, index) =>
        seriesOf(
          key,
          index + 1,
          rows.filter(({ group }) => group[by] === key),
        ),
      )
    : [seriesOf(meter.name, 1, rows)];
  return (
    <Chart
      label={`${meter.name} by day, ${rangeText(range)}`}
      times={starts.map((start) => Date.parse(start) / 1000)}
      names={starts.map((start) => periodText(start, 'day', 'UTC'))}
      series={series}
      kind={kindOf(meter)}
      // Only sums can be stacked.
      mode={isAdded ? 'bars' : 'lines'}
    />
  );
}
