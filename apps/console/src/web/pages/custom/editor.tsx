import { useMutation, useQuery } from '@tanstack/react-query';
import { FlaskConical } from 'lucide-react';
import { api, client } from '../../api.ts';
import { useWho } from '../../session.tsx';
import { addDays, rangeText, today } from '../../time.ts';
import { Field, useDraft, useSettled } from '../../ui/field.tsx';
import { Button } from '../../ui/parts.tsx';
import { Dialog, Select, tell, useUnchanged } from '../../ui/popups.tsx';
import {
  COLUMNS,
  type Definition,
  type Draft,
  draftOf,
  KINDS,
  type Part,
  PREVIEW_DAYS,
  SOURCES,
  VISIBILITIES,
} from './definition.ts';
import { Formula, FormulaError, isOfFormula } from './formula.tsx';
import { Result } from './result.tsx';

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
  const { draft, change: edit } = useDraft(given);
  const change = (next: Partial<Draft>) => {
    edit(next);
    // The earlier check belongs to the earlier definition.
    if (save.error) save.reset();
    if (COMPUTED.some((field) => field in next)) preview.reset();
  };
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
  const { sources, columns } = useSources(draft.dataSource);
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
          <Field
            label="Name"
            required
            maxLength={200}
            placeholder="Cost per user"
            value={draft.name}
            onChange={(name) => change({ name })}
          />
          <Field
            label="Description"
            maxLength={2000}
            value={draft.description}
            onChange={(description) => change({ description })}
          />
        </div>
        <Choices {...{ given, draft, sources, change }} />
        <Formula
          {...{ draft, columns, change }}
          invalid={isOfFormula(error)}
          estimate={checked ? undefined : estimate.data}
        />
        <Field
          label="Group by"
          mono
          placeholder="model, user_id"
          value={draft.dimensions}
          onChange={(dimensions) => change({ dimensions })}
        />
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

/** Chooses what a definition computes, from what, and who may see it. */
function Choices({ given, draft, change, sources }: Part & { given: Draft; sources: typeof SOURCES }) {
  const who = useWho();
  const mayShare = (value: Draft['visibility']) =>
    value === 'PUBLIC' ? who.merchantId === null : value !== 'TEAM' || who.teamId !== null;
  return (
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
  );
}

/** Returns all sources, and the columns of the chosen one. */
function useSources(chosen: string) {
  const isAdmin = useWho().mayPlatform('admin');
  const registered = useQuery(api.custom.sources.list.queryOptions(undefined, { enabled: isAdmin, staleTime: 60_000 }));
  const own = registered.data?.rows ?? [];
  return {
    sources: [...SOURCES, ...own.map(({ name, view }) => ({ value: name, label: name, note: view }))],
    columns:
      own.find(({ name }) => name === chosen)?.columns.map(({ name }) => name) ??
      (chosen === 'events' ? COLUMNS.events : COLUMNS.usage),
  };
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
