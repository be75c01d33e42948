import { useId, useLayoutEffect, useRef, useState } from 'react';
import { type Completions, complete, completionsOf } from '../../completion.ts';

const NOTHING: Completions = { start: 0, options: [] };

/** A field for formulas that completes columns and functions while the user types. */
export function FormulaField({
  id,
  value,
  columns,
  placeholder,
  invalid,
  describedBy,
  onChange,
}: {
  id: string;
  value: string;
  columns: readonly string[];
  placeholder: string | undefined;
  invalid: boolean;
  describedBy: string;
  onChange: (value: string) => void;
}) {
  const field = useRef<HTMLTextAreaElement>(null);
  const caretAfter = useRef<number | null>(null);
  const listId = useId();
  const [found, setFound] = useState(NOTHING);
  const [chosen, setChosen] = useState(0);
  const { start, options } = found;
  const isOpen = options.length > 0;

  const take = (index: number) => {
    const caret = field.current?.selectionStart ?? value.length;
    const next = complete(value, caret, start, options[index]!.word);
    setFound(NOTHING);
    caretAfter.current = next.caret;
    onChange(next.formula);
  };
  // As soon as the new text is in the field: the next key must not find the caret elsewhere.
  useLayoutEffect(() => {
    if (caretAfter.current === null || field.current?.value !== value) return;
    field.current.focus();
    field.current.setSelectionRange(caretAfter.current, caretAfter.current);
    caretAfter.current = null;
  }, [value]);

  return (
    <div className="completing">
      <textarea
        ref={field}
        id={id}
        className="input formula"
        required
        spellCheck={false}
        maxLength={2000}
        placeholder={placeholder}
        value={value}
        aria-invalid={invalid}
        aria-describedby={describedBy}
        aria-autocomplete="list"
        aria-controls={isOpen ? listId : undefined}
        aria-activedescendant={isOpen ? `${listId}-${chosen}` : undefined}
        onChange={({ target }) => {
          onChange(target.value);
          setFound(completionsOf(target.value, target.selectionStart, columns));
          setChosen(0);
        }}
        onBlur={() => setFound(NOTHING)}
        onKeyDown={(event) => {
          if (!isOpen) return;
          if (event.key === 'ArrowDown') setChosen((chosen + 1) % options.length);
          else if (event.key === 'ArrowUp') setChosen((chosen + options.length - 1) % options.length);
          else if (event.key === 'Enter' || event.key === 'Tab') take(chosen);
          else if (event.key === 'Escape') setFound(NOTHING);
          else return;
          event.preventDefault();
          // Escape closes the list, not the dialog around it.
          event.stopPropagation();
        }}
      />
      {isOpen && (
        <div className="popup menu completions" id={listId} role="listbox" aria-label="Completions">
          {options.map(({ word, about }, index) => (
            <div
              key={word}
              id={`${listId}-${index}`}
              role="option"
              tabIndex={-1}
              aria-selected={index === chosen}
              data-highlighted={index === chosen ? '' : undefined}
              className="menu-item"
              // Before the field loses the focus.
              onPointerDown={(event) => {
                event.preventDefault();
                take(index);
              }}
            >
              <span className="grow mono">{word}</span>
              <small>{about}</small>
            </div>
          ))}
        </div>
      )}
    </div>
  );
}
