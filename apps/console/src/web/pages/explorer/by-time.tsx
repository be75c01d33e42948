import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { api } from '../../api.ts';
import { apiFilters, MEASURES, measureOf } from '../../measures.ts';
import { rateText } from '../../quantity.ts';
import { addDays, before, periodText, rangeText } from '../../time.ts';
import { Chart, type Series } from '../../ui/chart.tsx';
import { Coverage, CoverageBanner } from '../../ui/coverage.tsx';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Card, Empty, Num, padOf, Skeleton } from '../../ui/parts.tsx';
import { Table } from '../../ui/table.tsx';
import { INTERVAL_NAMES, nothingFound, type Shown } from './shown.ts';

const MAX_ROWS = 400;

/** Shows a measure over time, as a chart and a table. */
export function ByTime({ range, measure, interval, timeZone, filters, chart, compare }: Shown) {
  const { kind, label } = measureOf(measure);
  const ask = { ...apiFilters(filters), interval, timeZone };
  const query = useQuery(api.analytics.timeseries.queryOptions({ ...range, ...ask }));
  const past = before(range);
  const pastText = rangeText(past);
  const earlier = useQuery(api.analytics.timeseries.queryOptions({ ...past, ...ask }, { enabled: compare }));
  const points = query.data?.points;
  const times = useMemo(() => (points ?? []).map(({ start }) => Date.parse(start) / 1000), [points]);
  const series = useMemo<Series[]>(() => {
    const own: Series = { label, color: 1, values: (points ?? []).map((point) => point[measure]) };
    if (!compare || !earlier.data) return [own];
    const values = own.values.map((_, index) => earlier.data.points[index]?.[measure] ?? null);
    return [own, { label: pastText, color: 0, values }];
  }, [points, earlier.data, compare, measure, label, pastText]);
  const every = INTERVAL_NAMES[interval].toLowerCase();
  return (
    <>
      <CoverageBanner coverage={query.data?.coverage} />
      <Card title={`${label} by ${every}`} tools={<Coverage coverage={query.data?.coverage} />}>
        <Answer query={query} waiting={<Skeleton height={300} />}>
          {(answer) => (
            <Chart
              label={`${label} by ${every}, ${rangeText(range)}`}
              times={times}
              names={answer.points.map(({ start }) => periodText(start, interval, timeZone))}
              series={series}
              kind={kind}
              mode={chart}
              height={300}
              timeZone={timeZone}
            />
          )}
        </Answer>
      </Card>
      <Card title={`Every ${every}`} note="newest first" flush>
        <Answer query={query}>
          {(answer) => {
            const used = answer.points.filter(({ requests, totalTokens, cost }) =>
              [requests, totalTokens, cost].some((value) => value !== '0'),
            );
            if (used.length === 0) return <Empty title="No usage here">{nothingFound(filters)}</Empty>;
            const pad = padOf(
              used.map(({ cost }) => cost),
              'money',
            );
            const isWholeDays = timeZone === 'UTC' && interval !== 'hour' && interval !== '15m';
            return (
              <Table
                label="Usage over time"
                rows={[...used].reverse().slice(0, MAX_ROWS)}
                keyOf={({ start }) => start}
                columns={[
                  {
                    title: INTERVAL_NAMES[interval],
                    cell: ({ start }) => <span className="num">{periodText(start, interval, timeZone)}</span>,
                  },
                  ...MEASURES.map((each) => ({
                    title: each.label,
                    right: true as const,
                    cell: (point: (typeof used)[number]) =>
                      isWholeDays ? (
                        <Explained
                          value={point[each.id]}
                          kind={each.kind}
                          metric={each.metric}
                          range={{
                            startDate: point.from.slice(0, 10),
                            endDate: addDays(point.to.slice(0, 10), -1),
                          }}
                          filters={filters}
                          {...(each.id === 'cost' ? { pad } : {})}
                        />
                      ) : (
                        <Num value={point[each.id]} kind={each.kind} {...(each.id === 'cost' ? { pad } : {})} />
                      ),
                  })),
                  {
                    title: 'Success',
                    right: true,
                    cell: ({ successRate }) => <span className="num">{rateText(successRate)}</span>,
                  },
                ]}
              >
                {used.length > MAX_ROWS && (
                  <p className="pager">The newest {MAX_ROWS} are listed. Choose a longer interval to see all.</p>
                )}
              </Table>
            );
          }}
        </Answer>
      </Card>
    </>
  );
}
