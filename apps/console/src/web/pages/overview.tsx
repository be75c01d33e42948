import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { ChevronLeft, ChevronRight, ReceiptText, Users } from 'lucide-react';
import { api } from '../api.ts';
import { forecast } from '../forecast.ts';
import { type DimensionId, dimensionOf, type FilterSearch, type MeasureId, measureOf } from '../measures.ts';
import { approximate, format, type Kind, percentage, rateText, roundUpToCents, scale, write } from '../quantity.ts';
import type { OverviewSearch } from '../search.ts';
import { useWho } from '../session.tsx';
import {
  addDays,
  addMonths,
  countDays,
  daysOfMonth,
  dayText,
  monthOf,
  monthText,
  type Range,
  rangeText,
  startOf,
  today,
} from '../time.ts';
import { ChartWithTable, type Series } from '../ui/chart.tsx';
import { Coverage, CoverageBanner } from '../ui/coverage.tsx';
import { Explained } from '../ui/explained.tsx';
import { isCut } from '../ui/filters.tsx';
import { Answer, Button, Card, Code, Delta, Empty, PageHead, Skeleton } from '../ui/parts.tsx';
import { FilterChip, findNames } from '../ui/picker.tsx';
import { CopyButton, Segments } from '../ui/popups.tsx';

/** Returns the days of a month until today, and the same days of the previous month. */
function rangesOf(month: string): { current: Range; previous: Range; whole: Range; running: boolean } {
  const whole = daysOfMonth(month);
  const running = month === monthOf(today());
  const current = { startDate: whole.startDate, endDate: running ? today() : whole.endDate };
  const last = daysOfMonth(addMonths(month, -1));
  const same = addDays(last.startDate, countDays(current) - 1);
  const previous = { startDate: last.startDate, endDate: running && same < last.endDate ? same : last.endDate };
  return { current, previous, whole, running };
}

const CHARTED = ['cost', 'requests', 'totalTokens'] as const;
const TOP = 5;
/** How often an empty month is read again. */
const FIRST_MS = 5_000;

