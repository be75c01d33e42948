import type { IdConflict } from '@tally/contracts';
import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { CircleCheck, RotateCcw } from 'lucide-react';
import { api, client } from '../../api.ts';
import { healthQuery, type ServiceHealth } from '../../frame.tsx';
import { kindOfMetric, labelOfMetric } from '../../measures.ts';
import { format } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { addDays, dayText, rangeText, today } from '../../time.ts';
import { Answer, Banner, Button, Card, Chip, Empty, Moment, PageHead, Skeleton } from '../../ui/parts.tsx';
import { tell, tellError, tellFailure } from '../../ui/popups.tsx';
import { LoadMore, Table } from '../../ui/table.tsx';
import { Agreement } from './agreement.tsx';

const ROLES: Record<string, string> = {
  'usage-ingest': 'accepts and counts usage',
  'analytics-api': 'answers questions',
  'metrics-engine': 'jobs, realtime and custom metrics',
  console: 'this page, and one address for all services',
};
const CONFLICT_DAYS = 30;

/** Shows the state of services and stores, whether all stored forms agree, and events that were not counted. */
export function Health() {
  const who = useWho();
  const health = useQuery(healthQuery);
  return (
    <div className="stack">
      <PageHead title="Health" note="The state of every service, and whether all numbers agree." />
      <Answer query={health} waiting={<Skeleton height={130} />}>
        {({ services, version }) => (
          <div className="checks">
            {Object.entries({ ...services, console: { ok: true, version } as ServiceState }).map(([name, state]) => (
              <section className="card check-card" key={name} aria-label={name}>
                <h2>
                  <span className="dot" data-tone={state.ok ? (state.degraded ? 'warn' : 'good') : 'bad'} />
                  {name}
                  <Chip tone={state.ok ? (state.degraded ? 'warn' : 'good') : 'bad'}>
                    {state.ok ? (state.degraded ? 'degraded' : 'ready') : 'down'}
                  </Chip>
                </h2>
                <span className="muted">{ROLES[name]}</span>
                <ul>
                  {factsOf(state).map((fact) => (
                    <li key={fact}>{fact}</li>
                  ))}
                </ul>
              </section>
            ))}
          </div>
        )}
      </Answer>
      {who.may('admin') && <Agreement platform={who.merchantId === null} />}
      {who.may('admin') && <DeadLetters />}
      <IdConflicts />
    </div>
  );
}

type ServiceState = ServiceHealth['services'][string];

function factsOf(state: ServiceState): string[] {
  const store = (name: string, title: string) =>
    state[name] === undefined ? [] : [state[name] ? `${title} answers` : `${title} does not answer`];
  const { durability } = state as { durability?: { level?: string; notes?: string[] } };
  return [
    ...(state.version ? [`version ${state.version}`] : []),
    ...store('postgres', 'Postgres'),
    ...store('redis', 'Redis'),
    ...(durability?.level ? [DURABILITY[durability.level] ?? `durability: ${durability.level}`] : []),
    ...(durability?.notes ?? []),
    ...(state.notes ?? []),
  ];
}

const DURABILITY: Record<string, string> = {
  always: 'Redis syncs every write before it is acknowledged',
  everysec: 'Redis syncs once a second: a crash may lose the last second',
  snapshot: 'Redis writes to disk now and then: a crash may lose minutes',
  none: 'Redis keeps nothing on disk: a crash may lose what is not counted yet',
};

function DeadLetters() {
  const list = useQuery(api.deadLetters.list.queryOptions({}));
  const retry = useMutation({
    mutationFn: (ids: string[]) => client.deadLetters.retry.mutate({ ids }),
    onSuccess: async ({ counted, stillRefused }) => {
      if (stillRefused.length > 0) tellError('Still rejected', stillRefused[0]!.message);
      else tell('Counted', `${counted} events`);
      await list.refetch();
    },
    onError: tellFailure,
  });
  return (
    <Card title="Dead letters" note="events that Postgres rejected because of their content" flush>
      <Answer query={list}>
        {({ rows }) =>
          rows.length === 0 ? (
            <Empty icon={CircleCheck} title="None">
              Every accepted event was counted. One that cannot be shows up here with its reason, and can be tried
              again.
            </Empty>
          ) : (
            <Table
              label="Dead letters"
              rows={rows}
              keyOf={({ id }) => id}
              columns={[
                { title: 'Event', mono: true, cell: ({ entryId }) => entryId },
                { title: 'Merchant', cell: ({ merchantId }) => merchantId },
                { title: 'Day', cell: ({ date }) => dayText(date) },
                { title: 'Why', wrap: true, cell: ({ message }) => message },
                { title: 'Since', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
                {
                  title: 'Actions',
                  untitled: true,
                  right: true,
                  cell: ({ id }) => (
                    <Button small disabled={retry.isPending} onClick={() => retry.mutate([id])}>
                      <RotateCcw size={14} aria-hidden="true" />
                      Try again
                    </Button>
                  ),
                },
              ]}
            />
          )
        }
      </Answer>
    </Card>
  );
}

/** Events that were not counted since another one has their id: a producer that reuses ids loses usage. */
function IdConflicts() {
  const range = { startDate: addDays(today(), 1 - CONFLICT_DAYS), endDate: today() };
  const list = useInfiniteQuery({
    queryKey: ['conflicts', range],
    queryFn: ({ pageParam, signal }) =>
      client.usage.conflicts.query({ ...range, ...(pageParam && { cursor: pageParam }) }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const rows = list.data?.pages.flatMap((page) => page.rows as IdConflict[]);
  return (
    <Card title="Conflicts" note={`not counted: another event has their id, ${rangeText(range)}`} flush>
      {list.data?.pages.some(({ complete }) => !complete) && (
        <Banner>Some events are not counted yet, so this list may lack some.</Banner>
      )}
      <Answer query={{ ...list, data: rows }}>
        {(all) =>
          all.length === 0 ? (
            <Empty icon={CircleCheck} title="None">
              An event with the id of another one, but with other content, is not counted and shows up here. A retry
              with the same content is no conflict.
            </Empty>
          ) : (
            <Table
              label="Conflicts"
              tall
              rows={all}
              keyOf={({ merchantId, date, id, notCounted }) =>
                JSON.stringify([merchantId, date, id, notCounted.digest])
              }
              columns={[
                { title: 'Event', mono: true, cell: ({ id }) => id },
                { title: 'Merchant', cell: ({ merchantId }) => merchantId },
                {
                  title: 'Counted',
                  cell: ({ merchantId, date, counted }) => (
                    <Link
                      to="/app/explain"
                      search={{ metric: 'requests', from: date, to: date, merchants: [merchantId] }}
                      preload={false}
                      title="Explain the requests of this day"
                    >
                      <Moment time={counted.time} />
                    </Link>
                  ),
                },
                { title: 'Not counted', cell: ({ notCounted }) => <Moment time={notCounted.time} /> },
                {
                  title: 'What it had',
                  wrap: true,
                  cell: ({ notCounted: { entry } }) =>
                    [
                      ...Object.entries(entry.metrics).map(
                        ([type, value]) => `${labelOfMetric(type)} ${format(value, kindOfMetric(type))}`,
                      ),
                      ...[entry.userId, entry.model].filter((name) => name !== null),
                    ].join(', '),
                },
                { title: 'Came', cell: ({ recordedAt }) => <Moment time={recordedAt} ago /> },
              ]}
            >
              <LoadMore list={list}>{format(String(all.length), 'count')} shown</LoadMore>
            </Table>
          )
        }
      </Answer>
    </Card>
  );
}
