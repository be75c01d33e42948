import type { Webhook, WebhookDelivery } from '@tally/contracts';
import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Ellipsis, Pencil, Plus, RefreshCw, RotateCcw, Send, Trash2, Webhook as WebhookIcon } from 'lucide-react';
import { useState } from 'react';
import { api, client, queryClient } from '../api.ts';
import { format } from '../quantity.ts';
import { DELIVERY_STATES, type DeliveryState } from '../search.ts';
import { useWho } from '../session.tsx';
import { timeText } from '../time.ts';
import { Checks, Field } from '../ui/field.tsx';
import { AdminsOnly, Answer, Button, Card, Chip, Code, Empty, Moment, PageHead } from '../ui/parts.tsx';
import { Confirm, Dialog, FormDialog, Menu, Secret, Segments, tell, tellFailure, useUnchanged } from '../ui/popups.tsx';
import { LoadMore, Table } from '../ui/table.tsx';

const REFRESH_MS = 5_000;
const DELIVERIES = 'webhook deliveries';

const refresh = () =>
  Promise.all([
    queryClient.invalidateQueries({ queryKey: [['webhooks']] }),
    queryClient.invalidateQueries({ queryKey: [DELIVERIES] }),
  ]);

/** Lists webhooks and their deliveries; creates, changes, tests and removes webhooks, and sends deliveries again. */
export function Webhooks() {
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const list = useQuery(api.webhooks.list.queryOptions(undefined, { enabled: isAdmin }));
  const [editing, setEditing] = useState<Webhook | 'new' | null>(null);
  const [asked, setAsked] = useState<{ what: 'remove' | 'rotate'; webhook: Webhook } | null>(null);
  const [secret, setSecret] = useState<{ url: string; secret: string } | null>(null);
  const act = useMutation({
    mutationFn: ({ what, webhook: { id } }: NonNullable<typeof asked>) =>
      what === 'remove'
        ? client.webhooks.remove.mutate({ id })
        : client.webhooks.update.mutate({ id, rotateSecret: true }),
    onSuccess: async (answer, { what, webhook: { url } }) => {
      setAsked(null);
      if ('secret' in answer && typeof answer.secret === 'string') setSecret({ url, secret: answer.secret });
      else tell(what === 'remove' ? 'Removed' : 'Rotated', url);
      await refresh();
    },
    onError: tellFailure,
  });
  const test = useMutation({
    mutationFn: ({ id }: Webhook) => client.webhooks.test.mutate({ id }),
    onSuccess: async () => {
      tell('Test event queued', 'How it ended is in the deliveries below.');
      await refresh();
    },
    onError: tellFailure,
  });
  if (!isAdmin) return <AdminsOnly title="Webhooks" what="see webhooks" />;
  const add = (
    <Button kind="primary" onClick={() => setEditing('new')}>
      <Plus size={16} aria-hidden="true" />
      New webhook
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Webhooks" note="Signed requests to your programs, or to Slack, when something happens.">
        {add}
      </PageHead>
      <Card flush>
        <Answer query={list}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty icon={WebhookIcon} title="No webhooks yet" tools={add}>
                A webhook gets a signed request when a budget reaches a threshold or an alert fires. The URL of an
                incoming webhook of Slack works as it is.
              </Empty>
            ) : (
              <Table
                label="Webhooks"
                rows={rows}
                keyOf={({ id }) => id}
                columns={[
                  {
                    title: 'URL',
                    cell: ({ url, previousSecretExpiresAt }) => (
                      <span className="cell-name">
                        <span className="clip" title={url}>
                          {url}
                          {previousSecretExpiresAt && (
                            <small>signed with the old secret, too, until {timeText(previousSecretExpiresAt)}</small>
                          )}
                        </span>
                      </span>
                    ),
                  },
                  {
                    title: 'Events',
                    wrap: true,
                    cell: ({ events }) => (
                      <span className="filters">
                        {events.length === 0 ? (
                          <span className="muted">all</span>
                        ) : (
                          events.map((event) => <Chip key={event}>{event}</Chip>)
                        )}
                      </span>
                    ),
                  },
                  { title: 'Created', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
                  { title: 'By', cell: ({ createdBy }) => createdBy },
                  {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (webhook) => (
                      <Menu
                        button={
                          <Button kind="plain" small icon aria-label={`Actions for ${webhook.url}`}>
                            <Ellipsis size={16} aria-hidden="true" />
                          </Button>
                        }
                        actions={[
                          { label: 'Send a test', icon: <Send size={15} />, run: () => test.mutate(webhook) },
                          { label: 'Change', icon: <Pencil size={15} />, run: () => setEditing(webhook) },
                          {
                            label: 'New secret',
                            icon: <RefreshCw size={15} />,
                            run: () => setAsked({ what: 'rotate', webhook }),
                          },
                          {
                            label: 'Remove',
                            icon: <Trash2 size={15} />,
                            run: () => setAsked({ what: 'remove', webhook }),
                          },
                        ]}
                      />
                    ),
                  },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      <Deliveries webhooks={list.data?.rows ?? []} />
      {editing && (
        <Edit
          webhook={editing === 'new' ? null : editing}
          onClose={() => setEditing(null)}
          onCreated={(url, made) => setSecret({ url, secret: made })}
        />
      )}
      <Secret
        title="The secret of the webhook"
        text={`Verify requests to ${secret?.url ?? ''} with it. Copy it now: it is shown once.`}
        secret={secret?.secret ?? null}
        onClose={() => setSecret(null)}
      />
      <Confirm
        open={asked !== null}
        onClose={() => setAsked(null)}
        title={asked?.what === 'rotate' ? 'Make a new secret?' : 'Remove the webhook?'}
        text={
          asked?.what === 'rotate'
            ? 'For a day requests are signed with both secrets, so that receivers can change.'
            : `What waits for ${asked?.webhook.url ?? ''} is not sent.`
        }
        action={asked?.what === 'rotate' ? 'Make it' : 'Remove'}
        busy={act.isPending}
        run={() => asked && act.mutate(asked)}
      />
    </div>
  );
}

const TONES = { pending: 'warn', delivered: 'good', failed: 'bad' } as const;

/** Shows deliveries, newest first, with the response; sends them again. */
function Deliveries({ webhooks }: { webhooks: readonly Webhook[] }) {
  const { status } = useSearch({ from: '/frame/app/webhooks' });
  const navigate = useNavigate({ from: '/app/webhooks' });
  const [open, setOpen] = useState<WebhookDelivery | null>(null);
  const list = useInfiniteQuery({
    queryKey: [DELIVERIES, status],
    queryFn: ({ pageParam, signal }) =>
      client.webhooks.deliveries.query(
        { ...(status && { status }), ...(pageParam ? { cursor: pageParam } : {}) },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    refetchInterval: REFRESH_MS,
  });
  const replay = useMutation({
    mutationFn: ({ id }: WebhookDelivery) => client.webhooks.replay.mutate({ id }),
    onSuccess: async ({ event }) => {
      setOpen(null);
      tell('Queued again', event);
      await refresh();
    },
    onError: tellFailure,
  });
  const urls = new Map(webhooks.map(({ id, url }) => [id, url]));
  const rows = list.data?.pages.flatMap((page) => page.rows);
  return (
    <Card
      title="Deliveries"
      note="newest first"
      flush
      tools={
        <Segments
          label="Which deliveries"
          value={status ?? 'all'}
          options={(['all', ...DELIVERY_STATES] as const).map((value) => ({ value, label: value }))}
          onChange={(next) =>
            void navigate({ search: next === 'all' ? {} : { status: next as DeliveryState }, replace: true })
          }
        />
      }
    >
      <Answer query={{ ...list, data: rows }}>
        {(all) =>
          all.length === 0 ? (
            <Empty icon={Send} title={status ? `No delivery is ${status}` : 'Nothing was sent yet'}>
              Each request shows up here with the answer of the receiver, and can be sent again.
            </Empty>
          ) : (
            <Table
              label="Deliveries"
              rows={all}
              keyOf={({ id }) => id}
              columns={[
                {
                  title: 'Event',
                  cell: (delivery) => (
                    <button type="button" className="link" onClick={() => setOpen(delivery)}>
                      {delivery.event}
                    </button>
                  ),
                },
                { title: 'Status', cell: ({ status: state }) => <Chip tone={TONES[state]}>{state}</Chip> },
                {
                  title: 'To',
                  cell: ({ webhookId }) => {
                    const url = urls.get(webhookId) ?? 'a removed webhook';
                    return (
                      <span className="clip" title={url}>
                        {url}
                      </span>
                    );
                  },
                },
                { title: 'Answer', wrap: true, cell: (delivery) => answerOf(delivery) },
                {
                  title: 'Attempts',
                  right: true,
                  cell: ({ attempts }) => <span className="num">{format(String(attempts), 'count')}</span>,
                },
                {
                  title: 'Next',
                  cell: ({ nextAttemptAt }) => (nextAttemptAt ? <Moment time={nextAttemptAt} clock /> : '–'),
                },
                { title: 'Created', cell: ({ createdAt }) => <Moment time={createdAt} clock /> },
                {
                  title: 'Actions',
                  untitled: true,
                  right: true,
                  cell: (delivery) =>
                    urls.has(delivery.webhookId) && (
                      <Button small disabled={replay.isPending} onClick={() => replay.mutate(delivery)}>
                        <RotateCcw size={14} aria-hidden="true" />
                        Send again
                      </Button>
                    ),
                },
              ]}
            >
              <LoadMore list={list}>{format(String(all.length), 'count')} shown</LoadMore>
            </Table>
          )
        }
      </Answer>
      <Dialog
        peek
        wide
        open={open !== null}
        onClose={() => setOpen(null)}
        title={open?.event ?? ''}
        text={open ? `${urls.get(open.webhookId) ?? 'A removed webhook'}: ${answerOf(open)}` : ''}
      >
        {open && (
          <>
            <Code>{pretty(open.body)}</Code>
            <dl className="facts">
              <dt>webhook-id</dt>
              <dd className="mono">{open.id}</dd>
            </dl>
            <div className="dialog-actions">
              <Button kind="primary" onClick={() => setOpen(null)}>
                Close
              </Button>
            </div>
          </>
        )}
      </Dialog>
    </Card>
  );
}

const answerOf = ({ lastStatus, lastError, attempts }: WebhookDelivery): string =>
  [lastStatus === null ? undefined : String(lastStatus), lastError].filter(Boolean).join(': ') ||
  (attempts === 0 ? 'not sent yet' : '–');

function pretty(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

const EVENTS = [
  { value: 'budget.threshold', label: 'A budget reaches a threshold' },
  { value: 'alert.fired', label: 'An alert fires' },
  { value: 'alert.resolved', label: 'An alert is resolved' },
] as const;
type Event = Parameters<typeof client.webhooks.create.mutate>[0]['events'];

/** Creates a webhook, or changes its URL and events. */
function Edit({
  webhook,
  onClose,
  onCreated,
}: {
  webhook: Webhook | null;
  onClose: () => void;
  onCreated: (url: string, secret: string) => void;
}) {
  const [url, setUrl] = useState(webhook?.url ?? '');
  const [events, setEvents] = useState<readonly string[]>(webhook?.events ?? []);
  // An event that this page does not know stays selected.
  const options = [
    ...EVENTS,
    ...events.filter((event) => !EVENTS.some(({ value }) => value === event)).map((value) => ({ value, label: value })),
  ];
  const assertUnchanged = useUnchanged(webhook);
  const save = useMutation({
    mutationFn: async () => {
      const fields = { url: url.trim(), events: [...events] as Event };
      if (!webhook) return client.webhooks.create.mutate(fields);
      const { id } = webhook;
      const changed = {
        ...(fields.url !== webhook.url && { url: fields.url }),
        ...(events !== webhook.events && { events: fields.events }),
      };
      const stored = (await client.webhooks.list.query()).rows.find((each) => each.id === id);
      assertUnchanged(stored, Object.keys(changed) as (keyof Webhook)[]);
      return client.webhooks.update.mutate({ id, ...changed });
    },
    onSuccess: async (made) => {
      onClose();
      if (!webhook && made.secret) onCreated(made.url, made.secret);
      else tell('Changed', made.url);
      await refresh();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title={webhook ? 'Change the webhook' : 'New webhook'}
      text="Requests are signed in the format of Standard Webhooks, and tried again for a day."
      save={save}
      action="Save"
      working="Saving…"
    >
      <Field
        label="URL"
        type="url"
        required
        maxLength={2000}
        placeholder="https://hooks.example.com/tally"
        note="Addresses that are not public need the setting WEBHOOK_ALLOW_PRIVATE"
        value={url}
        onChange={setUrl}
      />
      <Checks label="Events" note="None chosen: all" options={options} values={events} onChange={setEvents} />
    </FormDialog>
  );
}