/** Compares a month with the same days of the previous month, and shows the largest shares of usage. */
export function Overview() {
  const search = useSearch({ from: '/frame/app/overview' });
  const navigate = useNavigate({ from: '/app/overview' });
  const who = useWho();
  const month = search.month ?? monthOf(today());
  const measure = search.measure ?? 'cost';
  const { current, previous, whole, running } = rangesOf(month);
  const filters: FilterSearch = search.merchants ? { merchants: search.merchants } : {};
  const scope = search.merchants ? { merchantIds: search.merchants } : {};
  const scoped = who.merchantId !== null || search.merchants?.length === 1;
  const summary = useQuery(
    api.analytics.summary.queryOptions(
      { ...current, ...scope },
      // Who has just sent the first event waits for it here.
      { refetchInterval: ({ state }) => running && state.data?.byDay.length === 0 && FIRST_MS },
    ),
  );
  const before = useQuery(api.analytics.summary.queryOptions({ ...previous, ...scope }));
  const isEmpty = summary.data?.byDay.length === 0;
  const isNew = isEmpty && running && !search.merchants && before.data?.byDay.length === 0;
  const options = useQuery(
    api.analytics.filterOptions.queryOptions(current, { enabled: who.merchantId === null, staleTime: 300_000 }),
  );
  const change = (next: Partial<OverviewSearch>) =>
    void navigate({ search: (known) => ({ ...known, ...next }), replace: true });

  return (
    <div className="stack">
      <PageHead
        title="Overview"
        note={
          <>
            <Coverage coverage={summary.data?.coverage} />{' '}
            <span className="muted">· compared with {rangeText(previous)}</span>
          </>
        }
      >
        {who.merchantId === null && (
          <FilterChip
            label="Merchant"
            options={(options.data?.merchants ?? []).map(({ id, label }) => ({ value: id, label }))}
            values={search.merchants ?? []}
            beyond={isCut(options.data, 'merchants') ? findNames('merchant') : undefined}
            waiting={options.isLoading}
            onChange={(merchants) =>
              change({ merchants: merchants.length > 0 ? merchants : undefined } as OverviewSearch)
            }
          />
        )}
        <span className="month-nav">
          <Button
            kind="plain"
            icon
            aria-label="The month before"
            onClick={() => change({ month: addMonths(month, -1) })}
          >
            <ChevronLeft size={17} aria-hidden="true" />
          </Button>
          <b aria-live="polite">{monthText(month)}</b>
          <Button
            kind="plain"
            icon
            aria-label="The month after"
            disabled={running}
            onClick={() => change({ month: addMonths(month, 1) })}
          >
            <ChevronRight size={17} aria-hidden="true" />
          </Button>
        </span>
      </PageHead>

      <CoverageBanner coverage={summary.data?.coverage} />

      <Answer query={summary} waiting={<StatsWaiting />}>
        {({ totals, activeUsers, byDay }) => {
          const then = before.data?.totals;
          const label = `against ${rangeText(previous)}`;
          const stat = (id: MeasureId, name: string, rising: 'neutral' | 'bad' | 'good', note?: React.ReactNode) => (
            <Stat
              key={id}
              label={name}
              note={note}
              chars={widthOf(totals[id], measureOf(id).kind)}
              delta={then && <Delta current={totals[id]} previous={then[id]} rising={rising} label={label} />}
            >
              <Explained
                value={totals[id]}
                kind={measureOf(id).kind}
                metric={measureOf(id).metric}
                range={current}
                filters={filters}
              />
            </Stat>
          );
          return (
            <section className="stats" aria-label={`Totals of ${rangeText(current)}`}>
              {stat('cost', 'Spend', 'neutral', running && <ForecastNote spent={totals.cost} byDay={byDay} />)}
              {stat(
                'requests',
                'Requests',
                'neutral',
                <span title="The mean of the days shown, rounded down">
                  {format(perDay(totals.requests, countDays(current)), 'count')} a day
                </span>,
              )}
              {stat(
                'totalTokens',
                'Tokens',
                'neutral',
                <TokenParts input={totals.promptTokens} total={totals.totalTokens} />,
              )}
              {stat(
                'failedRequests',
                'Failed requests',
                'bad',
                totals.successRate !== null && <span>{rateText(totals.successRate)} succeeded</span>,
              )}
              <Stat
                label="Active users"
                note={
                  <span title="Users with at least one request. The same id in two merchants is two users; usage without a user is none.">
                    {scoped ? 'with a request' : 'with a request, by merchant'}
                  </span>
                }
                delta={
                  before.data && (
                    <Delta
                      current={String(activeUsers)}
                      previous={String(before.data.activeUsers)}
                      rising="neutral"
                      label={label}
                    />
                  )
                }
              >
                <Link
                  className="num"
                  to="/app/explorer"
                  search={{ by: 'user', from: current.startDate, to: current.endDate, ...filters }}
                >
                  {format(String(activeUsers), 'count')}
                </Link>
              </Stat>
            </section>
          );
        }}
      </Answer>

      <Card
        title={`${measureOf(measure).label} by day`}
        tools={
          <Segments
            label="Measure"
            value={measure as (typeof CHARTED)[number]}
            options={CHARTED.map((id) => ({ value: id, label: measureOf(id).label }))}
            onChange={(next) => change({ measure: next })}
          />
        }
      >
        <Answer query={summary} waiting={<Skeleton height={292} />}>
          {({ byDay }) =>
            byDay.length === 0 ? (
              <Empty icon={ReceiptText} title={`No usage in ${monthText(month)}`}>
                Nothing was recorded on these days{search.merchants ? ' for the chosen merchants' : ''}.{' '}
                {running && 'Usage shows up here seconds after it is recorded.'}
              </Empty>
            ) : (
              <DailyChart
                measure={measure}
                whole={whole}
                current={current}
                byDay={byDay}
                before={before.data?.byDay ?? []}
                previous={previous}
                onPick={(day) =>
                  void navigate({
                    to: '/app/explain',
                    search: { metric: measureOf(measure).metric, from: day, to: day, ...filters },
                  })
                }
              />
            )
          }
        </Answer>
      </Card>

      {isNew && who.mayPlatform('admin') && <FirstSteps />}

      {!isEmpty && (
        <div className="tops">
          {(['user', 'team', 'model', 'merchant', 'apiKey', 'provider'] as const)
            .filter((by) => by !== 'merchant' || who.merchantId === null)
            .map((by) => (
              <TopList key={by} by={by} range={current} filters={filters} scope={scope} measure={measure} />
            ))}
        </div>
      )}
    </div>
  );
}

