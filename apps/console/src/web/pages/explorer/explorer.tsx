import { useNavigate, useSearch } from '@tanstack/react-router';
import type { Question } from '../../copy.ts';
import { apiFilters, DIMENSIONS, type FilterSearch, MEASURES, readFilters } from '../../measures.ts';
import { type ExplorerSearch, INTERVALS, type Interval } from '../../router.tsx';
import { useWho } from '../../session.tsx';
import { countDays, PRESETS, type Range, rangeText, viewerZone } from '../../time.ts';
import { Filters } from '../../ui/filters.tsx';
import { PageHead } from '../../ui/parts.tsx';
import { Segments, Select } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { ByDimension } from './by-dimension.tsx';
import { ByTime } from './by-time.tsx';
import { ExportMenu } from './export-menu.tsx';
import { INTERVAL_NAMES } from './shown.ts';

/** Returns an interval that gives a chart 50 to 400 points, if possible. */
const usualInterval = (range: Range): Interval => {
  const days = countDays(range);
  return days <= 3 ? 'hour' : days <= 400 ? 'day' : 'month';
};

/** Shows any measure over time, by one dimension or by two, as a chart and a table. */
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
  const dimensions = DIMENSIONS.filter(({ id }) => id !== 'merchant' || who.merchantId === null);
  const wanted = search.by ?? 'model';
  const by = wanted === 'time' || dimensions.some(({ id }) => id === wanted) ? wanted : 'model';
  const and = dimensions.find(({ id }) => by !== 'time' && id === search.and && id !== by)?.id;
  const interval = search.interval ?? usualInterval(range);
  const timeZone = search.tz ?? 'UTC';
  const filters = readFilters(search);
  const pivot = search.view === 'pivot';
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

  const sort = search.sort ?? measure;
  const order = search.order ?? (sort === 'key' ? 'asc' : 'desc');
  const question: Question = {
    ...range,
    ...apiFilters(filters),
    ...(by === 'time' ? {} : { by: and ? [by, and] : by, sortBy: sort, order }),
  };
  const zones = [...new Set(['UTC', viewerZone(), timeZone])].map((zone) => ({ value: zone, label: zone }));
  const unsorted = { sort: undefined, order: undefined };
  const shown = {
    ...{ range, measure, interval, timeZone, filters },
    chart: search.chart ?? 'bars',
    compare: search.compare === 'previous',
  };

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
          onChange={(next) => change({ measure: next, ...unsorted })}
        />
        <Select
          label="Group by"
          prefix="by"
          value={by}
          options={[
            { value: 'time' as const, label: 'time only' },
            ...dimensions.map(({ id, name }) => ({ value: id, label: name })),
          ]}
          onChange={(next) => change({ by: next, and: next === and ? undefined : and, ...unsorted })}
        />
        {by !== 'time' && (
          <Select
            label="And by"
            prefix="and"
            value={and ?? 'nothing'}
            options={[
              { value: 'nothing' as const, label: 'nothing else' },
              ...dimensions.filter(({ id }) => id !== by).map(({ id, name }) => ({ value: id, label: name })),
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
          options={INTERVALS.map((value) => ({ value, label: INTERVAL_NAMES[value].toLowerCase() }))}
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
        {and && (
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
        {!(and && pivot) && (
          <Segments
            label="Compare"
            value={search.compare ?? 'none'}
            options={[
              { value: 'none', label: 'No comparison' },
              { value: 'previous', label: 'Period before' },
            ]}
            onChange={(next) => change({ compare: next === 'none' ? undefined : next })}
          />
        )}
      </div>
      <Filters range={range} filters={filters} onChange={changeFilters} />

      {by === 'time' ? (
        <ByTime {...shown} />
      ) : (
        // Rows of other dimensions must not stand in for the requested ones.
        <ByDimension
          key={`${by} ${and}`}
          {...shown}
          {...{ by, and, pivot, sort, order, change }}
          cursor={search.cursor}
        />
      )}
    </div>
  );
}

const clean = <T extends object>(search: T): T =>
  Object.fromEntries(Object.entries(search).filter(([, value]) => value !== undefined)) as T;
