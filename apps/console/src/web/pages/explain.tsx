import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { CircleCheck, Plus, Scale, Search } from 'lucide-react';
import { useState } from 'react';
import { api, client, codeOf, detailsOf, messageOf, queryClient } from '../api.ts';
import {
  apiFilters,
  DIMENSIONS,
  type FilterSearch,
  kindOfMetric,
  labelOfMetric,
  MEASURES,
  measureOfMetric,
  readFilters,
} from '../measures.ts';
import { add, format, isZero, type Kind, percentage, subtract } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { countDays, dayText, type Range, rangeText, startOf } from '../time.ts';
import { Chart } from '../ui/chart.tsx';
import { Coverage } from '../ui/coverage.tsx';
import { Explained } from '../ui/explained.tsx';
import { Filters } from '../ui/filters.tsx';
import {
  Answer,
  Banner,
  Button,
  Card,
  Chip,
  Empty,
  Failure,
  Moment,
  Num,
  PageHead,
  padOf,
  SCROLLS,
  Skeleton,
} from '../ui/parts.tsx';
import { Dialog, Select, tell } from '../ui/popups.tsx';
import { RangePicker } from '../ui/range.tsx';

/** Explains a number: its days and merchants, and from there its events. */
export function Explain() {
  const search = useSearch({ from: '/frame/app/explain' });
  const navigate = useNavigate({ from: '/app/explain' });
  const who = useWho();
  const { metric } = search;
  const range: Range = { startDate: search.from, endDate: search.to };
  const filters = readFilters(search);
  const merchants = who.merchantId === null ? (filters.merchants ?? []) : [who.merchantId];
  const oneDay = range.startDate === range.endDate;
  const merchantId = merchants.length === 1 ? merchants[0]! : undefined;
  const metrics = [...new Set([...MEASURES.map((measure) => measure.metric), metric])];

  return (
    <div className="stack">
      <PageHead title={labelOfMetric(metric)} note={<Subject range={range} filters={filters} bound={who.merchantId} />}>
        <Select
          label="Metric"
          value={metric}
          options={metrics.map((value) => ({ value, label: labelOfMetric(value) }))}
          onChange={(next) => void navigate({ search: (known) => ({ ...known, metric: next }) })}
        />
        <RangePicker
          range={range}
          onChange={({ startDate, endDate }) =>
            void navigate({ search: (known) => ({ ...known, from: startDate, to: endDate }) })
          }
        />
      </PageHead>
      <Filters
        range={range}
        filters={filters}
        onChange={(next) => void navigate({ search: { metric, from: search.from, to: search.to, ...next } })}
      />
      {oneDay && merchantId !== undefined ? (
        <DayOfMerchant
          key={`${merchantId} ${range.startDate} ${metric}`}
          merchantId={merchantId}
          date={range.startDate}
          metric={metric}
          filters={filters}
        />
      ) : (
        <Parts metric={metric} range={range} filters={filters} merchantId={merchantId} />
      )}
    </div>
  );
}

function Subject({ range, filters, bound }: { range: Range; filters: FilterSearch; bound: string | null }) {
  const named = DIMENSIONS.flatMap(({ filter, label }) =>
    filters[filter] ? [`${label.toLowerCase()} ${filters[filter].join(', ')}`] : [],
  );
  const whose = bound ? `merchant ${bound}` : filters.merchants ? '' : 'all merchants';
  return <>{[whose, ...named, rangeText(range)].filter(Boolean).join(' · ')}</>;
}

