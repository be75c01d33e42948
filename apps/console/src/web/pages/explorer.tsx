import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { ArrowDown, ArrowUp, Braces, Download, FileSpreadsheet, FileText, Terminal } from 'lucide-react';
import { useMemo, useState } from 'react';
import { api } from '../api.ts';
import { curlOf, exportLink, type Question, typescriptOf } from '../copy.ts';
import {
  apiFilters,
  DIMENSIONS,
  type DimensionId,
  dimensionOf,
  type FilterSearch,
  MEASURES,
  type MeasureId,
  measureOf,
  readFilters,
} from '../measures.ts';
import { add, format, percentage, subtract } from '../quantity.ts';
import { type ExplorerSearch, INTERVALS, type Interval } from '../router.tsx';
import { useWho } from '../session.tsx';
import { addDays, before, countDays, PRESETS, periodText, type Range, rangeText, viewerZone } from '../time.ts';
import { Chart, type Series, Swatch } from '../ui/chart.tsx';
import { Coverage } from '../ui/coverage.tsx';
import { Explained } from '../ui/explained.tsx';
import { Filters } from '../ui/filters.tsx';
import { Answer, Button, Card, Delta, Empty, Num, PageHead, padOf, SCROLLS, Skeleton } from '../ui/parts.tsx';
import { CopyButton, Dialog, Menu, Segments, Select } from '../ui/popups.tsx';
import { RangePicker } from '../ui/range.tsx';
import { Table } from '../ui/table.tsx';

const PAGE = 50;
/** The palette has ten colours; the last is for all others. */
const CHARTED = 9;
const OTHERS = 10;

/** Returns an interval that gives a chart 50 to 400 points, where it can. */
const usualInterval = (range: Range): Interval => {
  const days = countDays(range);
  return days <= 3 ? 'hour' : days <= 400 ? 'day' : 'month';
};

const INTERVAL_NAMES: Record<Interval, string> = {
  '15m': '15 minutes',
  hour: 'Hour',
  day: 'Day',
  week: 'Week',
  month: 'Month',
};

/** Shows any measure by any dimension, as a chart and a table. */
export function Explorer() {
  const search = useSearch({ from: '/frame/app/explorer' });
  const navigate = useNavigate({ from: '/app/explorer' });
  const who = useWho();
  const usual = PRESETS.find(({ id }) => id === '30d')!.range();
  const range: Range = {
    startDate: search.from ?? usual.startDate,
    endDate: search.to && search.to >= (search.from ?? usual.startDate) ? search.to : usual.endDate,
  };
  const measure = search.measure ?? 'cost';
  const wanted = search.by ?? 'model';
  const by = wanted === 'merchant' && who.merchantId !== null ? 'model' : wanted;
  const interval = search.interval ?? usualInterval(range);
  const timeZone = search.tz ?? 'UTC';
  const filters = readFilters(search);
  const change = (next: Partial<ExplorerSearch>) =>
    void navigate({
      search: (known) => clean({ ...known, cursor: undefined, ...next }),
      replace: next.cursor === undefined,
    });
  const changeFilters = (next: FilterSearch) =>
    void navigate({
      search: ({ merchants: _m, users: _u, keys: _k, models: _o, providers: _p, cursor: _c, ...known }) => ({
        ...known,
        ...next,
      }),
    });

  const sort = search.sort ?? measure;
  const order = search.order ?? (sort === 'key' ? 'asc' : 'desc');
  const question: Question = {
    ...range,
    ...apiFilters(filters),
    ...(by === 'time' ? {} : { by, sortBy: sort, order }),
  };
  const zones = [...new Set(['UTC', viewerZone(), timeZone])].map((zone) => ({ value: zone, label: zone }));

  return (
    <div className="stack">
      <PageHead title="Explorer" note={rangeText(range)}>
        <RangePicker range={range} onChange={({ startDate, endDate }) => change({ from: startDate, to: endDate })} />
        <ExportMenu question={question} measure={measure} interval={interval} timeZone={timeZone} />
      </PageHead>

      <div className="tools">
        <Select
          label="Measure"
          value={measure}
          options={MEASURES.map(({ id, label }) => ({ value: id, label }))}
          onChange={(next) => change({ measure: next, sort: undefined, order: undefined } as Partial<ExplorerSearch>)}
        />
        <Select
          label="Group by"
          prefix="by"
          value={by}
          options={[
            { value: 'time', label: 'time only' },
            ...DIMENSIONS.filter(({ id }) => id !== 'merchant' || who.merchantId === null).map(({ id, label }) => ({
              value: id as DimensionId,
              label: label === 'API key' ? label : label.toLowerCase(),
            })),
          ]}
          onChange={(next) => change({ by: next, sort: undefined, order: undefined } as Partial<ExplorerSearch>)}
        />
        <Select
          label="Interval"
          prefix="every"
          value={interval}
          options={INTERVALS.map((value) => ({ value, label: INTERVAL_NAMES[value].toLowerCase() }))}
          onChange={(next) => change({ interval: next })}
        />
        <Select label="Time zone" value={timeZone} options={zones} onChange={(tz) => change({ tz })} />
        <Segments
          label="Chart"
          value={search.chart ?? 'bars'}
          options={[
            { value: 'bars', label: 'Bars' },
            { value: 'lines', label: 'Lines' },
          ]}
          onChange={(chart) => change({ chart })}
        />
        <Segments
          label="Compare"
          value={search.compare ?? 'none'}
          options={[
            { value: 'none', label: 'No comparison' },
            { value: 'previous', label: 'Period before' },
          ]}
          onChange={(next) => change({ compare: next === 'none' ? undefined : next } as Partial<ExplorerSearch>)}
        />
      </div>
      <Filters range={range} filters={filters} onChange={changeFilters} />

      {by === 'time' ? (
        <ByTime
          {...{ range, measure, interval, timeZone, filters }}
          chart={search.chart ?? 'bars'}
          compare={search.compare === 'previous'}
        />
      ) : (
        <ByDimension
          {...{ range, measure, interval, timeZone, filters, by, sort, order }}
          chart={search.chart ?? 'bars'}
          compare={search.compare === 'previous'}
          cursor={search.cursor}
          change={change}
        />
      )}
    </div>
  );
}

