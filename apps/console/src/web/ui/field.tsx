import { type ComponentProps, type ReactNode, useId } from 'react';

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
