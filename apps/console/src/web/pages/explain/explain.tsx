import { useNavigate, useSearch } from '@tanstack/react-router';
import { DIMENSIONS, type FilterSearch, labelOfMetric, MEASURES, readFilters } from '../../measures.ts';
import { useWho } from '../../session.tsx';
import { type Range, rangeText } from '../../time.ts';
import { Filters } from '../../ui/filters.tsx';
import { PageHead } from '../../ui/parts.tsx';
import { Select } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { DayOfMerchant } from './day.tsx';
import { Parts } from './parts.tsx';

/** Explains a number: its days and merchants, and from there its events. */
export function Explain() {
  const search = useSearch({ from: '/frame/app/explain' });
  const navigate = useNavigate({ from: '/app/explain' });
  const who = useWho();
  const { metric } = search;
  const range: Range = { startDate: search.from, endDate: search.to };
  const filters = readFilters(search);
  // A link may name another merchant than that of the key: then the error of the service is shown, not own numbers.
  const merchants = filters.merchants ?? [who.merchantId].filter((id) => id !== null);
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
      <div className="filters">
        <Filters
          range={range}
          filters={filters}
          onChange={(next) => void navigate({ search: { metric, from: search.from, to: search.to, ...next } })}
        />
      </div>
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
  const whose = filters.merchants ? '' : bound ? `merchant ${bound}` : 'all merchants';
  return <>{[whose, ...named, rangeText(range)].filter(Boolean).join(' · ')}</>;
}
