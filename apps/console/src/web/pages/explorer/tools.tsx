import type { Meter } from '@tally/contracts';
import { MEASURES, namesOf } from '../../measures.ts';
import { PERCENTILES } from '../../search.ts';
import { addDays, today, viewerZone } from '../../time.ts';
import { Segments, Select, Switch } from '../../ui/popups.tsx';
import { hasPercentiles, percentileName } from './meter.ts';
import { type ChangeSearch, INTERVAL_NAMES, type Shown } from './shown.ts';

const choiceOf = ({ key, merchantId }: Meter) => JSON.stringify([key, merchantId]);
const UNSORTED = { sort: undefined, order: undefined };

type Props = { shown: Shown; meter: Meter | undefined; meters: readonly Meter[]; change: ChangeSearch };

/** Chooses what is shown, and how. */
export function Tools({ shown, meter, meters, change }: Props) {
  const { measure, groups, by, and, intervals, interval, timeZone, percentile, chart, crosses, pivot, compare } = shown;
  const { canTellSince, since } = shown;
  const zones = [...new Set(['UTC', viewerZone(), timeZone])].map((zone) => ({ value: zone, label: zone }));
  const choose = (value: string) => {
    const next = meters.find((each) => choiceOf(each) === value);
    change({
      ...{ meter: next?.key, of: next?.merchantId ?? undefined, where: undefined, percentile: undefined, ...UNSORTED },
      measure: MEASURES.find(({ id }) => id === value)?.id,
    });
  };
  return (
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
          value={String(percentile ?? 50)}
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
        onChange={(next) => change({ by: next, and: next === and ? undefined : and, ...UNSORTED })}
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
        value={chart}
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
        on={compare}
        onChange={(on) => change({ compare: on ? 'previous' : undefined })}
      >
        Compare
      </Switch>
      {canTellSince && (
        <Switch
          title="Show what late events, adjustments and voids changed after a day"
          on={since !== undefined}
          onChange={(on) => change({ since: on ? addDays(today(), -1) : undefined })}
        >
          Changed since
        </Switch>
      )}
      {canTellSince && since !== undefined && (
        <input
          className="input"
          type="date"
          aria-label="Changed since the end of"
          required
          max={addDays(today(), -1)}
          value={since}
          onChange={({ target }) => target.value && change({ since: target.value })}
        />
      )}
    </div>
  );
}
