import type { Meter } from '@tally/contracts';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Gauge } from 'lucide-react';
import { api } from '../../api.ts';
import { type FilterSearch, isDimension, isProperty, measureOf, type PropertyFilters } from '../../measures.ts';
import { compact, type ExplorerSearch } from '../../search.ts';
import { useWho } from '../../session.tsx';
import { rangeText } from '../../time.ts';
import { Filters, PropertyFilter } from '../../ui/filters.tsx';
import { Answer, Card, Empty, PageHead } from '../../ui/parts.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { ByDimension } from './by-dimension.tsx';
import { ByMeter } from './by-meter.tsx';
import { ByTime } from './by-time.tsx';
import { ExportMenu } from './export-menu.tsx';
import { meterFilters } from './meter.ts';
import { type ChangeSearch, dimensionsOf, questionOf, shownBy } from './shown.ts';
import { Tools } from './tools.tsx';

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

function View({ meter, meters }: { meter: Meter | undefined; meters: readonly Meter[] }) {
  const search = useSearch({ from: '/frame/app/explorer' });
  const navigate = useNavigate({ from: '/app/explorer' });
  const shown = shownBy(search, meter, useWho().merchantId !== null);
  const { asked, range, filters, where = {}, groups, by, and, measure, interval, timeZone } = shown;
  const change: ChangeSearch = (next) =>
    void navigate({
      search: (known) => compact({ ...known, cursor: undefined, ...next }) as ExplorerSearch,
      replace: next.cursor === undefined,
    });
  const changeFilters = (next: FilterSearch) =>
    void navigate({
      search: ({ merchants: _m, teams: _t, users: _u, keys: _k, models: _o, providers: _p, cursor: _c, ...known }) => ({
        ...known,
        ...next,
      }),
    });

  return (
    <div className="stack">
      <PageHead title="Explorer" note={rangeText(range)}>
        <RangePicker range={asked} onChange={({ startDate, endDate }) => change({ from: startDate, to: endDate })} />
        <ExportMenu
          question={questionOf(shown, meter)}
          about={meter ? meter.name : `${measureOf(measure).label.toLowerCase()} and all other measures`}
          series={{ interval, timeZone }}
        />
      </PageHead>

      <Tools {...{ shown, meter, meters, change }} />
      <div className="filters">
        <Filters range={range} filters={filters} only={meter && groups.filter(isDimension)} onChange={changeFilters} />
        {meter &&
          groups.filter(isProperty).map((property) => (
            <PropertyFilter
              key={property}
              property={property}
              ask={{ meter: meter.key, ...range, ...meterFilters(meter, filters), timeZone }}
              values={where[property] ?? []}
              onChange={(values) => {
                const { [property]: _changed, ...others }: PropertyFilters = where;
                const next = values.length > 0 ? { ...others, [property]: values } : others;
                change({ where: Object.keys(next).length > 0 ? next : undefined });
              }}
            />
          ))}
      </div>

      {meter ? (
        <ByMeter
          key={`${meter.key} ${meter.merchantId} ${by} ${and}`}
          {...shown}
          {...{ meter, change }}
          byKey={shown.sort === 'key'}
        />
      ) : by === 'time' ? (
        <ByTime {...shown} />
      ) : (
        // Rows of other dimensions must not stand in for the requested ones.
        <ByDimension key={`${by} ${and}`} {...shown} {...dimensionsOf(shown)} change={change} />
      )}
    </div>
  );
}
