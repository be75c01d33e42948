import { Search, Undo2 } from 'lucide-react';
import { useState } from 'react';
import { kindOfMetric, labelOfMetric } from '../../measures.ts';
import { useNames } from '../../names.ts';
import { format, type Kind } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { Answer, Button, Card, Chip, Clip, Empty, Moment } from '../../ui/parts.tsx';
import { Dialog } from '../../ui/popups.tsx';
import { LoadMore, numbers, Table } from '../../ui/table.tsx';
import { amountOf, voidedId } from './amounts.ts';
import { VoidEvent } from './correct.tsx';

type Event = {
  id: string;
  date: string;
  time: string;
  metrics: Record<string, string>;
  userId: string | null;
  apiKey: string | null;
  model: string | null;
  provider: string | null;
  status: string;
  count: string;
  properties: Record<string, string | number | boolean>;
};

/** Shows the events behind a number, in pages, with a search by id; lets permitted users void one. */
export function Events({
  query,
  metric,
  kind,
  merchantId,
  adjustments,
}: {
  query: {
    data: { pages: { entries: Event[]; entryCount: string }[] } | undefined;
    error: unknown;
    refetch: () => unknown;
    hasNextPage: boolean;
    isFetchingNextPage: boolean;
    fetchNextPage: () => unknown;
  };
  metric: string;
  kind: Kind;
  merchantId: string;
  /** Adjustments of the number; some of them void an event. */
  adjustments: readonly { id: string; date: string }[];
}) {
  const who = useWho();
  const isVoided = ({ date, id }: Event) =>
    adjustments.some((each) => each.date === date && voidedId(each.id, date) === id);
  const [voiding, setVoiding] = useState<Event | null>(null);
  const [search, setSearch] = useState('');
  const [open, setOpen] = useState<Event | null>(null);
  const all = query.data?.pages.flatMap(({ entries }) => entries);
  const userName = useNames('user', all?.map(({ userId }) => userId) ?? [], merchantId);
  const keyName = useNames('apiKey', all?.map(({ apiKey }) => apiKey) ?? [], merchantId);
  const wanted = search.trim();
  const shown = all?.filter((event) => event.id.includes(wanted));
  return (
    <Card
      title="Events"
      note={
        all && `${format(String(shown!.length), 'count')} shown of ${format(query.data!.pages[0]!.entryCount, 'count')}`
      }
      flush
      tools={
        <label className="search-box">
          <Search size={15} aria-hidden="true" />
          <span className="visually-hidden">Search events by id</span>
          <input value={search} placeholder="Search by id" onChange={(event) => setSearch(event.target.value)} />
        </label>
      }
    >
      <Answer query={{ ...query, data: shown }}>
        {(events) => (
          <>
            {events.length === 0 ? (
              <Empty title={wanted ? `No event with “${wanted}” so far` : 'No events here'}>
                {query.hasNextPage ? 'There are more events: load them to look further.' : 'All events were looked at.'}
              </Empty>
            ) : (
              <Table
                label="Events"
                rows={events}
                keyOf={({ date, id }) => `${date} ${id}`}
                columns={[
                  { title: 'Time', cell: ({ time }) => <Moment time={time} /> },
                  {
                    title: 'Event',
                    cell: (event) => (
                      <button type="button" className="link mono" title={event.id} onClick={() => setOpen(event)}>
                        {event.id}
                      </button>
                    ),
                  },
                  {
                    title: 'User',
                    cell: ({ userId }) => (userId ? <Clip title={userId}>{userName(userId)}</Clip> : '–'),
                  },
                  { title: 'Model', cell: ({ model }) => model ?? '–' },
                  {
                    title: 'API key',
                    cell: ({ apiKey }) => (apiKey ? <Clip title={apiKey}>{keyName(apiKey)}</Clip> : '–'),
                  },
                  {
                    title: 'Status',
                    cell: (event) => (
                      <>
                        <Chip tone={event.status === 'failure' ? 'bad' : 'good'}>{event.status}</Chip>{' '}
                        {isVoided(event) && <Chip tone="warn">voided</Chip>}
                      </>
                    ),
                  },
                  numbers(labelOfMetric(metric), events, ({ metrics }) => amountOf(metrics, metric), kind),
                ]}
              />
            )}
            <LoadMore list={query}>In the order of their days and ids.</LoadMore>
          </>
        )}
      </Answer>
      <Dialog
        peek
        open={open !== null}
        onClose={() => setOpen(null)}
        wide
        title="Event"
        text={open && <span className="mono">{open.id}</span>}
      >
        {open && (
          <>
            <dl className="facts">
              <dt>Time</dt>
              <dd>
                <Moment time={open.time} />
              </dd>
              {(
                [
                  ['User', withName(open.userId, userName)],
                  ['API key', withName(open.apiKey, keyName)],
                  ['Model', open.model],
                  ['Provider', open.provider],
                  ['Status', open.status],
                  ['Calls', open.count],
                ] as const
              ).map(([name, value]) => (
                <Fact key={name} name={name} value={value ?? 'unknown'} />
              ))}
              {Object.entries(open.metrics).map(([name, value]) => (
                <Fact key={name} name={labelOfMetric(name)} value={format(value, kindOfMetric(name))} />
              ))}
              {Object.entries(open.properties).map(([name, value]) => (
                <Fact key={`property ${name}`} name={name} value={String(value)} />
              ))}
            </dl>
            <div className="dialog-actions">
              {who.may('admin') && !isVoided(open) && (
                <Button
                  kind="danger"
                  onClick={() => {
                    setVoiding(open);
                    setOpen(null);
                  }}
                >
                  <Undo2 size={15} aria-hidden="true" />
                  Void
                </Button>
              )}
              <Button kind="primary" onClick={() => setOpen(null)}>
                Close
              </Button>
            </div>
          </>
        )}
      </Dialog>
      {voiding !== null && (
        <VoidEvent merchantId={merchantId} date={voiding.date} id={voiding.id} onClose={() => setVoiding(null)} />
      )}
    </Card>
  );
}

const Fact = ({ name, value }: { name: string; value: string }) => (
  <>
    <dt>{name}</dt>
    <dd className="num">{value}</dd>
  </>
);

/** An id, and its name where it has one. */
function withName(id: string | null, nameOf: (id: string) => string): string | null {
  const name = id === null ? null : nameOf(id);
  return name === id ? id : `${name} (${id})`;
}
