import { Search } from 'lucide-react';
import { type ComponentProps, type ReactNode, useEffect, useId, useRef, useState } from 'react';

/** Keeps what is typed into a form. `of` connects an input to one of its fields. */
export function useDraft<Draft extends object>(initial: Draft) {
  const [draft, setDraft] = useState(initial);
  const change = (next: Partial<Draft>) => setDraft((last) => ({ ...last, ...next }));
  const of = <Name extends keyof Draft>(name: Name) => ({
    value: draft[name],
    onChange: (value: Draft[Name]) => setDraft((last) => ({ ...last, [name]: value })),
  });
  return { draft, change, of };
}

/** A labelled input of a form; `note` explains what to write. */
export function Field({
  label,
  note,
  mono = false,
  onChange,
  ...input
}: {
  label: string;
  note?: ReactNode;
  /** For names that programs use. */
  mono?: boolean;
  onChange: (value: string) => void;
} & Omit<ComponentProps<'input'>, 'onChange' | 'id'>) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        {...input}
        id={id}
        className={mono ? 'input formula' : 'input'}
        aria-describedby={note ? `${id}-note` : undefined}
        onChange={(event) => onChange(event.target.value)}
      />
      {note && <small id={`${id}-note`}>{note}</small>}
    </div>
  );
}

/** Checkboxes under one label; `note` explains what no selection means. */
export function Checks({
  label,
  note,
  options,
  values,
  onChange,
}: {
  label: string;
  note?: string;
  options: readonly { value: string; label: string }[];
  values: readonly string[];
  onChange: (values: string[]) => void;
}) {
  return (
    <fieldset className="checks-field">
      <legend>{label}</legend>
      {options.map(({ value, label: text }) => (
        <label key={value}>
          <input
            type="checkbox"
            checked={values.includes(value)}
            onChange={({ target }) =>
              onChange(target.checked ? [...values, value] : values.filter((each) => each !== value))
            }
          />
          <span>{text}</span>
        </label>
      ))}
      {note && <small>{note}</small>}
    </fieldset>
  );
}

const SETTLES_AFTER_MS = 500;

/** A search above a list: `onChange` is called with the text, once it stays. */
export function SearchBox({
  label,
  value,
  onChange,
}: {
  label: string;
  value: string;
  onChange: (text: string) => void;
}) {
  const [text, setText] = useState(value);
  const settled = useSettled(text.trim());
  const told = useRef(value);
  useEffect(() => {
    if (settled === told.current) return;
    told.current = settled;
    onChange(settled);
  }, [settled, onChange]);
  // The address may change by itself: back and forward.
  useEffect(() => {
    if (value === told.current) return;
    told.current = value;
    setText(value);
  }, [value]);
  return (
    <label className="search-box">
      <Search size={15} aria-hidden="true" />
      <span className="visually-hidden">{label}</span>
      <input
        type="search"
        value={text}
        maxLength={256}
        placeholder={label}
        onChange={(event) => setText(event.target.value)}
      />
    </label>
  );
}

/** Returns the last value that stayed for half a second. */
export function useSettled(value: string): string {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), SETTLES_AFTER_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}