const clean = <T extends object>(search: T): T =>
  Object.fromEntries(Object.entries(search).filter(([, value]) => value !== undefined)) as T;

type Shown = {
  range: Range;
  measure: MeasureId;
  interval: Interval;
  timeZone: string;
  filters: FilterSearch;
  chart: 'bars' | 'lines';
  compare: boolean;
};

const NOTHING_FOUND = (filters: FilterSearch) =>
  Object.keys(filters).length > 0
    ? 'Nothing matches all filters in this range. Remove a filter, or choose other days.'
    : 'Nothing was recorded on these days. Choose others, or record some usage.';

function ByTime({ range, measure, interval, timeZone, filters, chart, compare }: Shown) {
  const { kind, label } = measureOf(measure);
  const ask = { ...apiFilters(filters), interval, timeZone };
  const query = useQuery(api.analytics.timeseries.queryOptions({ ...range, ...ask }));
  const past = before(range);
  const earlier = useQuery(api.analytics.timeseries.queryOptions({ ...past, ...ask }, { enabled: compare }));
  const points = query.data?.points;
  const times = useMemo(() => (points ?? []).map(({ start }) => Date.parse(start) / 1000), [points]);
  const series = useMemo<Series[]>(() => {
    const own: Series = { label, color: 1, values: (points ?? []).map((point) => point[measure]) };
    if (!compare || !earlier.data) return [own];
    const values = own.values.map((_, index) => earlier.data.points[index]?.[measure] ?? null);
    return [own, { label: rangeText(past), color: 0, values }];
  }, [points, earlier.data, compare, measure, label, past]);
  return (
    <>
      <Card
        title={`${label} by ${INTERVAL_NAMES[interval].toLowerCase()}`}
        tools={<Coverage coverage={query.data?.coverage} />}
      >
        <Answer query={query} waiting={<Skeleton height={300} />}>
          {(answer) => (
            <Chart
              label={`${label} by ${INTERVAL_NAMES[interval].toLowerCase()}, ${rangeText(range)}`}
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
      <Card title={`Every ${INTERVAL_NAMES[interval].toLowerCase()}`} flush>
        <Answer query={query}>
          {(answer) => {
            const used = answer.points.filter(({ requests, totalTokens, cost }) =>
              [requests, totalTokens, cost].some((value) => value !== '0'),
            );
            if (used.length === 0) return <Empty title="No usage here">{NOTHING_FOUND(filters)}</Empty>;
            const pad = padOf(
              used.map(({ cost }) => cost),
              'money',
            );
            const isWholeDays = timeZone === 'UTC' && interval !== 'hour' && interval !== '15m';
            return (
              <Table
                label="Usage over time"
                rows={[...used].reverse().slice(0, 400)}
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
                    cell: ({ successRate }) => (
                      <span className="num">{successRate === null ? '–' : `${successRate}%`}</span>
                    ),
                  },
                ]}
              />
            );
          }}
        </Answer>
      </Card>
    </>
  );
}

