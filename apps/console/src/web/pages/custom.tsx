import { useMutation, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { FlaskConical, Pencil, Plus, Sigma, Trash2 } from 'lucide-react';
import { useId, useState } from 'react';
import { api, client, codeOf, detailsOf, messageOf, queryClient } from '../api.ts';
import { useWho } from '../session.tsx';
import { addDays, rangeText, today } from '../time.ts';
import { Answer, Banner, Button, Card, Chip, Empty, Moment, Num, PageHead, Skeleton } from '../ui/parts.tsx';
import { Confirm, Dialog, Select, tell, tellError } from '../ui/popups.tsx';
import { Table } from '../ui/table.tsx';
import { FormulaField } from './formula-field.tsx';

type Kind = 'COUNT' | 'SUM' | 'AVERAGE' | 'DISTINCT_COUNT' | 'PERCENTILE' | 'RATIO' | 'MAX' | 'MIN';
type Visibility = 'PRIVATE' | 'TEAM' | 'ORGANIZATION' | 'PUBLIC';

const SOURCES: readonly { value: string; label: string; note: string }[] = [
  { value: 'events', label: 'Events', note: 'every event the journal keeps' },
  { value: 'usage', label: 'Daily usage', note: 'sums by day, for years' },
  { value: 'daily_metrics', label: 'Daily rollups', note: 'with growth' },
  { value: 'weekly_metrics', label: 'Weekly rollups', note: 'with growth' },
  { value: 'monthly_metrics', label: 'Monthly rollups', note: 'with growth' },
];
const KINDS: readonly { value: Kind; label: string }[] = [
  { value: 'RATIO', label: 'Ratio' },
  { value: 'SUM', label: 'Sum' },
  { value: 'COUNT', label: 'Count' },
  { value: 'DISTINCT_COUNT', label: 'Distinct count' },
  { value: 'AVERAGE', label: 'Average' },
  { value: 'PERCENTILE', label: 'Percentile' },
  { value: 'MAX', label: 'Maximum' },
  { value: 'MIN', label: 'Minimum' },
];
const VISIBILITIES: readonly { value: Visibility; label: string; note: string }[] = [
  { value: 'PRIVATE', label: 'Only me', note: 'the key that made it' },
  { value: 'TEAM', label: 'My team', note: 'keys of the same team' },
  { value: 'ORGANIZATION', label: 'My merchant', note: 'keys of the same merchant' },
  { value: 'PUBLIC', label: 'Everyone', note: 'every key that may read' },
];
const visibilityText = (value: string) => VISIBILITIES.find((each) => each.value === value)?.label ?? value;

const COLUMNS = {
  events: [
    'time',
    'date',
    'merchant_id',
    'user_id',
    'api_key',
    'model',
    'provider',
    'status',
    'requests',
    'failed_requests',
    'prompt_tokens',
    'completion_tokens',
    'total_tokens',
    'cost',
    "metric('…')",
    "property('…')",
  ],
  usage: [
    'date',
    'merchant_id',
    'user_id',
    'api_key',
    'model',
    'provider',
    'requests',
    'failed_requests',
    'prompt_tokens',
    'completion_tokens',
    'total_tokens',
    'cost',
  ],
} as const;
const EXAMPLES = [
  'SUM(cost) / COUNT(DISTINCT user_id)',
  "COUNT(*) FILTER (WHERE status = 'failure')",
  'PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY total_tokens)',
];

const PREVIEW_DAYS = 7;

/** Lists custom metrics, shows their values and versions, and edits them. */
export function CustomMetrics() {
  const { id } = useSearch({ from: '/frame/app/custom-metrics' });
  const navigate = useNavigate({ from: '/app/custom-metrics' });
  const who = useWho();
  const list = useQuery(api.custom.list.queryOptions({ limit: 100 }));
  const [editing, setEditing] = useState<Draft | null>(null);
  const chosen = list.data?.rows.find((metric) => metric.id === id);

  return (
    <div className="stack">
      <PageHead title="Custom metrics" note="SQL expressions over usage, checked node by node and run read-only.">
        {who.may('define') && (
          <Button kind="primary" onClick={() => setEditing(EMPTY)}>
            <Plus size={16} aria-hidden="true" />
            New metric
          </Button>
        )}
      </PageHead>
      <Card flush>
        <Answer query={list}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty
                icon={Sigma}
                title="No custom metrics that you may see"
                tools={
                  who.may('define') ? (
                    <Button kind="primary" onClick={() => setEditing(EMPTY)}>
                      New metric
                    </Button>
                  ) : undefined
                }
              >
                {who.may('define')
                  ? 'Cost per user, failure rate, the 95th percentile of tokens: anything that a formula can say.'
                  : 'An analyst or admin can define them.'}
              </Empty>
            ) : (
              <Table
                label="Custom metrics"
                rows={rows}
                keyOf={(metric) => metric.id}
                columns={[
                  {
                    title: 'Name',
                    cell: (metric) => (
                      <button
                        type="button"
                        className="link"
                        onClick={() => void navigate({ search: { id: metric.id } })}
                      >
                        {metric.name}
                      </button>
                    ),
                  },
                  { title: 'Formula', mono: true, wrap: true, cell: (metric) => metric.calculationFormula },
                  {
                    title: 'From',
                    cell: ({ dataSource }) => SOURCES.find(({ value }) => value === dataSource)?.label ?? dataSource,
                  },
                  { title: 'Seen by', cell: ({ visibility }) => <Chip>{visibilityText(visibility)}</Chip> },
                  { title: 'Version', right: true, cell: ({ version }) => <span className="num">{version}</span> },
                  {
                    title: 'Changed',
                    cell: ({ updatedAt }) => (updatedAt ? <Moment time={updatedAt} ago /> : '–'),
                  },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      {chosen && (
        <Metric
          key={`${chosen.id} ${chosen.version}`}
          metric={chosen}
          onEdit={() => setEditing(draftOf(chosen))}
          onGone={() => void navigate({ search: {} })}
        />
      )}
      {editing && (
        <Editor
          draft={editing}
          onClose={() => setEditing(null)}
          onSaved={(saved) => {
            setEditing(null);
            void queryClient.invalidateQueries({ queryKey: [['custom']] });
            void navigate({ search: { id: saved } });
          }}
        />
      )}
    </div>
  );
}

type Definition = {
  id: string;
  name: string;
  description?: string | undefined;
  metricType: Kind;
  dataSource: string;
  calculationFormula: string;
  dimensions?: string[] | undefined;
  visibility: Visibility;
  version: number;
};

function Metric({ metric, onEdit, onGone }: { metric: Definition; onEdit: () => void; onGone: () => void }) {
  const who = useWho();
  const range = { startDate: addDays(today(), 1 - PREVIEW_DAYS), endDate: today() };
  const versions = useQuery(api.custom.versions.queryOptions({ id: metric.id }));
  const audit = useQuery(api.custom.audit.queryOptions({ id: metric.id, limit: 20 }, { retry: false }));
  const result = useQuery({
    queryKey: ['custom-result', metric.id, metric.version, range],
    queryFn: () => client.custom.calculate.mutate({ id: metric.id, ...range }),
    enabled: who.may('define'),
    retry: false,
  });
  const [removing, setRemoving] = useState(false);
  const remove = useMutation({
    mutationFn: () => client.custom.remove.mutate({ id: metric.id }),
    onSuccess: async () => {
      tell('Removed', metric.name);
      await queryClient.invalidateQueries({ queryKey: [['custom']] });
      onGone();
    },
    onError: (error) => tellError('That did not work', messageOf(error)),
  });
  return (
    <div className="wide-two">
      <Card
        title={metric.name}
        note={`version ${metric.version}`}
        tools={
          who.may('define') ? (
            <span className="tools">
              <Button small onClick={onEdit}>
                <Pencil size={14} aria-hidden="true" />
                Edit
              </Button>
              <Button small kind="danger" onClick={() => setRemoving(true)}>
                <Trash2 size={14} aria-hidden="true" />
                Remove
              </Button>
            </span>
          ) : undefined
        }
      >
        <div className="stack">
          {metric.description && <p className="muted">{metric.description}</p>}
          <pre className="code formula">{metric.calculationFormula}</pre>
          {who.may('define') && (
            <>
              <h3>{rangeText(range)}</h3>
              <Answer query={result} waiting={<Skeleton height={40} width={200} />}>
                {(answer) => <Result answer={answer} />}
              </Answer>
            </>
          )}
        </div>
      </Card>
      <div className="stack">
        <Card title="Versions" flush>
          <Answer query={versions}>
            {({ rows }) => (
              <ul className="series-list">
                {rows.map((version) => (
                  <li key={version.version}>
                    <span>
                      Version {version.version}
                      <small className="mono">{version.definition.calculationFormula}</small>
                    </span>
                    <Moment time={version.createdAt} ago />
                  </li>
                ))}
              </ul>
            )}
          </Answer>
        </Card>
        {audit.data && (
          <Card title="Audit" flush>
            <ul className="series-list">
              {audit.data.rows.map((entry) => (
                <li key={`${entry.at} ${entry.action} ${entry.callerId}`}>
                  <span>
                    {entry.action}
                    <small>
                      {entry.callerId} · {entry.outcome}
                    </small>
                  </span>
                  <Moment time={entry.at} ago />
                </li>
              ))}
            </ul>
          </Card>
        )}
      </div>
      <Confirm
        open={removing}
        onClose={() => setRemoving(false)}
        title={`Remove ${metric.name}?`}
        text="Its versions stay in the audit log; nobody can calculate it again."
        action="Remove"
        busy={remove.isPending}
        run={() => remove.mutate()}
      />
    </div>
  );
}

type Calculated = {
  value: string | null;
  rows: { dimensions: Record<string, string>; value: string | null }[];
  cost: string;
  durationMs: number;
};

function Result({ answer: { value, rows, cost, durationMs } }: { answer: Calculated }) {
  const grouped = rows.filter(({ dimensions }) => Object.keys(dimensions).length > 0);
  return (
    <div className="stack">
      <p>
        <span className="series-value">
          {value === null ? 'nothing to calculate from' : <Num value={value} kind="count" />}
        </span>{' '}
        <Chip tone={cost === 'low' ? 'good' : cost === 'medium' ? 'warn' : 'bad'}>{cost} cost</Chip>{' '}
        <span className="muted num">{Math.round(durationMs)} ms</span>
      </p>
      {grouped.length > 0 && (
        <table className="table">
          <tbody>
            {grouped.slice(0, 20).map((row) => (
              <tr key={JSON.stringify(row.dimensions)}>
                <th scope="row">{Object.values(row.dimensions).join(' · ')}</th>
                <td className="right">{row.value === null ? '–' : <Num value={row.value} kind="count" />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}

type Draft = {
  id: string | null;
  name: string;
  description: string;
  metricType: Kind;
  dataSource: string;
  formula: string;
  dimensions: string;
  visibility: Visibility;
};
const EMPTY: Draft = {
  id: null,
  name: '',
  description: '',
  metricType: 'RATIO',
  dataSource: 'events',
  formula: '',
  dimensions: '',
  visibility: 'PRIVATE',
};
const draftOf = (metric: Definition): Draft => ({
  id: metric.id,
  name: metric.name,
  description: metric.description ?? '',
  metricType: metric.metricType,
  dataSource: metric.dataSource,
  formula: metric.calculationFormula,
  dimensions: (metric.dimensions ?? []).join(', '),
  visibility: metric.visibility,
});

function Editor({
  draft: given,
  onClose,
  onSaved,
}: {
  draft: Draft;
  onClose: () => void;
  onSaved: (id: string) => void;
}) {
  const [draft, setDraft] = useState(given);
  const change = (next: Partial<Draft>) => setDraft({ ...draft, ...next });
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
  const save = useMutation({
    mutationFn: async () => {
      const all = {
        ...fields,
        name: draft.name.trim(),
        visibility: draft.visibility,
        ...(draft.description.trim() && { description: draft.description.trim() }),
      };
      return draft.id === null
        ? client.custom.create.mutate(all)
        : client.custom.update.mutate({ id: draft.id, ...all });
    },
    onSuccess: (saved) => {
      tell(draft.id === null ? 'Saved' : `Saved as version ${saved.version}`, saved.name);
      onSaved(saved.id);
    },
  });
  const error = save.error ?? preview.error;
  const who = useWho();
  const registered = useQuery(
    api.custom.sources.list.queryOptions(undefined, { enabled: who.mayPlatform('admin'), staleTime: 60_000 }),
  );
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
            options={VISIBILITIES}
            onChange={(visibility) => change({ visibility })}
          />
        </div>
        <div className="field">
          <label htmlFor={`${id}-formula`}>Formula</label>
          <FormulaField
            id={`${id}-formula`}
            value={draft.formula}
            columns={columns}
            placeholder={EXAMPLES[0]}
            invalid={error !== null && (codeOf(error) ?? '').startsWith('FORMULA')}
            describedBy={`${id}-columns`}
            onChange={(formula) => change({ formula })}
          />
          <small id={`${id}-columns`}>
            Columns: <span className="mono">{columns.join(', ')}</span>
          </small>
          {draft.formula === '' && (
            <span className="tools">
              {EXAMPLES.map((example) => (
                <button key={example} type="button" className="link mono" onClick={() => change({ formula: example })}>
                  {example}
                </button>
              ))}
            </span>
          )}
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

/** Shows an error of a formula, underlined at its offset. */
function FormulaError({ error, formula }: { error: unknown; formula: string }) {
  const { offset, allowed } = detailsOf(error) as { offset?: unknown; allowed?: unknown };
  const at = typeof offset === 'number' && offset < formula.length ? offset : null;
  const end = at === null ? 0 : at + (/^[\w.]+|^./.exec(formula.slice(at))?.[0].length ?? 1);
  return (
    <Banner tone="bad">
      {messageOf(error)}
      {at !== null && (
        <pre className="formula formula-error">
          {formula.slice(0, at)}
          <mark>{formula.slice(at, end)}</mark>
          {formula.slice(end)}
        </pre>
      )}
      {Array.isArray(allowed) && <div>Allowed: {allowed.join(', ')}</div>}
    </Banner>
  );
}
