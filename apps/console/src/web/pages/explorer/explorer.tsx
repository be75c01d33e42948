import type { Meter } from '@tally/contracts';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Gauge } from 'lucide-react';
import { api } from '../../api.ts';
import type { Question } from '../../copy.ts';
import {
  apiFilters,
  DIMENSIONS,
  type FilterSearch,
  type GroupId,
  isDimension,
  isProperty,
  MEASURES,
  measureOf,
  namesOf,
  type PropertyFilters,
  readFilters,
} from '../../measures.ts';
import { type ExplorerSearch, INTERVALS, type Interval, PERCENTILES } from '../../search.ts';
import { useWho } from '../../session.tsx';
import { addDays, countDays, PRESETS, type Range, rangeText, today, viewerZone } from '../../time.ts';
import { Filters, PropertyFilter } from '../../ui/filters.tsx';
import { Answer, Card, Empty, PageHead } from '../../ui/parts.tsx';
import { Segments, Select, Switch } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { ByDimension } from './by-dimension.tsx';
import { ByMeter } from './by-meter.tsx';
import { ByTime } from './by-time.tsx';
import { ExportMenu } from './export-menu.tsx';
import { groupsOf, hasPercentiles, isAdditive, meterFilters, percentileName, WINDOWS, wholeWindows } from './meter.ts';
import { INTERVAL_NAMES } from './shown.ts';

/** Returns an interval that gives a chart 50 to 400 points, if possible. */
const usualInterval = (range: Range): Interval => {
  const days = countDays(range);
  return days <= 3 ? 'hour' : days <= 400 ? 'day' : 'month';
};

const FRESH_MS = 300_000;

/** Shows any measure or meter over time, by one dimension or by two, as a chart and a table. */
export function Explorer() {
  const search = useSearch({ from: '/frame/app/explorer' });
  const meters = useQuery(api.meters.list.queryOptions(undefined, { staleTime: FRESH_MS }));
  // Built-in meters are the measures.
  const own = ((meters.data?.rows ?? []) as Meter[]).filter(({ id }) => id !== null);
  if (search.meter === undefined) return <View meter={undefined} meters={own} />;
  const meter = own.find(({ key, merchantId }) => key === search.meter && (merchantId ?? undefined) === search.of);
  return (
    <Answer query={meters}>
      {() =>
        meter ? (
          <View meter={meter} meters={own} />
        ) : (
          <Card>
            <Empty icon={Gauge} title={`There is no meter ${search.meter}`}>
              It may have been removed, or belong to another merchant. The page of meters lists all of them.
            </Empty>
          </Card>
        )
      }
    </Answer>
  );
}

const choiceOf = ({ key, merchantId }: Meter) => JSON.stringify([key, merchantId]);