function ByDimension({
  range,
  measure,
  interval,
  timeZone,
  filters,
  chart,
  compare,
  by,
  sort,
  order,
  cursor,
  change,
}: Shown & {
  by: DimensionId;
  sort: MeasureId | 'key';
  order: 'asc' | 'desc';
  cursor: string | undefined;
  change: (next: Partial<ExplorerSearch>) => void;
}) {
  const { kind, label } = measureOf(measure);
  const dimension = dimensionOf(by);
  const named = apiFilters(filters);
  const query = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...named, by, sortBy: sort, order, limit: PAGE, ...(cursor ? { cursor } : {}) },
      { placeholderData: (known) => known },
    ),
  );
  const rows = query.data?.rows;
  const charted = useMemo(() => (rows ?? []).slice(0, CHARTED), [rows]);
  const color = new Map(charted.map((row, index) => [row.key, index + 1]));
  const totals = useQuery(api.analytics.timeseries.queryOptions({ ...range, ...named, interval, timeZone }));
  const grouped = useQuery(
    api.analytics.timeseries.queryOptions(
      { ...range, ...named, [dimension.api]: charted.map(({ key }) => key), interval, timeZone, groupBy: by },
      { enabled: charted.length > 0, placeholderData: (known) => known },
    ),
  );
  const past = before(range);
  const earlier = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...past, ...named, [dimension.api]: (rows ?? []).map(({ key }) => key), by, limit: 200 },
      { enabled: compare && (rows ?? []).length > 0 },
    ),
  );
  const then = new Map(earlier.data?.rows.map((row) => [row.key, row]) ?? []);

  const points = totals.data?.points;
  const groups = grouped.data?.points;
  const times = useMemo(() => (points ?? []).map(({ start }) => Date.parse(start) / 1000), [points]);
  const series = useMemo<Series[]>(() => {
    if (!points || !groups || groups.length !== points.length) return [];
    const found = groups.map((point) => new Map(point.groups?.map((group) => [group.key, group[measure]])));
    const own = charted.map(
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
  }, [points, groups, charted, measure]);

  const drawn = {
    data: series.length > 0 || rows?.length === 0 ? points : undefined,
    error: totals.error ?? grouped.error,
    refetch: () => Promise.all([totals.refetch(), grouped.refetch()]),
  };

  const sortBy = (next: MeasureId | 'key') =>
    change({
      sort: next,
      order: sort === next && order === 'desc' ? 'asc' : sort === next ? 'desc' : next === 'key' ? 'asc' : 'desc',
    });

  return (
    <>
      <Card
        title={`${label} by ${dimension.label === 'API key' ? dimension.label : dimension.label.toLowerCase()}`}
        tools={<Coverage coverage={query.data?.coverage} />}
      >
        <Answer query={drawn} waiting={<Skeleton height={330} />}>
          {(shown) =>
            series.length === 0 ? (
              <Empty title="No usage here">{NOTHING_FOUND(filters)}</Empty>
            ) : (
              <Chart
                label={`${label} by ${dimension.label.toLowerCase()} and ${INTERVAL_NAMES[interval].toLowerCase()}, ${rangeText(range)}`}
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

      <Card
        title={dimension.label === 'API key' ? 'API keys' : `${dimension.label}s`}
        note={
          query.data &&
          `${format(String(query.data.total), 'count')} with usage${timeZone === 'UTC' ? '' : ', in days of UTC'}`
        }
        flush
      >
        <Answer query={query}>
          {(answer) => {
            if (answer.rows.length === 0) return <Empty title="No usage here">{NOTHING_FOUND(filters)}</Empty>;
            const pad = padOf([...answer.rows.map(({ cost }) => cost), answer.totals.cost], 'money');
            return (
              <>
                <div className="table-scroll" {...SCROLLS}>
                  <table className="table">
                    <thead>
                      <tr>
                        <SortHeader name={dimension.label} id="key" sort={sort} order={order} onSort={sortBy} />
                        {MEASURES.map((each) => (
                          <SortHeader
                            key={each.id}
                            name={each.label}
                            id={each.id}
                            sort={sort}
                            order={order}
                            onSort={sortBy}
                            right
                          />
                        ))}
                        <th scope="col" className="right">
                          Share
                        </th>
                        <th scope="col" className="right">
                          Success
                        </th>
                        {compare && (
                          <th scope="col" className="right">
                            Change
                          </th>
                        )}
                      </tr>
                    </thead>
                    <tbody>
                      {answer.rows.map((row) => {
                        const own = { ...filters, [dimension.filter]: [row.key] };
                        const share = percentage(row[measure], answer.totals[measure]);
                        const earlierRow = then.get(row.key);
                        return (
                          <tr key={row.key}>
                            <th scope="row">
                              <span className="cell-name">
                                <Swatch color={color.get(row.key) ?? OTHERS} />
                                <span title={row.key}>
                                  {row.label}
                                  {row.label !== row.key && <small>{row.key}</small>}
                                </span>
                              </span>
                            </th>
                            {MEASURES.map((each) => (
                              <td key={each.id} className="right">
                                <Explained
                                  value={row[each.id]}
                                  kind={each.kind}
                                  metric={each.metric}
                                  range={range}
                                  filters={own}
                                  {...(each.id === 'cost' ? { pad } : {})}
                                />
                              </td>
                            ))}
                            <td className="right num">{share === null ? '–' : format(share, 'percent')}</td>
                            <td className="right num">{row.successRate === null ? '–' : `${row.successRate}%`}</td>
                            {compare && (
                              <td className="right">
                                {earlier.data ? (
                                  <span title={`${format(earlierRow?.[measure] ?? '0', kind)} in ${rangeText(past)}`}>
                                    <Delta current={row[measure]} previous={earlierRow?.[measure] ?? '0'} />
                                  </span>
                                ) : (
                                  <Skeleton width={44} />
                                )}
                              </td>
                            )}
                          </tr>
                        );
                      })}
                    </tbody>
                    <tfoot>
                      <tr>
                        <th scope="row">All {format(String(answer.total), 'count')}</th>
                        {MEASURES.map((each) => (
                          <td key={each.id} className="right">
                            <Explained
                              value={answer.totals[each.id]}
                              kind={each.kind}
                              metric={each.metric}
                              range={range}
                              filters={filters}
                              {...(each.id === 'cost' ? { pad } : {})}
                            />
                          </td>
                        ))}
                        <td />
                        <td className="right num">
                          {answer.totals.successRate === null ? '–' : `${answer.totals.successRate}%`}
                        </td>
                        {compare && <td />}
                      </tr>
                    </tfoot>
                  </table>
                </div>
                {(answer.nextCursor || cursor) && (
                  <div className="pager">
                    <span>
                      {answer.rows.length} of {format(String(answer.total), 'count')}
                    </span>
                    <span className="tools">
                      {cursor && (
                        <Button small onClick={() => change({ cursor: undefined } as Partial<ExplorerSearch>)}>
                          First page
                        </Button>
                      )}
                      {answer.nextCursor && (
                        <Button small onClick={() => change({ cursor: answer.nextCursor! })}>
                          Next page
                        </Button>
                      )}
                    </span>
                  </div>
                )}
              </>
            );
          }}
        </Answer>
      </Card>
    </>
  );
}

function SortHeader({
  name,
  id,
  sort,
  order,
  onSort,
  right = false,
}: {
  name: string;
  id: MeasureId | 'key';
  sort: MeasureId | 'key';
  order: 'asc' | 'desc';
  onSort: (id: MeasureId | 'key') => void;
  right?: boolean;
}) {
  const active = sort === id;
  const Arrow = order === 'asc' ? ArrowUp : ArrowDown;
  return (
    <th
      scope="col"
      className={right ? 'right' : undefined}
      aria-sort={active ? (order === 'asc' ? 'ascending' : 'descending') : 'none'}
    >
      <button type="button" className="sort" data-active={active ? '' : undefined} onClick={() => onSort(id)}>
        {name}
        {active && <Arrow size={13} aria-hidden="true" />}
      </button>
    </th>
  );
}

function ExportMenu({
  question,
  measure,
  interval,
  timeZone,
}: {
  question: Question;
  measure: MeasureId;
  interval: Interval;
  timeZone: string;
}) {
  const [code, setCode] = useState<'curl' | 'typescript' | null>(null);
  const text =
    code === 'curl'
      ? curlOf(question, { interval, timeZone })
      : code === 'typescript'
        ? typescriptOf(question, { interval, timeZone })
        : '';
  return (
    <>
      <Menu
        button={
          <Button>
            <Download size={16} aria-hidden="true" />
            Export
          </Button>
        }
        actions={[
          {
            label: 'Excel',
            note: '.xlsx',
            icon: <FileSpreadsheet size={15} />,
            href: exportLink(question, 'xlsx'),
            download: true,
          },
          {
            label: 'CSV',
            note: '.csv',
            icon: <FileText size={15} />,
            href: exportLink(question, 'csv'),
            download: true,
          },
          {
            label: 'JSON',
            note: '.json',
            icon: <Braces size={15} />,
            href: exportLink(question, 'json'),
            download: true,
          },
          { label: 'Copy as curl', icon: <Terminal size={15} />, run: () => setCode('curl') },
          { label: 'Copy as TypeScript', icon: <Braces size={15} />, run: () => setCode('typescript') },
        ]}
      />
      <Dialog
        wide
        open={code !== null}
        onClose={() => setCode(null)}
        title={code === 'curl' ? 'The same with curl' : 'The same from TypeScript'}
        text={`Asks for what is shown here: ${measureOf(measure).label.toLowerCase()} and all other measures. Put an API key into TALLY_KEY.`}
      >
        <pre className="code">{text}</pre>
        <div className="dialog-actions">
          <CopyButton text={text} />
          <Button kind="primary" onClick={() => setCode(null)}>
            Done
          </Button>
        </div>
      </Dialog>
    </>
  );
}
