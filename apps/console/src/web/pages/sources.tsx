import { useMutation, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { CircleCheck, Import, RefreshCw } from 'lucide-react';
import { api, client } from '../api.ts';
import { format, type Kind } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { dayText } from '../time.ts';
import { AdminsOnly, Answer, Button, Card, Chip, Empty, Moment, PageHead } from '../ui/parts.tsx';
import { tell, tellFailure } from '../ui/popups.tsx';
import { numbers, Table } from '../ui/table.tsx';

const REFRESH_MS = 10_000;
const REJECTIONS = 100;
const NAMES: Record<string, string> = {
  cloudevents: 'CloudEvents',
  langfuse: 'Langfuse',
  litellm: 'LiteLLM',
  openmeter: 'OpenMeter',
  otlp: 'OpenTelemetry',
};
/** `litellm.logs` is a part of LiteLLM: its name is "LiteLLM logs". */
function nameOf(source: string): string {
  const [product = '', ...parts] = source.split('.');
  return [NAMES[product] ?? product.replace(/^./, (first) => first.toUpperCase()), ...parts].join(' ');
}

/** Shows the sources of usage, their counts, and rejections with reasons. */
export function Sources() {
  const { source } = useSearch({ from: '/frame/app/sources' });
  const navigate = useNavigate({ from: '/app/sources' });
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const status = useQuery(
    api.sources.status.queryOptions(undefined, { enabled: isAdmin, refetchInterval: REFRESH_MS }),
  );
  const rejections = useQuery(
    api.sources.rejections.queryOptions(
      { limit: REJECTIONS, ...(source && { source }) },
      { enabled: isAdmin, refetchInterval: REFRESH_MS },
    ),
  );
  if (!isAdmin) return <AdminsOnly title="Sources" what="see sources" />;
  const count = (value: number) => format(String(value), 'count');
  return (
    <div className="stack">
      <PageHead
        title="Sources"
        note="Other products that send usage in their own formats. Events sent to usage.record are not listed."
      />
      <Card title="What was sent" note="since each was first seen" flush>
        <Answer query={status}>
          {({ sources }) =>
            sources.length === 0 ? (
              <Empty icon={Import} title="No source has sent anything">
                Tally takes usage from other programs at <code>/sources/…</code> with a key that may record. Each shows
                up here with its first request; the <a href="/docs?search=/sources">API page</a> lists the paths.
              </Empty>
            ) : (
              <Table
                label="Sources"
                rows={sources}
                keyOf={({ source: name }) => name}
                columns={[
                  {
                    title: 'Source',
                    cell: ({ source: name }) => (
                      <button
                        type="button"
                        className="link"
                        title="Show its rejections"
                        onClick={() =>
                          void navigate({ search: name === source ? {} : { source: name }, replace: true })
                        }
                      >
                        {nameOf(name)}
                      </button>
                    ),
                  },
                  numbers('Received', sources, ({ received }) => String(received)),
                  numbers('Accepted', sources, ({ accepted }) => String(accepted)),
                  numbers('Duplicates', sources, ({ duplicates }) => String(duplicates)),
                  {
                    title: 'Rejected',
                    right: true,
                    cell: ({ rejected }) => (
                      <span className="num" data-bad={rejected > 0 ? '' : undefined}>
                        {count(rejected)}
                      </span>
                    ),
                  },
                  numbers('No usage', sources, ({ skipped }) => String(skipped)),
                  { title: 'Last seen', cell: ({ lastSeenAt }) => <Moment time={lastSeenAt} ago /> },
                  { title: 'First seen', cell: ({ firstSeenAt }) => <Moment time={firstSeenAt} /> },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      <Card
        title="Rejections"
        note={source ? `of ${nameOf(source)}, newest first` : 'newest first'}
        tools={
          source && (
            <Button small onClick={() => void navigate({ search: {}, replace: true })}>
              Of all sources
            </Button>
          )
        }
        flush
      >
        <Answer query={rejections}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty icon={CircleCheck} title="Nothing was rejected">
                An event that cannot be counted shows up here with its reason. The newest {REJECTIONS} of each source
                are kept.
              </Empty>
            ) : (
              <Table
                label="Rejections"
                tall
                rows={rows.map((row, index) => ({ ...row, index }))}
                keyOf={({ index }) => String(index)}
                columns={[
                  { title: 'When', cell: ({ at }) => <Moment time={at} ago /> },
                  { title: 'Source', cell: ({ source: name }) => nameOf(name) },
                  { title: 'Event', mono: true, cell: ({ eventId }) => eventId ?? '–' },
                  { title: 'Merchant', cell: ({ merchantId }) => merchantId ?? '–' },
                  { title: 'Code', cell: ({ code }) => <Chip tone="bad">{code}</Chip> },
                  { title: 'Why', wrap: true, cell: ({ message }) => message },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      <Litellm />
    </div>
  );
}

const COMPARED = [
  ['requests', 'Requests', 'count'],
  ['cost', 'Cost', 'money'],
] as const satisfies readonly [string, string, Kind][];

/** Shows pulls from LiteLLM and days whose sums differ from its own; nothing if no pull is configured. */
function Litellm() {
  const status = useQuery(api.litellm.status.queryOptions(undefined, { refetchInterval: REFRESH_MS }));
  const pull = useMutation({
    mutationFn: () => client.litellm.pull.mutate({}),
    onSuccess: async ({ accepted, duplicates, status: state }) => {
      tell(
        state === 'RUNNING' ? 'Still pulling' : 'Pulled',
        `${accepted} new calls, ${duplicates} that were recorded before`,
      );
      await status.refetch();
    },
    onError: tellFailure,
  });
  const { data } = status;
  if (!data?.configured) return null;
  const differing = data.days.filter(({ differs }) => differs === true);
  return (
    <Card
      title="Pulls from LiteLLM"
      note={data.intervalMs ? `every ${Math.round(data.intervalMs / 1000)} s` : 'by hand only'}
      tools={
        <Button small disabled={pull.isPending} onClick={() => pull.mutate()}>
          <RefreshCw size={14} aria-hidden="true" />
          {pull.isPending ? 'Pulling…' : 'Pull now'}
        </Button>
      }
      flush
    >
      {differing.length > 0 && (
        <Table
          label="Days that differ from LiteLLM"
          rows={differing}
          keyOf={({ date }) => date}
          columns={[
            { title: 'Day that differs', cell: ({ date }) => dayText(date) },
            ...COMPARED.flatMap(([id, name, kind]) => [
              numbers<(typeof differing)[number]>(`${name} seen`, differing, ({ seen }) => seen?.[id] ?? null, kind),
              numbers<(typeof differing)[number]>(
                `${name} of LiteLLM`,
                differing,
                ({ reported }) => reported?.[id] ?? null,
                kind,
              ),
            ]),
          ]}
        />
      )}
      <Table
        label="Pulls"
        tall
        rows={data.pulls}
        keyOf={({ id }) => id}
        columns={[
          { title: 'Begun', cell: ({ startedAt }) => <Moment time={startedAt} ago /> },
          { title: 'Kind', cell: ({ kind }) => kind },
          {
            title: 'State',
            cell: ({ status: state, percent }) => (
              <Chip tone={state === 'FAILED' ? 'bad' : state === 'COMPLETED' ? 'good' : undefined}>
                {state === 'RUNNING' ? `${Math.round(percent)}%` : state.toLowerCase()}
              </Chip>
            ),
          },
          numbers('Calls', data.pulls, ({ calls }) => String(calls)),
          numbers('New', data.pulls, ({ accepted }) => String(accepted)),
          numbers('Duplicates', data.pulls, ({ duplicates }) => String(duplicates)),
          numbers('Rejected', data.pulls, ({ rejected }) => String(rejected)),
          { title: 'Error', wrap: true, cell: ({ error }) => error?.message ?? '–' },
        ]}
      />
    </Card>
  );
}