/** Shows the parts of a number of several days or merchants, each as a link. */
function Parts({
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
            {total === undefined ? <Skeleton width={150} height={26} /> : <Num value={total} kind={kind} />}
          </span>
          <small>the sum of what is below</small>
        </div>
        <span className="operator" aria-hidden="true">
          Σ
        </span>
        <div className="card term">
          <span className="label">Days with usage</span>
          <span className="value num">
            {used ? format(String(used.length), 'count') : <Skeleton width={40} height={26} />}
          </span>
          <small>of {format(String(countDays(range)), 'count')}</small>
        </div>
        {merchantId === undefined && (
          <div className="card term">
            <span className="label">Merchants</span>
            <span className="value num">
              {byMerchant.data ? format(String(byMerchant.data.total), 'count') : <Skeleton width={40} height={26} />}
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
                  <div className="table-scroll table-tall" {...SCROLLS}>
                    <table className="table">
                      <thead>
                        <tr>
                          <th scope="col">Day</th>
                          <th scope="col" className="right">
                            {labelOfMetric(metric)}
                          </th>
                          <th scope="col" className="right">
                            Share
                          </th>
                        </tr>
                      </thead>
                      <tbody>
                        {used!
                          .slice()
                          .reverse()
                          .map(({ date, value }) => (
                            <tr key={date}>
                              <th scope="row">{dayText(date, { weekday: true })}</th>
                              <td className="right">
                                <Explained
                                  value={value}
                                  kind={kind}
                                  metric={metric}
                                  range={{ startDate: date, endDate: date }}
                                  filters={filters}
                                  pad={pad}
                                />
                              </td>
                              <td className="right num">{format(percentage(value, total!) ?? '0', 'percent')}</td>
                            </tr>
                          ))}
                      </tbody>
                    </table>
                  </div>
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
                  <div className="table-scroll" {...SCROLLS}>
                    <table className="table">
                      <thead>
                        <tr>
                          <th scope="col">Merchant</th>
                          <th scope="col" className="right">
                            {labelOfMetric(metric)}
                          </th>
                        </tr>
                      </thead>
                      <tbody>
                        {found.map((row) => (
                          <tr key={row.key}>
                            <th scope="row" title={row.key}>
                              {row.label}
                            </th>
                            <td className="right">
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
                            </td>
                          </tr>
                        ))}
                      </tbody>
                      <tfoot>
                        <tr>
                          <th scope="row">{count > found.length ? `All ${format(String(count), 'count')}` : 'All'}</th>
                          <td className="right">
                            <Num
                              value={totals[measure.id]}
                              kind={kind}
                              pad={padOf(
                                found.map((each) => each[measure.id]),
                                kind,
                              )}
                            />
                          </td>
                        </tr>
                      </tfoot>
                    </table>
                  </div>
                )
              }
            </Answer>
          </Card>
        )}
      </div>
      {merchantId !== undefined && <Reconciliation merchantId={merchantId} range={range} metric={metric} />}
    </>
  );
}

const EVENTS = 50;
/** Events of a page when filters will leave few of them. */
const NARROW_EVENTS = 1_000;

