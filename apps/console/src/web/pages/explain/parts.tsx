import { useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { api } from '../../api.ts';
import { apiFilters, type FilterSearch, kindOfMetric, labelOfMetric, measureOfMetric } from '../../measures.ts';
import { add, format, isZero, percentage } from '../../quantity.ts';
import { countDays, dayText, type Range, rangeText, startOf } from '../../time.ts';
import { Chart } from '../../ui/chart.tsx';
import { Coverage } from '../../ui/coverage.tsx';
import { Explained } from '../../ui/explained.tsx';
import { Answer, Card, Empty, Num, Part, padOf } from '../../ui/parts.tsx';
import { Table } from '../../ui/table.tsx';
import { EventsOfRange } from './range.tsx';
import { Reconciliation } from './reconciliation.tsx';

/** Shows the parts of a number of several days or merchants, each as a link. */
export function Parts({
  metric,
  range,
  filters,
  merchantId,
}: {
  metric: string;
  range: Range;
  filters: FilterSearch;
  merchantId: string | undefined;
}) {
  const navigate = useNavigate({ from: '/app/explain' });
  const measure = measureOfMetric(metric);
  const kind = kindOfMetric(metric);
  const named = apiFilters(filters);
  const days = useQuery(
    api.analytics.timeseries.queryOptions({ ...range, ...named, interval: 'day' }, { enabled: measure !== undefined }),
  );
  const byMerchant = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...named, by: 'merchant', ...(measure ? { sortBy: measure.id } : {}), limit: 100 },
      { enabled: merchantId === undefined && measure !== undefined },
    ),
  );
  const plain = useQuery(
    api.analytics.merchantUsage.queryOptions(
      { merchantId: merchantId ?? '', ...range, metricTypes: [metric] },
      { enabled: measure === undefined && merchantId !== undefined },
    ),
  );
  if (!measure && merchantId === undefined)
    return (
      <Card>
        <Empty title="Choose a merchant">
          {labelOfMetric(metric)} is kept for each merchant and day. Choose one above to see what it is made of.
        </Empty>
      </Card>
    );
  const source = measure ? days : plain;
  const rows: { date: string; value: string }[] | undefined = measure
    ? days.data?.points.map((point) => ({ date: point.start.slice(0, 10), value: point[measure.id] }))
    : plain.data?.rows.map((row) => ({ date: row.date, value: row.metricValue }));
  const coverage = source.data?.coverage;
  const total = rows && add(...rows.map(({ value }) => value));
  const used = rows?.filter(({ value }) => !isZero(value));
  const pad = padOf(
    (used ?? []).map(({ value }) => value),
    kind,
  );
  return (
    <>
      <div className="equation">
        <div className="card term" data-result="">
          <span className="label">{labelOfMetric(metric)}</span>
          <span className="value">
            <Part query={{ ...source, data: total }} width={150}>
              {(value) => <Num value={value} kind={kind} />}
            </Part>
          </span>
          <small>the sum of what is below</small>
        </div>
        <span className="operator" aria-hidden="true">
          Σ
        </span>
        <div className="card term">
          <span className="label">Days with usage</span>
          <span className="value num">
            <Part query={{ ...source, data: used }} width={40}>
              {(found) => format(String(found.length), 'count')}
            </Part>
          </span>
          <small>of {format(String(countDays(range)), 'count')}</small>
        </div>
        {merchantId === undefined && (
          <div className="card term">
            <span className="label">Merchants</span>
            <span className="value num">
              <Part query={byMerchant} width={40}>
                {({ total: count }) => format(String(count), 'count')}
              </Part>
            </span>
            <small>with usage</small>
          </div>
        )}
      </div>
      <div className={merchantId === undefined ? 'wide-two' : 'stack'}>
        <Card title="By day" note="open a day to see its events" tools={<Coverage coverage={coverage} />} flush>
          <Answer query={{ ...source, data: rows }}>
            {(shown) =>
              used!.length === 0 ? (
                <Empty title="Nothing was counted here">
                  No usage of {rangeText(range)} matches. A number of 0 is the sum of no events.
                </Empty>
              ) : (
                <>
                  {shown.length > 1 && (
                    <div className="card-body">
                      <Chart
                        label={`${labelOfMetric(metric)} by day`}
                        times={shown.map(({ date }) => startOf(date) / 1000)}
                        names={shown.map(({ date }) => dayText(date, { weekday: true }))}
                        series={[{ label: labelOfMetric(metric), color: 1, values: shown.map(({ value }) => value) }]}
                        kind={kind}
                        mode="bars"
                        height={190}
                        onPick={(index) =>
                          void navigate({
                            search: (known) => ({ ...known, from: shown[index]!.date, to: shown[index]!.date }),
                          })
                        }
                      />
                    </div>
                  )}
                  <Table
                    label="Days"
                    tall
                    rows={[...used!].reverse()}
                    keyOf={({ date }) => date}
                    columns={[
                      { title: 'Day', cell: ({ date }) => dayText(date, { weekday: true }) },
                      {
                        title: labelOfMetric(metric),
                        right: true,
                        cell: ({ date, value }) => (
                          <Explained
                            value={value}
                            kind={kind}
                            metric={metric}
                            range={{ startDate: date, endDate: date }}
                            filters={filters}
                            pad={pad}
                          />
                        ),
                      },
                      {
                        title: 'Share',
                        right: true,
                        cell: ({ value }) => (
                          <span className="num">{format(percentage(value, total!) ?? '0', 'percent')}</span>
                        ),
                      },
                    ]}
                  />
                </>
              )
            }
          </Answer>
        </Card>
        {merchantId === undefined && measure && (
          <Card title="By merchant" flush>
            <Answer query={byMerchant}>
              {({ rows: found, totals, total: count }) =>
                found.length === 0 ? (
                  <Empty title="No merchant has usage here" />
                ) : (
                  <Table
                    label="Merchants"
                    rows={found}
                    keyOf={({ key }) => key}
                    titleOf={({ key }) => key}
                    columns={[
                      {
                        title: 'Merchant',
                        cell: ({ label }) => label,
                        foot: count > found.length ? `All ${format(String(count), 'count')}` : 'All',
                      },
                      {
                        title: labelOfMetric(metric),
                        right: true,
                        cell: (row) => (
                          <Explained
                            value={row[measure.id]}
                            kind={kind}
                            metric={metric}
                            range={range}
                            filters={{ ...filters, merchants: [row.key] }}
                            pad={padOf(
                              found.map((each) => each[measure.id]),
                              kind,
                            )}
                          />
                        ),
                        foot: (
                          <Num
                            value={totals[measure.id]}
                            kind={kind}
                            pad={padOf(
                              found.map((each) => each[measure.id]),
                              kind,
                            )}
                          />
                        ),
                      },
                    ]}
                  />
                )
              }
            </Answer>
          </Card>
        )}
      </div>
      {merchantId !== undefined && (
        <>
          <Reconciliation merchantId={merchantId} range={range} metric={metric} />
          <EventsOfRange merchantId={merchantId} range={range} metric={metric} filters={filters} />
        </>
      )}
    </>
  );
}