/** The share of a digit that a small decimal takes. */
const TAIL = 0.56;

/** Returns how many digits wide a quantity is. */
function widthOf(value: string, kind: Kind): number {
  const { sign, whole, decimals, tail } = write(value, kind);
  return sign.length + whole.length + decimals.length + tail.length * TAIL;
}

const Stat = ({
  label,
  delta,
  note,
  chars = 1,
  children,
}: {
  label: string;
  delta: React.ReactNode;
  note?: React.ReactNode;
  /** The width of the value in digits; long ones are written smaller. */
  chars?: number;
  children: React.ReactNode;
}) => (
  <div className="card stat">
    <span className="stat-label">
      {label} {delta}
    </span>
    <span className="stat-value" style={{ '--chars': chars } as React.CSSProperties}>
      {children}
    </span>
    <span className="stat-note">{note}</span>
  </div>
);

const StatsWaiting = () => (
  <div className="stats" role="status" aria-label="Loading">
    {[0, 1, 2, 3, 4].map((index) => (
      <div className="card stat" key={index}>
        <Skeleton width={80} />
        <Skeleton width={150} height={30} />
        <Skeleton width={110} height={12} />
      </div>
    ))}
  </div>
);

/** Returns the mean of some days, as a whole number. */
const perDay = (quantity: string, days: number): string => scale(quantity, 1, days).split('.')[0]!;

/** Shows the estimate of the current month, if there is one. */
function ForecastNote({ spent, byDay }: { spent: string; byDay: readonly { date: string; cost: string }[] }) {
  const found = forecast({ spent, byDay, today: today() });
  if (!found) return null;
  const { estimate, closedDays, daysLeft } = found;
  return (
    <span
      title={`An estimate: the spend so far, plus the daily mean before today (days: ${closedDays}) for each day left (${daysLeft}).`}
    >
      about {format(estimate, 'money')} by {dayText(daysOfMonth(monthOf(today())).endDate, { year: false })}
    </span>
  );
}

function TokenParts({ input, total }: { input: string; total: string }) {
  const share = percentage(input, total);
  return share === null ? null : <span>{share}% input</span>;
}

function DailyChart({
  measure,
  whole,
  current,
  previous,
  byDay,
  before,
  onPick,
}: {
  measure: MeasureId;
  whole: Range;
  current: Range;
  previous: Range;
  byDay: readonly ({ date: string } & Record<MeasureId, string>)[];
  before: readonly ({ date: string } & Record<MeasureId, string>)[];
  onPick: (day: string) => void;
}) {
  const days = Array.from({ length: countDays(whole) }, (_, index) => addDays(whole.startDate, index));
  const running = current.endDate < whole.endDate;
  const estimate = measure === 'cost' && running ? forecast({ spent: '0', byDay, today: current.endDate }) : null;
  const now = new Map(byDay.map((day) => [day.date, day[measure]]));
  const then = new Map(before.map((day) => [day.date, day[measure]]));
  const series: Series[] = [
    {
      label: monthText(monthOf(whole.startDate)),
      color: 1,
      values: days.map((day) => (day > current.endDate ? null : (now.get(day) ?? '0'))),
    },
  ];
  if (estimate) {
    const perDay = roundUpToCents(scale(estimate.estimate, 1, estimate.daysLeft));
    series.push({
      label: 'Estimate',
      color: 11,
      values: days.map((day) => (day > current.endDate ? perDay : null)),
    });
  }
  if (before.length > 0)
    series.push({
      label: rangeText(previous),
      color: 0,
      values: days.map((_, index) => {
        const day = addDays(previous.startDate, index);
        return day > previous.endDate ? null : (then.get(day) ?? '0');
      }),
    });
  return (
    <ChartWithTable
      label={`${measureOf(measure).label} by day, ${rangeText(current)}`}
      times={days.map((day) => startOf(day) / 1000)}
      names={days.map((day) => dayText(day, { weekday: true }))}
      series={series}
      kind={measureOf(measure).kind as Kind}
      mode="bars"
      onPick={(index) => days[index]! <= current.endDate && onPick(days[index]!)}
    />
  );
}

