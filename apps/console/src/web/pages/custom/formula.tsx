import type { MetricCost } from '@tally/contracts';
import { CircleAlert } from 'lucide-react';
import { useId } from 'react';
import { codeOf, detailsOf, messageOf } from '../../api.ts';
import { Chip } from '../../ui/parts.tsx';
import { EXAMPLES, type Part, PREVIEW_DAYS } from './definition.ts';
import { FormulaField } from './formula-field.tsx';
import { COST_TONES } from './result.tsx';

/** Edits the formula of a draft, beside the columns it may name, examples, and what it would cost. */
export function Formula({
  draft,
  columns,
  invalid,
  estimate,
  change,
}: Part & {
  columns: readonly string[];
  invalid: boolean;
  estimate: { cost: MetricCost; allowed: boolean } | undefined;
}) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={`${id}-formula`}>Formula</label>
      <FormulaField
        id={`${id}-formula`}
        value={draft.formula}
        columns={columns}
        placeholder={EXAMPLES[0]!.formula}
        invalid={invalid}
        describedBy={`${id}-columns`}
        onChange={(formula) => change({ formula })}
      />
      <small id={`${id}-columns`}>
        Columns: <span className="mono">{columns.join(', ')}</span>
      </small>
      {draft.formula === '' && (
        <span className="tools">
          {EXAMPLES.map(({ name, metricType, formula }) => (
            <button
              key={name}
              type="button"
              className="link"
              title={formula}
              onClick={() => change({ formula, metricType })}
            >
              {name}
            </button>
          ))}
        </span>
      )}
      <span className="estimate" role="status">
        {estimate && (
          <>
            <Chip tone={COST_TONES[estimate.cost]}>{estimate.cost} cost</Chip>{' '}
            {estimate.allowed
              ? `estimated for the last ${PREVIEW_DAYS} days`
              : 'too costly to be computed: filter it, or use a source of days'}
          </>
        )}
      </span>
    </div>
  );
}

/** Returns true for an error about the text of a formula. */
export const isOfFormula = (error: unknown): boolean => (codeOf(error) ?? '').startsWith('FORMULA');

/** Shows an error of a formula, underlined at its position. */
export function FormulaError({ error, formula }: { error: unknown; formula: string }) {
  const { offset, allowed } = detailsOf(error) as { offset?: unknown; allowed?: unknown };
  const at = typeof offset === 'number' && offset < formula.length ? offset : null;
  const end = at === null ? 0 : at + (/^[\w.]+|^./.exec(formula.slice(at))?.[0].length ?? 1);
  return (
    // It changes as the user types, so it waits for a pause in what a screen reader reads.
    <div className="banner" data-tone="bad" role="status">
      <CircleAlert size={16} aria-hidden="true" />
      <div>
        {messageOf(error)}
        {at !== null && (
          <pre className="formula formula-error">
            {formula.slice(0, at)}
            <mark>{formula.slice(at, end)}</mark>
            {formula.slice(end)}
          </pre>
        )}
        {Array.isArray(allowed) && <div>Allowed: {allowed.join(', ')}</div>}
      </div>
    </div>
  );
}