/** Shows the events and adjustments behind a number of one merchant and day. */
function DayOfMerchant({
  merchantId,
  date,
  metric,
  filters,
}: {
  merchantId: string;
  date: string;
  metric: string;
  filters: FilterSearch;
}) {
  const who = useWho();
  const kind = kindOfMetric(metric);
  const measure = measureOfMetric(metric);
  const range = { startDate: date, endDate: date };
  const { merchants: _merchants, ...narrow } = filters;
  const isNarrow = Object.keys(narrow).length > 0;
  const explained = useInfiniteQuery({
    queryKey: ['explain', merchantId, date, metric, isNarrow],
    queryFn: ({ pageParam }) =>
      client.usage.explain.query({
        merchantId,
        date,
        metricType: metric,
        limit: isNarrow ? NARROW_EVENTS : EVENTS,
        ...(pageParam ? { cursor: pageParam } : {}),
      }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const narrowed = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...apiFilters(filters), by: 'merchant', limit: 1 },
      { enabled: isNarrow && measure !== undefined },
    ),
  );
  const [adjusting, setAdjusting] = useState(false);
  const first = explained.data?.pages[0];

  if (explained.error) {
    if (codeOf(explained.error) === 'JOURNAL_DROPPED')
      return <Dropped error={explained.error} metric={metric} kind={kind} />;
    if (!first)
      return (
        <Card>
          <Failure error={explained.error} retry={() => void explained.refetch()} />
        </Card>
      );
  }
  // The newest 100 are listed; the sum of more is not known here.
  const adjusted =
    first && first.adjustmentCount === first.adjustments.length
      ? add(...first.adjustments.map(({ metrics }) => amountOf(metrics, metric)))
      : undefined;
  return (
    <>
      <div className="equation">
        <div className="card term" data-result="">
          <span className="label">
            {labelOfMetric(metric)} of {merchantId}
          </span>
          <span className="value">
            {first ? <Num value={first.value} kind={kind} /> : <Skeleton width={150} height={26} />}
          </span>
          <small>{dayText(date)}, UTC</small>
        </div>
        <span className="operator" aria-hidden="true">
          =
        </span>
        <div className="card term">
          <span className="label">Events</span>
          <span className="value">
            <Part first={first} value={first && adjusted && subtract(first.value, adjusted)} kind={kind} />
          </span>
          <small>
            {first ? `${format(first.entryCount, 'count')} events, ${format(first.callCount, 'count')} calls` : ' '}
          </small>
        </div>
        <span className="operator" aria-hidden="true">
          +
        </span>
        <div className="card term">
          <span className="label">Adjustments</span>
          <span className="value">
            <Part first={first} value={adjusted} kind={kind} />
          </span>
          <small>{first ? countText(first.adjustmentCount, 'adjustment') : ' '}</small>
        </div>
      </div>
      {isNarrow && measure && (
        <Banner tone="info">
          <b>
            <Answer query={narrowed} waiting="…">
              {({ totals }) => <Num value={totals[measure.id]} kind={kind} />}
            </Answer>
          </b>{' '}
          of it is {Object.values(narrow).flat().join(', ')}: the events below are only these.{' '}
          <Link to="/app/explain" search={{ metric, from: date, to: date, merchants: [merchantId] }}>
            Show all events of the day
          </Link>
        </Banner>
      )}
      <Reconciliation merchantId={merchantId} range={range} metric={metric} />
      <div className="columns">
        <Card title="Flushes" note="how the events came to Postgres" flush>
          <Answer query={{ ...explained, data: first }}>
            {({ flushes }) =>
              flushes.length === 0 ? (
                <Empty title="No flush brought any">
                  Nothing of {labelOfMetric(metric).toLowerCase()} was recorded on this day.
                </Empty>
              ) : (
                <div className="table-scroll table-tall" {...SCROLLS}>
                  <table className="table">
                    <thead>
                      <tr>
                        <th scope="col">At</th>
                        <th scope="col">Source</th>
                        <th scope="col" className="right">
                          Events
                        </th>
                        <th scope="col" className="right">
                          {labelOfMetric(metric)}
                        </th>
                      </tr>
                    </thead>
                    <tbody>
                      {flushes.map((flush) => (
                        <tr key={flush.flushId}>
                          <th scope="row">
                            <Moment time={flush.at} />
                          </th>
                          <td>
                            <Chip>{flush.source}</Chip>
                          </td>
                          <td className="right">
                            <Num value={flush.entries} kind="count" />
                          </td>
                          <td className="right">
                            <Num
                              value={flush.value}
                              kind={kind}
                              pad={padOf(
                                flushes.map(({ value }) => value),
                                kind,
                              )}
                            />
                          </td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              )
            }
          </Answer>
        </Card>
        <Card
          title="Adjustments"
          flush
          tools={
            who.may('admin') && metric !== 'total_tokens' ? (
              <Button small onClick={() => setAdjusting(true)}>
                <Plus size={14} aria-hidden="true" />
                Adjust
              </Button>
            ) : undefined
          }
        >
          <Answer query={{ ...explained, data: first }}>
            {({ adjustments }) =>
              adjustments.length === 0 ? (
                <Empty icon={Scale} title="Never corrected">
                  The number is the sum of its events. Corrections are added beside them, with who, when and why; events
                  are never edited.
                </Empty>
              ) : (
                <div className="table-scroll" {...SCROLLS}>
                  <table className="table">
                    <thead>
                      <tr>
                        <th scope="col">When</th>
                        <th scope="col">By</th>
                        <th scope="col">Why</th>
                        <th scope="col" className="right">
                          Amount
                        </th>
                      </tr>
                    </thead>
                    <tbody>
                      {adjustments.map((adjustment) => (
                        <tr key={adjustment.id}>
                          <th scope="row">
                            <Moment time={adjustment.createdAt} />
                          </th>
                          <td>{adjustment.actor}</td>
                          <td className="wrap">{adjustment.reason}</td>
                          <td className="right">
                            <Num value={amountOf(adjustment.metrics, metric)} kind={kind} />
                          </td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              )
            }
          </Answer>
        </Card>
      </div>
      <Events query={explained} metric={metric} kind={kind} narrow={narrow} />
      <Adjust
        open={adjusting}
        onClose={() => setAdjusting(false)}
        merchantId={merchantId}
        date={date}
        metric={metric}
        filters={narrow}
      />
    </>
  );
}

/** Shows a part of the equation; "many" if its adjustments are too many to add up here. */
function Part({ first, value, kind }: { first: object | undefined; value: string | undefined; kind: Kind }) {
  if (!first) return <Skeleton width={90} height={26} />;
  return value === undefined ? <>many</> : <Num value={value} kind={kind} />;
}

const countText = (count: number, name: string) =>
  `${count === 0 ? 'no' : format(String(count), 'count')} ${name}${count === 1 ? '' : 's'}`;

/** Returns the amount that an event or an adjustment adds to a metric. */
function amountOf(metrics: Record<string, string>, metric: string): string {
  if (metric === 'total_tokens') return add(metrics.prompt_tokens ?? '0', metrics.completion_tokens ?? '0');
  return metrics[metric] ?? '0';
}

function Dropped({ error, metric, kind }: { error: unknown; metric: string; kind: Kind }) {
  const { value } = detailsOf(error);
  return (
    <Card>
      <Empty icon={Scale} title="The events of this day are no longer kept">
        {messageOf(error)}{' '}
        {typeof value === 'string' && `${labelOfMetric(metric)} of this day is ${format(value, kind)}.`}
      </Empty>
    </Card>
  );
}

type Event = {
  id: string;
  time: string;
  metrics: Record<string, string>;
  userId: string | null;
  apiKey: string | null;
  model: string | null;
  provider: string | null;
  status: string;
  count: string;
  properties: Record<string, string | number | boolean>;
};

/** Returns whether an event has one of the chosen values in every chosen dimension. */
function isOf(event: Event, narrow: FilterSearch): boolean {
  const has = (chosen: string[] | undefined, value: string | null) => !chosen || chosen.includes(value ?? 'unknown');
  return (
    has(narrow.users, event.userId) &&
    has(narrow.keys, event.apiKey) &&
    has(narrow.models, event.model) &&
    has(narrow.providers, event.provider)
  );
}

function Events({
  query,
  metric,
  kind,
  narrow,
}: {
  query: {
    data: { pages: { entries: Event[]; entryCount: string }[] } | undefined;
    error: unknown;
    refetch: () => unknown;
    hasNextPage: boolean;
    isFetchingNextPage: boolean;
    fetchNextPage: () => unknown;
  };
  metric: string;
  kind: Kind;
  narrow: FilterSearch;
}) {
  const [search, setSearch] = useState('');
  const [open, setOpen] = useState<Event | null>(null);
  const all = query.data?.pages.flatMap(({ entries }) => entries);
  const wanted = search.trim();
  const shown = all?.filter((event) => isOf(event, narrow) && event.id.includes(wanted));
  const pad = padOf(
    (shown ?? []).map((event) => amountOf(event.metrics, metric)),
    kind,
  );
  return (
    <Card
      title="Events"
      note={
        all && `${format(String(shown!.length), 'count')} shown of ${format(query.data!.pages[0]!.entryCount, 'count')}`
      }
      flush
      tools={
        <label className="search-box">
          <Search size={15} aria-hidden="true" />
          <span className="visually-hidden">Search events by id</span>
          <input value={search} placeholder="Search by id" onChange={(event) => setSearch(event.target.value)} />
        </label>
      }
    >
      <Answer query={{ ...query, data: shown }}>
        {(events) => (
          <>
            {events.length === 0 ? (
              <Empty title={wanted ? `No event with “${wanted}” so far` : 'No events here'}>
                {query.hasNextPage
                  ? 'There are more events: load them to look further.'
                  : 'All events of the day were looked at.'}
              </Empty>
            ) : (
              <div className="table-scroll" {...SCROLLS}>
                <table className="table">
                  <thead>
                    <tr>
                      <th scope="col">Time</th>
                      <th scope="col">Event</th>
                      <th scope="col">User</th>
                      <th scope="col">Model</th>
                      <th scope="col">API key</th>
                      <th scope="col">Status</th>
                      <th scope="col" className="right">
                        {labelOfMetric(metric)}
                      </th>
                    </tr>
                  </thead>
                  <tbody>
                    {events.map((event) => (
                      <tr key={event.id}>
                        <th scope="row">
                          <Moment time={event.time} />
                        </th>
                        <td>
                          <button type="button" className="link mono" onClick={() => setOpen(event)}>
                            {event.id}
                          </button>
                        </td>
                        <td>{event.userId ?? '–'}</td>
                        <td>{event.model ?? '–'}</td>
                        <td>{event.apiKey ?? '–'}</td>
                        <td>
                          <Chip tone={event.status === 'failure' ? 'bad' : 'good'}>{event.status}</Chip>
                        </td>
                        <td className="right">
                          <Num value={amountOf(event.metrics, metric)} kind={kind} pad={pad} />
                        </td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )}
            {query.hasNextPage && (
              <div className="pager">
                <span>In the order of their ids.</span>
                <Button small disabled={query.isFetchingNextPage} onClick={() => void query.fetchNextPage()}>
                  {query.isFetchingNextPage ? 'Loading…' : 'Load more'}
                </Button>
              </div>
            )}
          </>
        )}
      </Answer>
      <Dialog
        open={open !== null}
        onClose={() => setOpen(null)}
        wide
        title="Event"
        text={open && <span className="mono">{open.id}</span>}
      >
        {open && (
          <>
            <dl className="facts">
              <dt>Time</dt>
              <dd>
                <Moment time={open.time} />
              </dd>
              {(
                [
                  ['User', open.userId],
                  ['API key', open.apiKey],
                  ['Model', open.model],
                  ['Provider', open.provider],
                  ['Status', open.status],
                  ['Calls', open.count],
                ] as const
              ).map(([name, value]) => (
                <Fact key={name} name={name} value={value ?? 'unknown'} />
              ))}
              {Object.entries(open.metrics).map(([name, value]) => (
                <Fact key={name} name={labelOfMetric(name)} value={format(value, kindOfMetric(name))} />
              ))}
              {Object.entries(open.properties).map(([name, value]) => (
                <Fact key={`property ${name}`} name={name} value={String(value)} />
              ))}
            </dl>
            <div className="dialog-actions">
              <Button kind="primary" onClick={() => setOpen(null)}>
                Close
              </Button>
            </div>
          </>
        )}
      </Dialog>
    </Card>
  );
}

const Fact = ({ name, value }: { name: string; value: string }) => (
  <>
    <dt>{name}</dt>
    <dd className="num">{value}</dd>
  </>
);

const STORED = [
  ['journal', 'Journal'],
  ['daily', 'Daily rollup'],
  ['usage', 'Merchant usage'],
  ['live', 'Redis total'],
  ['dailyModels', 'Daily by model'],
  ['quarterHours', 'Quarter hours'],
  ['monthly', 'Monthly rollup'],
  ['yearly', 'Yearly rollup'],
] as const;

/** The longest range that is compared without being asked to. */
const AUTOMATIC_DAYS = 1;

/** Shows whether all stored forms of a number agree. */
function Reconciliation({ merchantId, range, metric }: { merchantId: string; range: Range; metric: string }) {
  const who = useWho();
  const [asked, setAsked] = useState(countDays(range) <= AUTOMATIC_DAYS);
  const query = useQuery(
    api.reconcile.check.queryOptions(
      { ...range, merchantIds: [merchantId] },
      { enabled: asked && who.may('admin'), staleTime: 60_000 },
    ),
  );
  if (!who.may('admin')) return null;
  if (!asked)
    return (
      <Card
        title="Reconciliation"
        tools={
          <Button small onClick={() => setAsked(true)}>
            <Scale size={14} aria-hidden="true" />
            Compare all stored forms
          </Button>
        }
      >
        <p className="muted">Compares the journal, every rollup and the Redis totals of {merchantId} for these days.</p>
      </Card>
    );
  const types = metric === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [metric];
  const drift = query.data?.drift.filter((row) => types.includes(row.metricType));
  if (query.data && drift!.length === 0)
    return (
      <div className="banner" data-tone="good" role="status">
        <CircleCheck size={16} aria-hidden="true" />
        <div>
          <b>All stored forms agree.</b> The journal, every rollup and the Redis total hold the same number
          {query.data.drift.length > 0 && '; other metrics of this merchant differ, see Health'}.
        </div>
      </div>
    );
  return (
    <Card title="Reconciliation" note="what every stored form says" flush>
      <Answer
        query={{ ...query, data: drift }}
        waiting={
          <div className="card-body">
            <Skeleton height={20} width="60%" />
          </div>
        }
      >
        {(rows) => (
          <div className="table-scroll" {...SCROLLS}>
            <table className="table">
              <thead>
                <tr>
                  <th scope="col">Day</th>
                  {STORED.map(([id, name]) => (
                    <th key={id} scope="col" className="right">
                      {name}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {rows.map((row) => (
                  <tr key={`${row.date} ${row.metricType}`}>
                    <th scope="row">{dayText(row.date)}</th>
                    {STORED.map(([id]) => (
                      <td key={id} className="right">
                        {row[id] === null ? '–' : <Num value={row[id]} kind={kindOfMetric(metric)} />}
                      </td>
                    ))}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Answer>
    </Card>
  );
}

/** Adds an adjustment, once: its id is created with the form, so a retry repeats it. */
function Adjust({
  open,
  onClose,
  merchantId,
  date,
  metric,
  filters,
}: {
  open: boolean;
  onClose: () => void;
  merchantId: string;
  date: string;
  metric: string;
  filters: FilterSearch;
}) {
  const [id] = useState(() => `console-${crypto.randomUUID()}`);
  const [amount, setAmount] = useState('');
  const [reason, setReason] = useState('');
  const single = (values: string[] | undefined) =>
    values?.length === 1 && values[0] !== 'unknown' ? values[0] : undefined;
  const dimensions = Object.fromEntries(
    [
      ['userId', single(filters.users)],
      ['apiKey', single(filters.keys)],
      ['model', single(filters.models)],
      ['provider', single(filters.providers)],
    ].filter(([, value]) => value !== undefined),
  );
  const save = useMutation({
    mutationFn: () =>
      client.usage.adjust.mutate({
        id,
        merchantId,
        date,
        metrics: { [metric]: amount.trim() },
        dimensions,
        reason: reason.trim(),
      }),
    onSuccess: async () => {
      tell('Adjusted', `${labelOfMetric(metric)} of ${merchantId} on ${dayText(date)}`);
      setAmount('');
      setReason('');
      onClose();
      await queryClient.invalidateQueries();
    },
  });
  const about = Object.values(dimensions).join(', ');
  return (
    <Dialog
      open={open}
      onClose={onClose}
      title={`Adjust ${labelOfMetric(metric).toLowerCase()}`}
      text={`Adds to the number of ${merchantId} on ${dayText(date)}${about && ` for ${about}`}. It stays visible beside the events, with your name, and cannot be edited.`}
    >
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          save.mutate();
        }}
      >
        <div className="field">
          <label htmlFor="amount">Amount</label>
          <input
            id="amount"
            className="input num"
            required
            inputMode="decimal"
            pattern="-?[0-9]+([.][0-9]{1,9})?"
            placeholder={metric === 'cost' ? '-0.10' : '-100'}
            value={amount}
            onChange={(event) => setAmount(event.target.value)}
          />
          <small>
            {metric === 'cost' ? 'US dollars with at most 9 decimals' : 'A whole number'}; with a minus it is taken
            away.
          </small>
        </div>
        <div className="field">
          <label htmlFor="reason">Reason</label>
          <textarea
            id="reason"
            className="input"
            required
            maxLength={1000}
            placeholder="Credit note 17"
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </div>
        {save.error && <Banner tone="bad">{messageOf(save.error)}</Banner>}
        <div className="dialog-actions">
          <Button type="button" onClick={onClose}>
            Cancel
          </Button>
          <Button kind="primary" type="submit" disabled={save.isPending}>
            {save.isPending ? 'Saving…' : 'Adjust'}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
