import type { Budget, BudgetFields, BudgetStatus } from '@tally/contracts';
import { keepPreviousData, useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Plus, Wallet } from 'lucide-react';
import { useState } from 'react';
import { client, queryClient } from '../api.ts';
import { format, type Kind } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { timeText } from '../time.ts';
import { Field, SearchBox, useDraft } from '../ui/field.tsx';
import { Answer, Banner, Button, Card, Chip, Empty, Num, PageHead, Skeleton } from '../ui/parts.tsx';
import { Confirm, FormDialog, Select, tell, tellFailure, useUnchanged } from '../ui/popups.tsx';
import { LoadMore, RowActions, Table } from '../ui/table.tsx';

const REFRESH_MS = 10_000;
/** The most of one call. */
const MAX_STATUS_IDS = 1_000;
const refresh = () => queryClient.invalidateQueries({ queryKey: ['budgets'] });
const kindOf = ({ measure }: Pick<Budget, 'measure'>): Kind => (measure === 'cost' ? 'money' : 'count');

/** Lists budgets with their spend, and sets them. */
export function Budgets() {
  const who = useWho();
  const isAdmin = who.may('admin');
  const [editing, setEditing] = useState<Budget | 'new' | null>(null);
  const [removing, setRemoving] = useState<Budget | null>(null);
  const { find } = useSearch({ from: '/frame/app/budgets' });
  const navigate = useNavigate({ from: '/app/budgets' });
  const list = useInfiniteQuery({
    queryKey: ['budgets', 'list', find],
    queryFn: ({ pageParam, signal }) =>
      client.budgets.list.query({ ...(find && { search: find }), ...(pageParam && { cursor: pageParam }) }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const rows = list.data?.pages.flatMap((page) => page.rows as Budget[]);
  const status = useStatus(rows ?? []);
  const remove = useMutation({
    mutationFn: ({ id }: Budget) => client.budgets.remove.mutate({ id }),
    onSuccess: async ({ name }) => {
      setRemoving(null);
      tell('Removed', name);
      await refresh();
    },
    onError: tellFailure,
  });
  const states = new Map(status.data?.map((row) => [row.budgetId, row]));
  const add = (
    <Button kind="primary" onClick={() => setEditing('new')}>
      <Plus size={16} aria-hidden="true" />
      New budget
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Budgets" note="Limits on usage. Recording never waits for them; only reservations are refused.">
        {isAdmin && add}
      </PageHead>
      {status.data?.some(({ complete }) => !complete) && (
        <Banner>
          Redis is unavailable or being rebuilt: reservations and usage that is not counted yet are missing below.
        </Banner>
      )}
      <Card
        title="All budgets"
        note="oldest first"
        tools={
          <SearchBox
            label="Search budgets"
            value={find ?? ''}
            onChange={(text) => void navigate({ search: text ? { find: text } : {}, replace: true })}
          />
        }
        flush
      >
        <Answer query={{ ...list, data: rows }}>
          {(all) =>
            all.length === 0 && find ? (
              <Empty title={`No budget with “${find}”`}>
                The search looks in names, and in the merchants, teams, users, API keys and models of budgets.
              </Empty>
            ) : all.length === 0 ? (
              <Empty icon={Wallet} title="No budgets yet" tools={isAdmin ? add : undefined}>
                A budget limits cost, requests or tokens of a merchant, user, API key or model in a period. What was
                used before it was made counts.
              </Empty>
            ) : (
              <Table
                label="Budgets"
                rows={all}
                keyOf={({ id }) => id}
                columns={[
                  {
                    title: 'Budget',
                    cell: ({ name, scope }) => (
                      <span className="cell-name">
                        <span title={`${name}\n${scopeText(scope)}`}>
                          {name}
                          <small>{scopeText(scope)}</small>
                        </span>
                      </span>
                    ),
                  },
                  {
                    title: 'Spent',
                    cell: (budget) => (
                      <>
                        <Spent budget={budget} state={states.get(budget.id)} failed={status.isError} />
                        <Period budget={budget} state={states.get(budget.id)} />
                      </>
                    ),
                  },
                  {
                    title: 'Limit',
                    right: true,
                    cell: (budget) => (
                      <>
                        <Num value={budget.limit} kind={kindOf(budget)} />{' '}
                        <span className="muted">{budget.measure === 'cost' ? '' : budget.unit}</span>
                      </>
                    ),
                  },
                  {
                    title: 'Remaining',
                    right: true,
                    cell: (budget) => {
                      const state = states.get(budget.id);
                      return state ? <Num value={state.remaining} kind={kindOf(budget)} /> : '–';
                    },
                  },
                  {
                    title: 'Beyond it',
                    cell: ({ enforcement }) => (
                      <Chip tone={enforcement === 'hard' ? 'accent' : undefined}>
                        {enforcement === 'hard' ? 'refuses' : 'allows'}
                      </Chip>
                    ),
                  },
                  {
                    title: 'Alerts at',
                    cell: ({ thresholds }) => (
                      <span className="num thresholds">
                        {thresholds.map((percent) => `${percent}%`).join(', ') || '–'}
                      </span>
                    ),
                  },
                  isAdmin && {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (budget) => (
                      <RowActions
                        name={budget.name}
                        onChange={() => setEditing(budget)}
                        onRemove={() => setRemoving(budget)}
                      />
                    ),
                  },
                ]}
              >
                <LoadMore list={list}>{format(String(all.length), 'count')} shown</LoadMore>
              </Table>
            )
          }
        </Answer>
      </Card>
      {editing && (
        <Edit
          budget={editing === 'new' ? null : editing}
          bound={who.merchantId}
          onClose={() => setEditing(null)}
          onSaved={refresh}
        />
      )}
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title={`Remove ${removing?.name ?? ''}?`}
        text="It no longer refuses reservations. Recorded usage stays."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </div>
  );
}

/** Returns the status of these budgets only: an installation may have thousands. */
function useStatus(budgets: readonly Budget[]) {
  const ids = budgets.map(({ id }) => id);
  return useQuery({
    queryKey: ['budgets', 'status', ids],
    async queryFn({ signal }) {
      const all: BudgetStatus[] = [];
      for (let from = 0; from < ids.length; from += MAX_STATUS_IDS) {
        const some = ids.slice(from, from + MAX_STATUS_IDS);
        all.push(...((await client.budgets.status.query({ ids: some }, { signal })).rows as BudgetStatus[]));
      }
      return all;
    },
    enabled: ids.length > 0,
    refetchInterval: REFRESH_MS,
    placeholderData: keepPreviousData,
  });
}

const scopeText = ({ merchantId, team, userId, apiKey, model }: Budget['scope']): string =>
  [
    merchantId ?? 'all merchants',
    team && `team ${team}`,
    userId && `user ${userId}`,
    apiKey && `API key ${apiKey}`,
    model && `model ${model}`,
  ]
    .filter(Boolean)
    .join(' · ');

const WARN_PERCENT = 80;

/** Shows spend as a number and as a bar of the limit, with reserved amounts. */
function Spent({ budget, state, failed }: { budget: Budget; state: BudgetStatus | undefined; failed: boolean }) {
  if (!state) return failed ? <>–</> : <Skeleton width={160} height={20} />;
  const kind = kindOf(budget);
  const percent = state.percent ?? 100;
  const color = percent >= 100 ? 'var(--bad)' : percent >= WARN_PERCENT ? 'var(--warn)' : 'var(--accent)';
  return (
    <span className="spent">
      <span>
        <Num value={state.spent} kind={kind} />
        {state.reserved !== '0' && <small className="muted"> + {format(state.reserved, kind)} reserved</small>}
      </span>
      <span className="meter">
        <svg aria-hidden="true" preserveAspectRatio="none">
          <rect width="100%" height="4" rx="2" fill="var(--line)" />
          <rect width={`${Math.min(100, Math.max(0, percent))}%`} height="4" rx="2" fill={color} />
        </svg>
        <span>{state.percent === null ? '–' : `${state.percent}%`}</span>
      </span>
    </span>
  );
}

const aPeriod = (period: string) => `${period === 'hour' ? 'an' : 'a'} ${period}`;

function Period({ budget: { period, timeZone }, state }: { budget: Budget; state: BudgetStatus | undefined }) {
  if (period === 'total') return <small className="muted">in total</small>;
  const until = state?.periodEnd ? `Until ${timeText(state.periodEnd)}` : undefined;
  return (
    <small className="muted" title={until}>
      {aPeriod(period)}, {timeZone}
    </small>
  );
}

type Draft = {
  name: string;
  /** `meter`: the meter of that key. */
  measure: NonNullable<BudgetFields['measure']> | 'meter';
  meter: string;
  limit: string;
  period: BudgetFields['period'];
  timeZone: string;
  enforcement: BudgetFields['enforcement'];
  thresholds: string;
  merchantId: string;
  team: string;
  userId: string;
  apiKey: string;
  model: string;
};

const MEASURES = [
  { value: 'cost' as const, label: 'cost in USD' },
  { value: 'requests' as const, label: 'requests' },
  { value: 'tokens' as const, label: 'tokens' },
  { value: 'meter' as const, label: 'a meter' },
];
const PERIODS = (['hour', 'day', 'week', 'month'] as const).map((value) => ({ value, label: aPeriod(value) }));
const ENFORCEMENTS = [
  { value: 'soft' as const, label: 'allows more', note: 'alerts only' },
  { value: 'hard' as const, label: 'refuses', note: 'reservations beyond the limit' },
];

const draftOf = (budget: Budget | null, bound: string | null): Draft => ({
  name: budget?.name ?? '',
  measure: budget ? (budget.measure ?? 'meter') : 'cost',
  meter: budget?.meter ?? '',
  limit: budget?.limit ?? '',
  period: budget?.period ?? 'month',
  timeZone: budget?.timeZone ?? 'UTC',
  enforcement: budget?.enforcement ?? 'soft',
  thresholds: (budget?.thresholds ?? [80, 100]).join(', '),
  merchantId: budget?.scope.merchantId ?? bound ?? '',
  team: budget?.scope.team ?? '',
  userId: budget?.scope.userId ?? '',
  apiKey: budget?.scope.apiKey ?? '',
  model: budget?.scope.model ?? '',
});

/** Returns the fields that were edited: what another editor changed in the meantime stays. */
const changedOf = <Fields extends Partial<Budget>>(fields: Fields, before: Budget): Partial<Fields> =>
  Object.fromEntries(
    Object.entries(fields).filter(
      ([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name as keyof Budget]),
    ),
  ) as Partial<Fields>;

/** Creates a budget, or changes its limit, name, thresholds and enforcement. */
function Edit({
  budget,
  bound,
  onClose,
  onSaved,
}: {
  budget: Budget | null;
  bound: string | null;
  onClose: () => void;
  onSaved: () => Promise<unknown>;
}) {
  const { draft, of } = useDraft(draftOf(budget, bound));
  const assertUnchanged = useUnchanged(budget);
  const save = useMutation({
    mutationFn: async () => {
      const { limit, enforcement, measure, meter, period, timeZone } = draft;
      const thresholds = draft.thresholds
        .split(/[\s,%]+/)
        .filter(Boolean)
        .map(Number);
      const changeable = { limit, enforcement, thresholds, ...(draft.name && { name: draft.name }) };
      if (budget) {
        const { id } = budget;
        const changed = changedOf(changeable, budget);
        const stored = (await client.budgets.get.query({ id })) as Budget;
        assertUnchanged(stored, Object.keys(changed) as (keyof Budget)[]);
        return client.budgets.update.mutate({ id, ...changed });
      }
      const scope = Object.fromEntries(
        (['merchantId', 'team', 'userId', 'apiKey', 'model'] as const).flatMap((name) =>
          draft[name] ? [[name, draft[name]]] : [],
        ),
      );
      const measured = measure === 'meter' ? { meter } : { measure };
      return client.budgets.create.mutate({ ...changeable, scope, ...measured, period, timeZone });
    },
    onSuccess: async ({ name }) => {
      tell(budget ? 'Changed' : 'Created', name);
      onClose();
      await onSaved();
    },
  });
  return (
    <FormDialog
      wide
      onClose={onClose}
      title={budget ? `Change ${budget.name}` : 'New budget'}
      text={
        budget
          ? 'Whose usage it limits, what it measures and its period stay.'
          : 'It counts what was used in the running period from its beginning.'
      }
      save={save}
      action="Save"
      working="Saving…"
    >
      <div className="form-row">
        <Field label="Name" placeholder="Acme, monthly" {...of('name')} />
        <Field
          label="Limit"
          required
          inputMode="decimal"
          placeholder="50"
          note={budget?.unit ?? (draft.measure === 'cost' ? 'USD' : draft.measure)}
          {...of('limit')}
        />
        <Field label="Alerts at percent" placeholder="80, 100" {...of('thresholds')} />
      </div>
      <div className="tools">
        {!budget && (
          <>
            <Select label="Measure" prefix="Limits" {...of('measure')} options={MEASURES} />
            <Select
              label="Period"
              prefix="in"
              {...of('period')}
              options={[...PERIODS, { value: 'total' as const, label: 'total' }]}
            />
          </>
        )}
        <Select label="Enforcement" prefix="and beyond it" {...of('enforcement')} options={ENFORCEMENTS} />
      </div>
      {!budget && (
        <>
          {draft.measure === 'meter' && (
            <Field label="Key of the meter" required note="It adds up: SUM or COUNT" {...of('meter')} />
          )}
          <div className="form-row">
            <Field
              label="Merchant"
              readOnly={bound !== null}
              note="Empty: all merchants together"
              {...of('merchantId')}
            />
            <Field label="Team" note="Of the directory; empty: any" {...of('team')} />
            <Field label="User" note="Empty: any" {...of('userId')} />
          </div>
          <div className="form-row">
            <Field label="API key" note="Its alias in events; empty: any" {...of('apiKey')} />
            <Field label="Model" note="Empty: any" {...of('model')} />
            <Field label="Time zone" note="Where the period begins" {...of('timeZone')} />
          </div>
        </>
      )}
    </FormDialog>
  );
}
