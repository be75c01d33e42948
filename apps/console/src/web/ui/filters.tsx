import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { api, type client } from '../api.ts';
import { DIMENSIONS, type DimensionId, type FilterSearch, namesOf, type PropertyId } from '../measures.ts';
import { useWho } from '../session.tsx';
import type { Range } from '../time.ts';
import { FilterChip, type Finder, findNames, findTyped } from './picker.tsx';
import type { Option } from './popups.tsx';

const OPTIONS_FRESH_MS = 300_000;
const MOST_TEAMS = 200;
/** `filterOptions` cuts each list here. */
const MOST_OPTIONS = 10_000;

type Options = Awaited<ReturnType<typeof client.analytics.filterOptions.query>>;

/** Returns whether a list of options may lack some: the answer says it of all its lists together. */
export const isCut = (options: Options | undefined, list: 'merchants' | 'users' | 'apiKeys' | 'models') =>
  options?.truncated === true && options[list].length === MOST_OPTIONS;
const UNKNOWN: Option = { value: 'unknown', label: 'unknown', note: 'not told' };

/** A chip for each dimension, or for those of `only`, with the values that have usage in the range. */
export function Filters({
  range,
  filters,
  only,
  onChange,
}: {
  range: Range;
  filters: FilterSearch;
  only?: readonly DimensionId[] | undefined;
  onChange: (filters: FilterSearch) => void;
}) {
  const who = useWho();
  const scope = filters.merchants ? { merchantIds: filters.merchants } : {};
  const all = useQuery(
    api.analytics.filterOptions.queryOptions(
      { ...range, ...scope },
      { staleTime: OPTIONS_FRESH_MS, placeholderData: keepPreviousData },
    ),
  );
  const every = useQuery(
    api.analytics.filterOptions.queryOptions(range, { staleTime: OPTIONS_FRESH_MS, enabled: who.merchantId === null }),
  );
  // Teams come from the directory: those with usage are queried once a user opens the list.
  const [askTeams, setAskTeams] = useState(false);
  const teams = useQuery(
    api.analytics.breakdown.queryOptions(
      { ...range, ...scope, by: 'team', limit: MOST_TEAMS },
      { staleTime: OPTIONS_FRESH_MS, enabled: askTeams },
    ),
  );
  const waiting: Partial<Record<DimensionId, boolean>> = { team: teams.isLoading, merchant: every.isLoading };
  const options: Record<DimensionId, Option[]> = {
    team: (teams.data?.rows ?? []).map(({ key, label }) => (key === 'unknown' ? UNKNOWN : { value: key, label })),
    merchant: named(every.data?.merchants ?? []),
    user: [...named(all.data?.users ?? []), UNKNOWN],
    apiKey: [...named(all.data?.apiKeys ?? []), UNKNOWN],
    model: [
      ...(all.data?.models ?? []).map(({ id, providers }) => ({ value: id, label: id, note: providers.join(', ') })),
      UNKNOWN,
    ],
    provider: [...(all.data?.providers ?? []).map((id) => ({ value: id, label: id })), UNKNOWN],
  };
  const oneMerchant = who.merchantId ?? (filters.merchants?.length === 1 ? filters.merchants[0] : undefined);
  // What cut lists leave out is found by a search.
  const beyond: Partial<Record<DimensionId, Finder | false>> = {
    team: teams.data?.nextCursor != null && findTyped,
    merchant: isCut(every.data, 'merchants') && findNames('merchant'),
    user: isCut(all.data, 'users') && findNames('user', oneMerchant),
    apiKey: isCut(all.data, 'apiKeys') && findNames('apiKey', oneMerchant),
    model: isCut(all.data, 'models') && findTyped,
  };
  const names: Partial<Record<DimensionId, Finder>> = {
    merchant: findNames('merchant'),
    user: findNames('user', oneMerchant),
    apiKey: findNames('apiKey', oneMerchant),
  };
  return (
    <>
      {DIMENSIONS.filter(
        ({ id }) => (id !== 'merchant' || who.merchantId === null) && (only?.includes(id) ?? true),
      ).map(({ id, label, filter }) => (
        <FilterChip
          key={id}
          label={label}
          options={options[id]}
          beyond={beyond[id] || undefined}
          names={names[id]}
          values={filters[filter] ?? []}
          waiting={waiting[id] ?? all.isLoading}
          onOpen={() => id === 'team' && setAskTeams(true)}
          onChange={(values) => {
            const { [filter]: _changed, ...others }: FilterSearch = filters;
            onChange(values.length > 0 ? { ...others, [filter]: values } : others);
          }}
        />
      ))}
    </>
  );
}

/** A chip for a property that a meter has as a dimension, with the values that it counted. */
export function PropertyFilter({
  property,
  ask,
  values,
  onChange,
}: {
  property: PropertyId;
  ask: { meter: string; startDate: string; endDate: string; timeZone: string };
  values: readonly string[];
  onChange: (values: string[]) => void;
}) {
  const [asked, setAsked] = useState(false);
  const known = useQuery(
    api.analytics.meter.queryOptions(
      { ...ask, window: 'total', groupBy: [property] },
      { staleTime: OPTIONS_FRESH_MS, enabled: asked },
    ),
  );
  const options = (known.data?.rows ?? []).map(({ group }) => ({ value: group[property]!, label: group[property]! }));
  return (
    <FilterChip
      label={namesOf(property).label}
      options={options}
      values={values}
      waiting={known.isLoading}
      onOpen={() => setAsked(true)}
      onChange={onChange}
    />
  );
}

const named = (rows: readonly { id: string; label: string; email?: string | null }[]): Option[] =>
  rows.map(({ id, label, email }) => ({ value: id, label, ...(label !== id || email ? { note: email ?? id } : {}) }));
