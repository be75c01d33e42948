import { type ComponentProps, type ReactNode, useId } from 'react';

/** A labelled input of a form; `note` says what to write. */
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
