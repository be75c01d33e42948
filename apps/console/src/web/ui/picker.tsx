import { Combobox } from '@base-ui/react/combobox';
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { Check, ChevronDown, Search, X } from 'lucide-react';
import { useState } from 'react';
import { client } from '../api.ts';
import { format } from '../quantity.ts';
import { useSettled } from './field.tsx';
import type { Option } from './popups.tsx';

/** Finds options that are not in a list, by what was typed. `key` distinguishes it from other searches. */
export type Finder = {
  key: readonly unknown[];
  find: (text: string, signal: AbortSignal) => Promise<readonly Option[]>;
};

const MAX_SHOWN = 200;
const NAMES_FRESH_MS = 300_000;

/** Finds names in the directory, and always what was typed, as an id. */
export const findNames = (kind: 'merchant' | 'user' | 'apiKey', merchantId?: string): Finder => ({
  key: [kind, merchantId],
  async find(text, signal) {
    const scope = merchantId === undefined ? {} : { merchantId };
    const { rows } = await client.directory.list.query({ kind, search: text, limit: MAX_SHOWN, ...scope }, { signal });
    return withTyped(
      text,
      rows.map(({ id, name, email }) => ({ value: id, label: name, note: email ?? id })),
    );
  },
});

/** Returns the options of values, with the name of the first one also where no list holds it. */
function useOptionsOf(
  values: readonly string[],
  { options, waiting, names }: Pick<ChoicesProps, 'options' | 'waiting' | 'names'>,
): Option[] {
  const known = new Map(options.map((option) => [option.value, option]));
  const [first] = values;
  const isUnnamed = first !== undefined && !waiting && !known.has(first);
  const found = useQuery({
    queryKey: ['find', names?.key, first],
    queryFn: ({ signal }) => names!.find(first!, signal),
    enabled: isUnnamed && names !== undefined,
    staleTime: NAMES_FRESH_MS,
  });
  const named = isUnnamed ? found.data?.find(({ value }) => value === first) : undefined;
  return values.map((value) => known.get(value) ?? (named?.value === value ? named : { value, label: value }));
}

/** Finds only what was typed, as an id. */
export const findTyped: Finder = { key: ['typed'], find: async (text) => withTyped(text, []) };

const withTyped = (text: string, found: readonly Option[]): readonly Option[] =>
  found.some(({ value }) => value === text)
    ? found
    : [...found, { value: text, label: text, note: 'as it is written' }];

const matches = ({ label, value, note = '' }: Option, wanted: string) =>
  [label, value, note].some((each) => each.toLowerCase().includes(wanted));

/** Returns the options that match what is typed, at most MAX_SHOWN, and how many more there are. */
function useChoices(options: readonly Option[], beyond: Finder | undefined) {
  const [search, setSearch] = useState('');
  const wanted = search.trim();
  const asked = useSettled(wanted);
  const found = useQuery({
    queryKey: ['find', beyond?.key, asked],
    queryFn: ({ signal }) => beyond!.find(asked, signal),
    enabled: beyond !== undefined && asked !== '',
    placeholderData: keepPreviousData,
  });
  const listed = options.filter((option) => matches(option, wanted.toLowerCase()));
  const known = new Set(listed.map(({ value }) => value));
  const isFinding = beyond !== undefined && wanted !== '' && (asked !== wanted || found.isFetching);
  const others =
    beyond && wanted !== '' && !isFinding ? (found.data ?? []).filter(({ value }) => !known.has(value)) : [];
  // What was found elsewhere is seen also where many listed options match.
  const room = Math.max(MAX_SHOWN - others.length, MAX_SHOWN / 2);
  const shown = [...listed.slice(0, room), ...others].slice(0, MAX_SHOWN);
  return {
    search,
    setSearch,
    shown,
    more: listed.length + others.length - shown.length,
    isFinding,
    failed: found.isError,
  };
}

type ChoicesProps = {
  label: string;
  options: readonly Option[];
  /** Given where the options are not all there are. */
  beyond?: Finder | undefined;
  /** Finds the name of a selected value that the options lack. */
  names?: Finder | undefined;
  waiting?: boolean | undefined;
  /** Shown where nothing matches. */
  none: string;
};