function View({ meter, meters }: { meter: Meter | undefined; meters: readonly Meter[] }) {
  const search = useSearch({ from: '/frame/app/explorer' });
  const navigate = useNavigate({ from: '/app/explorer' });
  const who = useWho();
  const usual = PRESETS.find(({ id }) => id === '30d')!.range();
  const asked: Range = {
    startDate: search.from ?? usual.startDate,
    endDate: search.to && search.to >= (search.from ?? usual.startDate) ? search.to : usual.endDate,
  };
  const measure = search.measure ?? 'cost';
  const groups: GroupId[] = meter
    ? groupsOf(meter, who.merchantId !== null)
    : DIMENSIONS.map(({ id }) => id).filter((id) => id !== 'merchant' || who.merchantId === null);
  const first = meter ? (groups.find((id) => id !== 'merchant') ?? 'time') : 'model';
  const wanted = search.by ?? first;
  const by = wanted === 'time' || groups.includes(wanted) ? wanted : first;
  const and = groups.find((id) => by !== 'time' && id === search.and && id !== by);
  // Only meters have other ones.
  const dimensions = { by: isDimension(by) ? by : ('model' as const), and: isDimension(and) ? and : undefined };
  const intervals: readonly Interval[] = meter ? WINDOWS : INTERVALS;
  const interval = intervals.find((each) => each === search.interval) ?? usualInterval(asked);
  const window = interval === '15m' ? 'hour' : interval;
  const range = meter ? wholeWindows(asked, window) : asked;
  const timeZone = search.tz ?? 'UTC';
  const filters = readFilters(search);
  const crosses = and !== undefined && (!meter || isAdditive(meter));
  const pivot = crosses && search.view === 'pivot';
  const canTellSince = !meter && by !== 'time' && !pivot;
  const change = (next: { [K in keyof ExplorerSearch]?: ExplorerSearch[K] | undefined }) =>
    void navigate({
      search: (known) => clean({ ...known, cursor: undefined, ...next }) as ExplorerSearch,
      replace: next.cursor === undefined,
    });
  const changeFilters = (next: FilterSearch) =>
    void navigate({
      search: ({ merchants: _m, teams: _t, users: _u, keys: _k, models: _o, providers: _p, cursor: _c, ...known }) => ({
        ...known,
        ...next,
      }),
    });
  const choose = (value: string) => {
    const next = meters.find((each) => choiceOf(each) === value);
    change({
      ...{ meter: next?.key, of: next?.merchantId ?? undefined, where: undefined, percentile: undefined, ...unsorted },
      measure: MEASURES.find(({ id }) => id === value)?.id,
    });
  };

  const sort = search.sort ?? measure;
  const order = search.order ?? (sort === 'key' ? 'asc' : 'desc');
  const question: Question = meter
    ? {
        ...{ meter: meter.key, ...range, ...meterFilters(meter, filters, search) },
        ...{ window: by === 'time' ? window : 'total', timeZone },
        ...(by !== 'time' && { groupBy: and ? [by, and] : [by] }),
      }
    : {
        ...range,
        ...apiFilters(filters),
        ...(by === 'time'
          ? { interval, timeZone }
          : { by: dimensions.and ? [dimensions.by, dimensions.and] : dimensions.by, sortBy: sort, order }),
      };
  const zones = [...new Set(['UTC', viewerZone(), timeZone])].map((zone) => ({ value: zone, label: zone }));
  const unsorted = { sort: undefined, order: undefined };
  const shown = { range, timeZone, filters, chart: search.chart ?? 'bars', compare: search.compare === 'previous' };

  return (
    <div className="stack">
      <PageHead title="Explorer" note={rangeText(range)}>
        <RangePicker range={asked} onChange={({ startDate, endDate }) => change({ from: startDate, to: endDate })} />
        <ExportMenu
          question={question}
          about={meter ? meter.name : `${measureOf(measure).label.toLowerCase()} and all other measures`}
          series={{ interval, timeZone }}
        />
      </PageHead>

      <div className="tools">
        <Select
          label="Measure"
          value={meter ? choiceOf(meter) : measure}
          options={[
            ...MEASURES.map(({ id, label }) => ({ value: id as string, label })),
            ...meters.map((each) => ({ value: choiceOf(each), label: each.name, note: each.merchantId ?? 'meter' })),
          ]}
          onChange={choose}
        />
        {meter && hasPercentiles(meter) && (
          <Select
            label="Percentile"
            value={String(search.percentile ?? 50)}
            options={PERCENTILES.map((each) => ({ value: String(each), label: percentileName(each) }))}
            onChange={(each) => change({ percentile: Number(each) })}
          />
        )}
        <Select
          label="Group by"
          prefix="by"
          value={by}
          options={[
            { value: 'time' as const, label: 'time only' },
            ...groups.map((id) => ({ value: id, label: namesOf(id).name })),
          ]}
          onChange={(next) => change({ by: next, and: next === and ? undefined : and, ...unsorted })}
        />
        {by !== 'time' && groups.length > 1 && (
          <Select
            label="And by"
            prefix="and"
            value={and ?? 'nothing'}
            options={[
              { value: 'nothing' as const, label: 'nothing else' },
              ...groups.filter((id) => id !== by).map((id) => ({ value: id, label: namesOf(id).name })),
            ]}
            onChange={(next) =>
              change({ and: next === 'nothing' ? undefined : next, ...(next === 'nothing' && { view: undefined }) })
            }
          />
        )}
        <Select
          label="Interval"
          prefix="every"
          value={interval}
          options={intervals.map((value) => ({ value, label: INTERVAL_NAMES[value].toLowerCase() }))}
          onChange={(next) => change({ interval: next })}
        />
        <Select label="Time zone" value={timeZone} options={zones} onChange={(tz) => change({ tz })} />
        <Segments
          label="Chart"
          value={shown.chart}
          options={[
            { value: 'bars', label: 'Bars' },
            { value: 'lines', label: 'Lines' },
          ]}
          onChange={(chart) => change({ chart })}
        />
        {crosses && (
          <Segments
            label="View"
            value={pivot ? 'pivot' : 'list'}
            options={[
              { value: 'list', label: 'List' },
              { value: 'pivot', label: 'Pivot' },
            ]}
            onChange={(view) => change({ view: view === 'pivot' ? view : undefined })}
          />
        )}
        <Switch
          title="Compare with the same number of days just before"
          on={search.compare === 'previous'}
          onChange={(on) => change({ compare: on ? 'previous' : undefined })}
        >
          Compare
        </Switch>
        {canTellSince && (
          <Switch
            title="Show what late events, adjustments and voids changed after a day"
            on={search.since !== undefined}
            onChange={(on) => change({ since: on ? addDays(today(), -1) : undefined })}
          >
            Changed since
          </Switch>
        )}
        {canTellSince && search.since !== undefined && (
          <input
            className="input"
            type="date"
            aria-label="Changed since the end of"
            required
            max={addDays(today(), -1)}
            value={search.since}
            onChange={({ target }) => target.value && change({ since: target.value })}
          />
        )}
      </div>
      <div className="filters">
        <Filters range={range} filters={filters} only={meter && groups.filter(isDimension)} onChange={changeFilters} />
        {meter &&
          groups.filter(isProperty).map((property) => (
            <PropertyFilter
              key={property}
              property={property}
              ask={{ meter: meter.key, ...range, ...meterFilters(meter, filters), timeZone }}
              values={search.where?.[property] ?? []}
              onChange={(values) => {
                const { [property]: _changed, ...others }: PropertyFilters = search.where ?? {};
                const next = values.length > 0 ? { ...others, [property]: values } : others;
                change({ where: Object.keys(next).length > 0 ? next : undefined });
              }}
            />
          ))}
      </div>

      {meter ? (
        <ByMeter
          key={`${choiceOf(meter)} ${by} ${and}`}
          {...shown}
          {...{ meter, window, by, and, pivot, order, change, where: search.where, percentile: search.percentile }}
          byKey={sort === 'key'}
          cursor={search.cursor}
        />
      ) : by === 'time' ? (
        <ByTime {...shown} {...{ measure, interval }} />
      ) : (
        // Rows of other dimensions must not stand in for the requested ones.
        <ByDimension
          key={`${by} ${and}`}
          {...shown}
          {...{ measure, interval, pivot, sort, order, change }}
          {...dimensions}
          cursor={search.cursor}
          since={search.since}
        />
      )}
    </div>
  );
}

const clean = <T extends object>(search: T): T =>
  Object.fromEntries(Object.entries(search).filter(([, value]) => value !== undefined)) as T;
