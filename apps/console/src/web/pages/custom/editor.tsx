import { useMutation, useQuery } from '@tanstack/react-query';
import { CircleAlert, FlaskConical } from 'lucide-react';
import { useId, useState } from 'react';
import { api, client, codeOf, detailsOf, messageOf } from '../../api.ts';
import { useWho } from '../../session.tsx';
import { addDays, rangeText, today } from '../../time.ts';
import { useSettled } from '../../ui/field.tsx';
import { Button, Chip } from '../../ui/parts.tsx';
import { Dialog, Select, tell, useUnchanged } from '../../ui/popups.tsx';
import {
  COLUMNS,
  type Definition,
  type Draft,
  draftOf,
  EXAMPLES,
  KINDS,
  PREVIEW_DAYS,
  SOURCES,
  VISIBILITIES,
} from './definition.ts';
import { FormulaField } from './formula-field.tsx';
import { COST_TONES, Result } from './result.tsx';

/** Edits a definition: checks and prices it while the user types, tries it, and saves it as a new version. */
export function Editor({
  draft: given,
  onClose,
  onSaved,
}: {
  draft: Draft;
  onClose: () => void;
  onSaved: (id: string) => void;
}) {
  const [draft, setDraft] = useState(given);
  const change = (next: Partial<Draft>) => {
    setDraft({ ...draft, ...next });
    // The earlier check belongs to the earlier definition.
    if (save.error) save.reset();
    if (COMPUTED.some((field) => field in next)) preview.reset();
  };
  const id = useId();
  const range = { startDate: addDays(today(), 1 - PREVIEW_DAYS), endDate: today() };
  const fields = {
    metricType: draft.metricType,
    dataSource: draft.dataSource,
    calculationFormula: draft.formula,
    dimensions: draft.dimensions
      .split(/[\s,]+/)
      .map((name) => name.trim())
      .filter(Boolean),
  };
  const preview = useMutation({ mutationFn: () => client.custom.test.mutate({ ...fields, ...range }) });
  const assertUnchanged = useUnchanged(given.id === null ? null : given);
  const save = useMutation({
    mutationFn: async () => {
      const { name, description, visibility } = draft;
      const all = { ...fields, name: name.trim(), description: description.trim(), visibility };
      if (draft.id === null) {
        const { description: about, ...others } = all;
        return client.custom.create.mutate({ ...others, ...(about && { description: about }) });
      }
      const edited = (Object.keys(SENT) as (keyof typeof SENT)[]).filter((field) => draft[field] !== given[field]);
      assertUnchanged(draftOf((await client.custom.get.query({ id: draft.id })) as Definition), edited);
      const changed = Object.fromEntries(edited.map((field) => [SENT[field], all[SENT[field]]]));
      return client.custom.update.mutate({ id: draft.id, ...changed });
    },
    onSuccess: (saved) => {
      tell(draft.id === null ? 'Saved' : `Saved as version ${saved.version}`, saved.name);
      onSaved(saved.id);
    },
  });
  // Debounced: an answer about every letter would be late and costly.
  const settled = useSettled(JSON.stringify(fields));
  const estimate = useQuery({
    queryKey: ['custom-estimate', settled, range],
    queryFn: ({ signal }) =>
      client.custom.estimate.mutate({ ...(JSON.parse(settled) as typeof fields), ...range }, { signal }),
    enabled: (JSON.parse(settled) as typeof fields).calculationFormula.trim() !== '',
    retry: false,
  });
  const checked = settled === JSON.stringify(fields) && isOfFormula(estimate.error) ? estimate.error : null;
  const error = save.error ?? preview.error ?? checked;
  const who = useWho();
  const registered = useQuery(
    api.custom.sources.list.queryOptions(undefined, { enabled: who.mayPlatform('admin'), staleTime: 60_000 }),
  );
  const mayShare = (value: Draft['visibility']) =>
    value === 'PUBLIC' ? who.merchantId === null : value !== 'TEAM' || who.teamId !== null;
  const own = registered.data?.rows ?? [];
  const columns =
    own.find(({ name }) => name === draft.dataSource)?.columns.map(({ name }) => name) ??
    (draft.dataSource === 'events' ? COLUMNS.events : COLUMNS.usage);
  const sources = [...SOURCES, ...own.map(({ name, view }) => ({ value: name, label: name, note: view }))];
  return (
    <Dialog
      open
      wide
      onClose={onClose}
      title={draft.id === null ? 'New metric' : `Edit ${given.name}`}
      text="Saving makes a new version; old ones stay readable."
    >
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          save.mutate();
        }}
      >
        <div className="form-row">
          <div className="field">
            <label htmlFor={`${id}-name`}>Name</label>
            <input
              id={`${id}-name`}
              className="input"
              required
              maxLength={200}
              placeholder="Cost per user"
              value={draft.name}
              onChange={(event) => change({ name: event.target.value })}
            />
          </div>
          <div className="field">
            <label htmlFor={`${id}-about`}>Description</label>
            <input
              id={`${id}-about`}
              className="input"
              maxLength={2000}
              value={draft.description}
              onChange={(event) => change({ description: event.target.value })}
            />
          </div>
        </div>
        <div className="tools">
          <Select
            label="Kind"
            prefix="a"
            value={draft.metricType}
            options={KINDS}
            onChange={(metricType) => change({ metricType })}
          />
          <Select
            label="Source"
            prefix="of"
            value={draft.dataSource}
            options={sources}
            onChange={(dataSource) => change({ dataSource })}
          />
          <Select
            label="Seen by"
            prefix="seen by"
            value={draft.visibility}
            options={VISIBILITIES.filter(({ value }) => value === given.visibility || mayShare(value))}
            onChange={(visibility) => change({ visibility })}
          />
        </div>
        <div className="field">
          <label htmlFor={`${id}-formula`}>Formula</label>
          <FormulaField
            id={`${id}-formula`}
            value={draft.formula}
            columns={columns}
            placeholder={EXAMPLES[0]!.formula}
            invalid={isOfFormula(error)}
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
            {estimate.data && !checked && (
              <>
                <Chip tone={COST_TONES[estimate.data.cost]}>{estimate.data.cost} cost</Chip>{' '}
                {estimate.data.allowed
                  ? `estimated for the last ${PREVIEW_DAYS} days`
                  : 'too costly to be computed: filter it, or use a source of days'}
              </>
            )}
          </span>
        </div>
        <div className="field">
          <label htmlFor={`${id}-dimensions`}>Group by</label>
          <input
            id={`${id}-dimensions`}
            className="input formula"
            placeholder="model, user_id"
            value={draft.dimensions}
            onChange={(event) => change({ dimensions: event.target.value })}
          />
        </div>
        {error && <FormulaError error={error} formula={draft.formula} />}
        {preview.data && !preview.error && (
          <div className="card popup-pad">
            <small className="muted">{rangeText(range)}</small>
            <Result answer={preview.data} />
          </div>
        )}
        <div className="dialog-actions">
          <Button type="button" onClick={onClose}>
            Cancel
          </Button>
          <Button
            type="button"
            disabled={draft.formula.trim() === '' || preview.isPending}
            onClick={() => preview.mutate()}
          >
            <FlaskConical size={15} aria-hidden="true" />
            {preview.isPending ? 'Trying…' : 'Try it'}
          </Button>
          <Button kind="primary" type="submit" disabled={save.isPending}>
            Save
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** The fields of a draft, each with its name in a definition. */
const SENT = {
  name: 'name',
  description: 'description',
  metricType: 'metricType',
  dataSource: 'dataSource',
  formula: 'calculationFormula',
  dimensions: 'dimensions',
  visibility: 'visibility',
} as const;

/** The fields that change the result of a formula. */
const COMPUTED: readonly (keyof Draft)[] = ['formula', 'dimensions', 'dataSource', 'metricType'];

const isOfFormula = (error: unknown): boolean => (codeOf(error) ?? '').startsWith('FORMULA');

/** Shows an error of a formula, underlined at its position. */
function FormulaError({ error, formula }: { error: unknown; formula: string }) {
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
