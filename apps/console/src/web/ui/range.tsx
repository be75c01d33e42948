import { CalendarDays } from 'lucide-react';
import { useId, useState } from 'react';
import { PRESETS, type Range, rangeText } from '../time.ts';
import { Button } from './parts.tsx';
import { PopoverButton } from './popups.tsx';

/** Selects a range of days: one of the usual ones, or from and to. */
export function RangePicker({ range, onChange }: { range: Range; onChange: (range: Range) => void }) {
  const preset = PRESETS.find(({ range: make }) => {
    const { startDate, endDate } = make();
    return startDate === range.startDate && endDate === range.endDate;
  });
  return (
    <PopoverButton
      label="Range of days"
      button={
        <Button>
          <CalendarDays size={16} aria-hidden="true" />
          {preset?.label ?? rangeText(range)}
        </Button>
      }
    >
      {(close) => (
        <Choice
          range={range}
          onChange={(next) => {
            onChange(next);
            close();
          }}
        />
      )}
    </PopoverButton>
  );
}

function Choice({ range, onChange }: { range: Range; onChange: (range: Range) => void }) {
  const [from, setFrom] = useState(range.startDate);
  const [to, setTo] = useState(range.endDate);
  const id = useId();
  const wrong = from > to;
  return (
    <div className="range">
      <ul className="menu">
        {PRESETS.map((preset) => (
          <li key={preset.id}>
            <button type="button" className="menu-item menu-button" onClick={() => onChange(preset.range())}>
              {preset.label}
            </button>
          </li>
        ))}
      </ul>
      <form
        className="popup-pad form"
        onSubmit={(event) => {
          event.preventDefault();
          if (!wrong) onChange({ startDate: from, endDate: to });
        }}
      >
        <div className="field">
          <label htmlFor={`${id}-from`}>From</label>
          <input
            id={`${id}-from`}
            className="input"
            type="date"
            required
            value={from}
            onChange={(event) => setFrom(event.target.value)}
          />
        </div>
        <div className="field">
          <label htmlFor={`${id}-to`}>To, included</label>
          <input
            id={`${id}-to`}
            className="input"
            type="date"
            required
            value={to}
            aria-invalid={wrong}
            onChange={(event) => setTo(event.target.value)}
          />
          <small>{wrong ? 'The first day must not be after the last.' : 'Days of UTC.'}</small>
        </div>
        <Button kind="primary" type="submit" disabled={wrong}>
          Show
        </Button>
      </form>
    </div>
  );
}
