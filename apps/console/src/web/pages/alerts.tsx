import type { Alert, AlertCondition, AlertKind, Budget } from '@tally/contracts';
import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { BellRing, Ellipsis, History as HistoryIcon, Pencil, Plus, ScanSearch, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { api, client, queryClient } from '../api.ts';
import { format } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { Checks, Field, SearchBox } from '../ui/field.tsx';
import {
  AdminsOnly,
  Answer,
  Banner,
  Button,
  Card,
  Chip,
  Clip,
  Empty,
  Moment,
  PageHead,
  Sentence,
} from '../ui/parts.tsx';
import { type Finder, Picker } from '../ui/picker.tsx';
import { Confirm, FormDialog, Menu, Select, tell, tellFailure, useUnchanged } from '../ui/popups.tsx';
import { LoadMore, Table, useParts } from '../ui/table.tsx';

const REFRESH_MS = 10_000;
const PAGE = 100;
/** The number of metrics to choose from; others are named by their id. */
const CHOICES = 200;
/** The most of one answer. */
const BUDGETS_AT_ONCE = 1_000;

const refresh = () => queryClient.invalidateQueries({ queryKey: [['alerts']] });

/** Lists alert rules and firings; creates, changes, tests and removes rules. */
export function Alerts() {
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const list = useQuery(api.alerts.list.queryOptions(undefined, { enabled: isAdmin }));
  const webhooks = useQuery(api.webhooks.list.queryOptions(undefined, { enabled: isAdmin }));
  const targets = useTargets(isAdmin);
  const navigate = useNavigate({ from: '/app/alerts' });
  const [editing, setEditing] = useState<Alert | 'new' | null>(null);
  const [removing, setRemoving] = useState<Alert | null>(null);
  const [find, setFind] = useState('');
  const found = (list.data?.rows ?? []).filter(({ name, target }) =>
    [name, target, targets.get(target)?.name ?? ''].some((text) => text.toLowerCase().includes(find.toLowerCase())),
  );
  const parts = useParts(found);
  const remove = useMutation({
    mutationFn: ({ id }: Alert) => client.alerts.remove.mutate({ id }),
    onSuccess: async ({ name }) => {
      setRemoving(null);
      tell('Removed', name);
      await refresh();
    },
    onError: tellFailure,
  });
  const check = useMutation({
    mutationFn: ({ id }: Alert) => client.alerts.test.query({ id }),
    onSuccess: ({ fires, value }, rule) =>
      tell(
        fires ? `${rule.name} would fire` : `${rule.name} would not fire`,
        `It measures ${value === null ? 'nothing' : valueText(value, unitOf(rule, targets))} now.`,
      ),
    onError: tellFailure,
  });
  if (!isAdmin) return <AdminsOnly title="Alerts" what="see alerts" />;
  const urls = new Map(webhooks.data?.rows.map(({ id, url }) => [id, url]));
  const add = (
    <Button kind="primary" onClick={() => setEditing('new')}>
      <Plus size={16} aria-hidden="true" />
      New alert
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Alerts" note="Rules that fire once per period, and what fired.">
        {add}
      </PageHead>
      {webhooks.data?.rows.length === 0 && (
        <Banner tone="info">
          Alerts are only listed below: nobody is notified until there is a <Link to="/app/webhooks">webhook</Link>.
        </Banner>
      )}
      <Card
        title="Rules"
        note="oldest first"
        tools={<SearchBox label="Search rules" value={find} onChange={setFind} />}
        flush
      >
        <Answer query={list}>
          {({ rows }) =>
            found.length === 0 && rows.length > 0 ? (
              <Empty title={`No rule with “${find}”`}>The search looks in names, and in what rules are on.</Empty>
            ) : rows.length === 0 ? (
              <Empty icon={BellRing} title="No alert rules yet" tools={add}>
                A rule fires when a budget or a custom metric passes a limit, or when a merchant falls silent.
                Thresholds of budgets need no rule.
              </Empty>
            ) : (
              <Table
                label="Alert rules"
                rows={parts.shown}
                keyOf={({ id }) => id}
                columns={[
                  { title: 'Name', cell: ({ name }) => <Clip>{name}</Clip> },
                  {
                    title: 'On',
                    cell: ({ on, target }) => (
                      <span className="cell-name">
                        <span className="clip" title={target}>
                          {targets.get(target)?.name ?? target}
                          <small>{kindText(on)}</small>
                        </span>
                      </span>
                    ),
                  },
                  { title: 'Fires', cell: ({ condition }) => conditionText(condition) },
                  {
                    title: 'Tells',
                    cell: ({ webhookIds }) =>
                      webhookIds.length === 0 ? (
                        <span className="muted">all webhooks</span>
                      ) : (
                        <Clip>{webhookIds.map((id) => urls.get(id) ?? id).join(', ')}</Clip>
                      ),
                  },
                  { title: 'Created', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
                  {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (alert) => (
                      <Menu
                        button={
                          <Button kind="plain" small icon aria-label={`Actions for ${alert.name}`}>
                            <Ellipsis size={16} aria-hidden="true" />
                          </Button>
                        }
                        actions={[
                          { label: 'Measure now', icon: <ScanSearch size={15} />, run: () => check.mutate(alert) },
                          {
                            label: 'What it fired',
                            icon: <HistoryIcon size={15} />,
                            run: () => void navigate({ search: { rule: alert.id } }),
                          },
                          { label: 'Change', icon: <Pencil size={15} />, run: () => setEditing(alert) },
                          { label: 'Remove', icon: <Trash2 size={15} />, run: () => setRemoving(alert) },
                        ]}
                      />
                    ),
                  },
                ]}
              >
                <LoadMore list={parts.list}>
                  {format(String(parts.shown.length), 'count')} shown of {format(String(found.length), 'count')}
                </LoadMore>
              </Table>
            )
          }
        </Answer>
      </Card>
      <Fired rules={list.data?.rows ?? []} targets={targets} />
      {editing && (
        <Edit
          alert={editing === 'new' ? null : editing}
          webhooks={(webhooks.data?.rows ?? []).map(({ id, url }) => ({ value: id, label: url }))}
          onClose={() => setEditing(null)}
        />
      )}
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title={`Remove ${removing?.name ?? ''}?`}
        text="It no longer fires. Its history stays."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </div>
  );
}

/** What a rule can be on: its name, and of a budget the metric that it limits. */
type Target = { name: string; measure?: string };

/** Every budget: rules name them by their ids. */
const budgetsQuery = {
  queryKey: ['budgets', 'all'],
  async queryFn({ signal }: { signal: AbortSignal }) {
    const all: Budget[] = [];
    for (let cursor: string | null | undefined; cursor !== null; ) {
      const page = await client.budgets.list.query({ limit: BUDGETS_AT_ONCE, ...(cursor && { cursor }) }, { signal });
      all.push(...(page.rows as Budget[]));
      cursor = page.nextCursor;
    }
    return all;
  },
} as const;

/** Returns budgets and custom metrics by their ids. */
function useTargets(enabled: boolean): ReadonlyMap<string, Target> {
  const budgets = useQuery({ ...budgetsQuery, enabled });
  const metrics = useQuery(api.custom.list.queryOptions({ limit: CHOICES }, { enabled }));
  return new Map(
    [
      ...(budgets.data ?? []).map(({ id, name, measure, unit }) => ({ id, name, measure: measure ?? unit })),
      ...((metrics.data?.rows ?? []) as (Target & { id: string })[]),
    ].map((target) => [target.id, target]),
  );
}

/** Returns what the values of a rule are: a metric, or minutes; undefined for plain numbers. */
const unitOf = ({ on, target }: Pick<Alert, 'on' | 'target'>, targets: ReadonlyMap<string, Target>) =>
  on === 'silence' ? 'minutes' : targets.get(target)?.measure;

const valueText = (value: string, unit: string | undefined) => {
  const text = format(value, unit === 'cost' ? 'money' : 'count');
  return unit === undefined || unit === 'cost' ? text : `${text} ${unit.replaceAll('_', ' ')}`;
};

function Fired({ rules, targets }: { rules: readonly Alert[]; targets: ReadonlyMap<string, Target> }) {
  const { rule } = useSearch({ from: '/frame/app/alerts' });
  const list = useInfiniteQuery({
    queryKey: [['alerts'], 'history', rule],
    queryFn: ({ pageParam, signal }) =>
      client.alerts.history.query(
        { ...(rule && { rule }), limit: PAGE, ...(pageParam && { cursor: pageParam }) },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    refetchInterval: REFRESH_MS,
  });
  const fired = list.data?.pages.flatMap(({ rows }) => rows);
  const ruleOf = (id: string) => rules.find((each) => each.id === id);
  const budgetOf = (id: string) => targets.get(id.replace('budget:', ''));
  const nameOf = (id: string) => ruleOf(id)?.name ?? budgetOf(id)?.name ?? 'a removed rule';
  const unitIn = (id: string) => {
    const found = ruleOf(id);
    return found ? unitOf(found, targets) : budgetOf(id)?.measure;
  };
  return (
    <Card
      title="What fired"
      note={rule ? `of ${nameOf(rule)}` : 'newest first'}
      flush
      tools={
        rule && (
          <Link to="/app/alerts" search={{}} className="button" data-small="">
            Of all rules
          </Link>
        )
      }
    >
      <Answer query={{ ...list, data: fired }}>
        {(rows) =>
          rows.length === 0 ? (
            <Empty icon={BellRing} title="Nothing has fired yet">
              Rules are checked every minute, thresholds of budgets every few seconds.
            </Empty>
          ) : (
            <Table
              label="What fired"
              rows={rows}
              keyOf={({ rule: of, periodStart, threshold }) => `${of} ${periodStart} ${threshold}`}
              columns={[
                { title: 'At', cell: ({ firedAt }) => <Moment time={firedAt} clock /> },
                { title: 'Rule', cell: ({ rule: of }) => <Clip>{nameOf(of)}</Clip> },
                { title: 'What happened', wrap: true, cell: ({ text }) => <Sentence text={text} /> },
                {
                  title: 'State',
                  cell: ({ event, resolvedAt }) =>
                    resolvedAt ? (
                      <>
                        <Chip tone="good">resolved</Chip> <Moment time={resolvedAt} clock />
                      </>
                    ) : (
                      <Chip tone={event === 'budget.threshold' ? 'accent' : 'warn'}>
                        {event === 'budget.threshold' ? 'threshold' : 'fired'}
                      </Chip>
                    ),
                },
                {
                  title: 'Value',
                  right: true,
                  cell: ({ rule: of, value }) => (
                    <span className="num">{value === null ? '–' : valueText(value, unitIn(of))}</span>
                  ),
                },
              ]}
            >
              <LoadMore list={list}>{format(String(rows.length), 'count')} shown</LoadMore>
            </Table>
          )
        }
      </Answer>
    </Card>
  );
}

const KINDS = [
  { value: 'budget', label: 'a budget' },
  { value: 'custom', label: 'a custom metric' },
  { value: 'meter', label: 'a meter' },
  { value: 'silence', label: 'silence of a merchant' },
  { value: 'rejections', label: 'rejections of a source' },
  { value: 'drift', label: 'drift' },
] as const satisfies readonly { value: AlertKind; label: string }[];
type Kind = (typeof KINDS)[number]['value'];

/** Shows a kind that this page does not know by its name. */
const kindText = (on: string) => KINDS.find(({ value }) => value === on)?.label ?? on;

const WORDS: Record<string, string> = { above: 'above', below: 'below', forecastAbove: 'forecast above' };

/** Describes a condition in words; writes fields that this page does not know unchanged. */
function conditionText({ percentOf, minutes, ...limits }: AlertCondition): string {
  const percent = percentOf ? '% of the limit' : '';
  return [
    ...Object.entries(limits).map(([name, value]) =>
      typeof value === 'string' && WORDS[name]
        ? `${WORDS[name]} ${format(value, 'count')}${percent}`
        : `${name} ${value}`,
    ),
    ...(minutes === undefined
      ? []
      : [`after ${format(String(minutes), 'count')} ${minutes === 1 ? 'minute' : 'minutes'} without an event`]),
  ].join(', ');
}

const LIMITS: Record<
  Exclude<Kind, 'silence'>,
  readonly { value: 'above' | 'below' | 'forecastAbove'; label: string }[]
> = {
  budget: [
    { value: 'above', label: 'spent above' },
    { value: 'forecastAbove', label: 'forecast above' },
  ],
  custom: [
    { value: 'above', label: 'above' },
    { value: 'below', label: 'below' },
  ],
  meter: [
    { value: 'above', label: 'above' },
    { value: 'below', label: 'below' },
  ],
  rejections: [{ value: 'above', label: 'more than' }],
  drift: [{ value: 'above', label: 'more numbers than' }],
};

/** Targets that are chosen. */
const TARGETS: Record<string, string> = { budget: 'Budget', custom: 'Custom metric' };

const findMetrics: Finder = {
  key: ['custom metrics'],
  async find(search, signal) {
    const { rows } = await client.custom.list.query({ search, limit: CHOICES }, { signal });
    return (rows as { id: string; name: string }[]).map(({ id, name }) => ({ value: id, label: name }));
  },
};

/** Targets that are written, not chosen: their label and an example. */
const WRITTEN: Partial<Record<Kind, { label: string; example: string }>> = {
  meter: { label: 'Meter', example: 'gpu_hours, or acme/gpu_hours' },
  silence: { label: 'Merchant', example: 'acme' },
  rejections: { label: 'Source', example: 'otlp' },
};

/** Creates a rule, or changes its name and webhooks; its subject and condition stay. */
function Edit({
  alert,
  webhooks,
  onClose,
}: {
  alert: Alert | null;
  webhooks: readonly { value: string; label: string }[];
  onClose: () => void;
}) {
  const [name, setName] = useState(alert?.name ?? '');
  const [told, setTold] = useState<readonly string[]>(alert?.webhookIds ?? []);
  const [on, setOn] = useState<Kind>('budget');
  const [target, setTarget] = useState('');
  const [limit, setLimit] = useState<'above' | 'below' | 'forecastAbove'>('above');
  const [amount, setAmount] = useState('');
  const [unit, setUnit] = useState<'limit' | 'amount'>('limit');
  const budgets = useQuery({ ...budgetsQuery, enabled: !alert && on === 'budget' });
  const metrics = useQuery(api.custom.list.queryOptions({ limit: CHOICES }, { enabled: !alert && on === 'custom' }));
  const targets = (((on === 'budget' ? budgets.data : metrics.data?.rows) ?? []) as { id: string; name: string }[]).map(
    (each) => ({ value: each.id, label: each.name }),
  );
  // Past the first page of metrics, a search finds the others.
  const more = on === 'custom' && metrics.data?.nextCursor ? findMetrics : undefined;
  const assertUnchanged = useUnchanged(alert);
  const save = useMutation({
    mutationFn: async () => {
      const webhookIds = [...told];
      if (alert) {
        const { id } = alert;
        // What another editor changed in the meantime stays.
        const changed = { ...(name !== alert.name && { name }), ...(told !== alert.webhookIds && { webhookIds }) };
        const stored = (await client.alerts.list.query()).rows.find((rule) => rule.id === id);
        assertUnchanged(stored, Object.keys(changed) as (keyof Alert)[]);
        return client.alerts.update.mutate({ id, ...changed });
      }
      const condition: AlertCondition =
        on === 'silence'
          ? { minutes: Number(amount) }
          : { [limit]: amount.trim(), ...(on === 'budget' && unit === 'limit' && { percentOf: 'limit' as const }) };
      const watched = on === 'drift' ? {} : { target: target.trim() };
      return client.alerts.create.mutate({ name, on, ...watched, condition, webhookIds });
    },
    onSuccess: async (made) => {
      tell(alert ? 'Changed' : 'Created', made.name);
      onClose();
      await refresh();
    },
  });
  return (
    <FormDialog
      wide
      onClose={onClose}
      title={alert ? `Change ${alert.name}` : 'New alert'}
      text={alert ? 'What it watches stays: make another rule for something else.' : 'It fires once per period.'}
      save={save}
      action="Save"
      working="Saving…"
      disabled={!alert && on !== 'drift' && target.trim() === ''}
    >
      <Field label="Name" required maxLength={100} placeholder="Acme is silent" value={name} onChange={setName} />
      {!alert && (
        <>
          <div className="tools">
            <Select
              label="Kind"
              prefix="On"
              value={on}
              options={KINDS}
              onChange={(next) => {
                setOn(next);
                setTarget('');
                setLimit('above');
              }}
            />
            {on !== 'drift' && !WRITTEN[on] && (
              <Picker
                label={TARGETS[on] ?? 'Target'}
                value={target}
                options={targets}
                beyond={more}
                waiting={(on === 'budget' ? budgets : metrics).isLoading}
                none={`No ${kindText(on).slice(2)} with this name.`}
                placeholder={`choose ${kindText(on)}`}
                onChange={setTarget}
              />
            )}
            {on !== 'silence' && <Select label="Limit" value={limit} options={LIMITS[on]} onChange={setLimit} />}
            {on === 'budget' && (
              <Select
                label="Unit"
                prefix="in"
                value={unit}
                options={[
                  { value: 'limit' as const, label: 'percent of its limit' },
                  { value: 'amount' as const, label: 'what it measures' },
                ]}
                onChange={setUnit}
              />
            )}
          </div>
          <div className="form-row">
            {WRITTEN[on] && (
              <Field
                label={WRITTEN[on].label}
                required
                placeholder={WRITTEN[on].example}
                value={target}
                onChange={setTarget}
              />
            )}
            <Field
              label={on === 'silence' ? 'Minutes without an event' : 'Value'}
              required
              inputMode={on === 'silence' ? 'numeric' : 'decimal'}
              placeholder={on === 'silence' ? '60' : on === 'budget' && unit === 'limit' ? '80' : '1000'}
              value={amount}
              onChange={setAmount}
            />
          </div>
        </>
      )}
      {webhooks.length > 0 && (
        <Checks
          label="Tells"
          note="None chosen: every webhook that takes alerts"
          options={webhooks}
          values={told}
          onChange={setTold}
        />
      )}
    </FormDialog>
  );
}