/** The list of a picker: a search, and the options that match it. */
function ChoicesPopup({
  label,
  options,
  beyond,
  waiting,
  none,
  choices: { more, isFinding, failed },
}: ChoicesProps & { choices: ReturnType<typeof useChoices> }) {
  return (
    <Combobox.Portal>
      <Combobox.Positioner sideOffset={6} align="start" className="positioner">
        <Combobox.Popup className="popup" aria-label={label}>
          <div className="search-field">
            <Search size={15} aria-hidden="true" />
            <Combobox.Input
              placeholder={`Search ${label.toLowerCase()}s`}
              aria-label={`Search ${label.toLowerCase()}s`}
            />
          </div>
          <Combobox.Empty>
            <p className="menu-note">
              {waiting ? 'Loading…' : isFinding ? 'Searching…' : failed ? 'The search failed. Type again.' : none}
            </p>
          </Combobox.Empty>
          <Combobox.List className="menu">
            {(option: Option) => (
              <Combobox.Item key={option.value} value={option} className="menu-item">
                <span className="grow">{option.label}</span>
                {option.note && <small>{option.note}</small>}
                <Combobox.ItemIndicator className="check">
                  <Check size={15} aria-hidden="true" />
                </Combobox.ItemIndicator>
              </Combobox.Item>
            )}
          </Combobox.List>
          {beyond ? (
            <p className="menu-note">
              {format(String(options.length), 'count')} are listed, of more. Search by name, or by a whole id.
            </p>
          ) : (
            more > 0 && <p className="menu-note">{format(String(more), 'count')} more: search to find them.</p>
          )}
        </Combobox.Popup>
      </Combobox.Positioner>
    </Combobox.Portal>
  );
}

const sameValue = (a: Option, b: Option) => a.value === b.value;
const labelOf = (option: Option) => option.label;

/** Selects many of many, with a search: a filter as a chip. */
export function FilterChip({
  values,
  onChange,
  onOpen,
  ...props
}: Omit<ChoicesProps, 'none'> & {
  values: readonly string[];
  onChange: (values: string[]) => void;
  onOpen?: () => void;
}) {
  const { label, options, beyond } = props;
  const choices = useChoices(options, beyond);
  const chosen = useOptionsOf(values, props);
  const text =
    chosen.length === 0
      ? label
      : chosen.length === 1
        ? chosen[0]!.label
        : `${chosen[0]!.label} and ${chosen.length - 1} more`;
  return (
    <div className="filter" data-dashed={chosen.length === 0 ? '' : undefined}>
      <Combobox.Root
        multiple
        items={choices.shown}
        value={chosen}
        filter={null}
        inputValue={choices.search}
        onInputValueChange={choices.setSearch}
        onOpenChange={(open) => {
          if (!open) return;
          choices.setSearch('');
          onOpen?.();
        }}
        isItemEqualToValue={sameValue}
        itemToStringLabel={labelOf}
        onValueChange={(next: Option[]) => onChange(next.map(({ value }) => value))}
      >
        <Combobox.Trigger render={<button type="button" />} aria-label={`Filter by ${label.toLowerCase()}`}>
          {chosen.length === 0 ? (
            <>
              {label} <ChevronDown size={14} aria-hidden="true" />
            </>
          ) : (
            <span>
              {label} <b>{text}</b>
            </span>
          )}
        </Combobox.Trigger>
        <ChoicesPopup {...props} none={`No ${label.toLowerCase()} with usage in this range.`} choices={choices} />
      </Combobox.Root>
      {chosen.length > 0 && (
        <button type="button" aria-label={`Remove the filter by ${label.toLowerCase()}`} onClick={() => onChange([])}>
          <X size={14} aria-hidden="true" />
        </button>
      )}
    </div>
  );
}

/** Selects one of many, with a search. */
export function Picker({
  value,
  onChange,
  placeholder,
  ...props
}: ChoicesProps & {
  value: string;
  onChange: (value: string) => void;
  /** Shown while nothing is selected. */
  placeholder?: string;
}) {
  const { label, options, beyond } = props;
  const choices = useChoices(options, beyond);
  const [chosen = null] = useOptionsOf(value ? [value] : [], props);
  return (
    <Combobox.Root
      items={choices.shown}
      value={chosen}
      filter={null}
      inputValue={choices.search}
      onInputValueChange={choices.setSearch}
      onOpenChange={(open) => open && choices.setSearch('')}
      isItemEqualToValue={sameValue}
      itemToStringLabel={labelOf}
      onValueChange={(next: Option | null) => next && onChange(next.value)}
    >
      <Combobox.Trigger render={<button type="button" className="button picker" />} aria-label={label}>
        <span className="clip">{chosen?.label ?? placeholder}</span>
        <ChevronDown size={15} aria-hidden="true" />
      </Combobox.Trigger>
      <ChoicesPopup {...props} choices={choices} />
    </Combobox.Root>
  );
}