function TopList({
  by,
  range,
  filters,
  scope,
  measure,
}: {
  by: DimensionId;
  range: Range;
  filters: FilterSearch;
  scope: { merchantIds?: string[] };
  measure: MeasureId;
}) {
  const { name, plural, filter } = dimensionOf(by);
  const { kind, metric } = measureOf(measure);
  const query = useQuery(api.analytics.breakdown.queryOptions({ ...range, ...scope, by, sortBy: measure, limit: TOP }));
  const link = { by, measure, from: range.startDate, to: range.endDate, ...filters } as const;
  return (
    <Card
      title={`Top ${plural}`}
      flush
      tools={
        <Link
          to="/app/explorer"
          search={link}
          className="button"
          data-kind="plain"
          data-small=""
          title={by === 'user' ? 'Ids with usage, over all merchants; usage without a user is one of them.' : undefined}
        >
          {query.data && query.data.total > TOP
            ? `All ${format(String(query.data.total), 'count')}${by === 'user' ? ' ids' : ''}`
            : 'Explore'}
          <ChevronRight size={14} aria-hidden="true" />
        </Link>
      }
    >
      <Answer query={query}>
        {({ rows, totals }) =>
          rows.length === 0 ? (
            <Empty title={`No usage by ${name}`}>Nothing was recorded in {rangeText(range)}.</Empty>
          ) : by === 'team' && rows.every(({ key }) => key === 'unknown') ? (
            <Empty icon={Users} title="No teams yet">
              Usage is summed by the teams that users and API keys have in the{' '}
              <Link to="/app/directory">directory</Link>, also of the past.
            </Empty>
          ) : (
            <ol className="top-list">
              {rows.map((row) => {
                const share = percentage(row[measure], totals[measure]);
                const width = Math.min(100, Math.max(0, approximate(share ?? '0')));
                return (
                  <li key={row.key}>
                    <Link
                      className="top-name"
                      title={row.key}
                      to="/app/explorer"
                      search={{ ...link, by: 'time', [filter]: [row.key] }}
                    >
                      {row.label}
                    </Link>
                    <Explained
                      value={row[measure]}
                      kind={kind}
                      metric={metric}
                      range={range}
                      filters={{ ...filters, [filter]: [row.key] }}
                    />
                    <span className="meter">
                      <svg aria-hidden="true" preserveAspectRatio="none">
                        <rect width="100%" height="4" rx="2" fill="var(--sunken)" />
                        <rect width={`${width}%`} height="4" rx="2" fill="var(--accent)" />
                      </svg>
                      <span>{share === null ? '–' : format(share, 'percent')}</span>
                    </span>
                  </li>
                );
              })}
            </ol>
          )
        }
      </Answer>
    </Card>
  );
}

/** Says how the first number comes to this page. */
function FirstSteps() {
  const call = [
    `curl -s ${location.origin}/trpc/usage.record \\`,
    `  -H "authorization: Bearer $TALLY_KEY" -H 'content-type: application/json' \\`,
    `  -d '{"entries":[{"id":"first","merchantId":"example-co","userId":"ada","model":"gpt-4o",`,
    `    "metrics":{"prompt_tokens":"374","completion_tokens":"44","cost":"0.0023"}}]}'`,
  ].join('\n');
  return (
    <Card title="Record the first usage" tools={<CopyButton text={call} />}>
      <ol className="steps">
        <li>
          <Link className="link" to="/app/keys">
            Make an API key
          </Link>{' '}
          with the role producer for the program that sends usage, and keep its secret as <code>TALLY_KEY</code>.
        </li>
        <li>
          Send an event: one call of your API, or of a model, by a customer.
          <Code>{call}</Code>
        </li>
        <li>
          Stay here, or watch it arrive on the{' '}
          <Link className="link" to="/app/live">
            live page
          </Link>
          .{' '}
          <Link to="/docs" className="link">
            The API page
          </Link>{' '}
          describes every field. To look around first, <code>npm run demo</code> records 90 days of three merchants.
        </li>
      </ol>
    </Card>
  );
}
