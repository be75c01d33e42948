import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useSubscription } from '@trpc/tanstack-react-query';
import { Activity, Pause, Play, Radio } from 'lucide-react';
import { useEffect, useState } from 'react';
import { api } from '../api.ts';
import { useNames } from '../names.ts';
import { add, format, isNegative, scale, subtract } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { today } from '../time.ts';
import { Explained } from '../ui/explained.tsx';
import { isCut } from '../ui/filters.tsx';
import { Answer, Banner, Button, Card, Chip, Clip, Empty, Moment, PageHead, Part } from '../ui/parts.tsx';
import { findNames, Picker } from '../ui/picker.tsx';
import { numbers, Table } from '../ui/table.tsx';

const EVERY_MS = 2_000;
const EVENTS = 50;

/** Shows events as they arrive, the lag of counting, and realtime metrics. */
export function Live() {
  const search = useSearch({ from: '/frame/app/live' });
  const navigate = useNavigate({ from: '/app/live' });
  const who = useWho();
  const [paused, setPaused] = useState(false);
  const day = today();
  const options = useQuery(
    api.analytics.filterOptions.queryOptions(
      { startDate: day, endDate: day },
      {
        enabled: who.merchantId === null,
        staleTime: 60_000,
        // The first event of a day shows itself.
        refetchInterval: ({ state }) => state.data?.merchants.length === 0 && EVERY_MS,
      },
    ),
  );
  const known = options.data?.merchants.map(({ id, label }) => ({ value: id, label })) ?? [];
  const merchantId = who.merchantId ?? search.merchant ?? known[0]?.value;
  const refetchInterval = paused ? (false as const) : EVERY_MS;
  const enabled = merchantId !== undefined;
  const recent = useQuery(
    api.usage.recent.queryOptions(
      { merchantId: merchantId ?? '', limit: EVENTS },
      { enabled, refetchInterval, placeholderData: keepPreviousData },
    ),
  );
  const users = recent.data?.rows.map(({ userId }) => userId) ?? [];
  const nameOf = useNames('user', users, merchantId);
  const current = useQuery(
    api.usage.current.queryOptions(
      { merchantId: merchantId ?? '' },
      { enabled, refetchInterval, placeholderData: keepPreviousData },
    ),
  );
  const status = useQuery(
    api.flush.status.queryOptions(undefined, { enabled: who.mayPlatform('admin'), refetchInterval }),
  );
  const failed = recent.isError || current.isError;
  const choices =
    merchantId && !known.some(({ value }) => value === merchantId)
      ? [{ value: merchantId, label: merchantId }, ...known]
      : known;

  return (
    <div className="stack">
      <PageHead
        title="Live"
        note={
          <span className="coverage">
            {paused || failed ? <span className="dot" /> : <span className="live-dot" />}
            {paused
              ? 'Paused'
              : failed
                ? 'Not refreshed: a service does not answer'
                : `Refreshes every ${EVERY_MS / 1000} seconds`}
          </span>
        }
      >
        {who.merchantId === null && choices.length > 0 && (
          <Picker
            label="Merchant"
            value={merchantId ?? ''}
            options={choices}
            beyond={isCut(options.data, 'merchants') ? findNames('merchant') : undefined}
            names={findNames('merchant')}
            none="No merchant with usage today."
            onChange={(merchant) => void navigate({ search: { merchant }, replace: true })}
          />
        )}
        <Button onClick={() => setPaused(!paused)} aria-pressed={paused}>
          {paused ? <Play size={15} aria-hidden="true" /> : <Pause size={15} aria-hidden="true" />}
          {paused ? 'Go on' : 'Pause'}
        </Button>
      </PageHead>

      {!enabled && !options.isLoading ? (
        <Card>
          <Empty icon={Radio} title="No usage today">
            Nothing was recorded today (UTC) by any merchant. Events show up here as soon as they are accepted.
          </Empty>
        </Card>
      ) : (
        <>
          <div className="quarters">
            <Totals query={current} merchantId={merchantId} />
            <Throughput key={merchantId} current={current.isPlaceholderData ? undefined : current.data} />
            {who.mayPlatform('admin') && <Counting query={status} />}
          </div>
          <div className="wide-two">
            <Card title="Recent events" note={merchantId && <Clip>{merchantId}</Clip>} flush>
              {recent.data?.complete === false && (
                <div className="card-body">
                  <Banner>A store does not answer: events are missing here, perhaps all of them.</Banner>
                </div>
              )}
              <Answer query={recent}>
                {({ rows, complete }) =>
                  rows.length === 0 && !complete ? null : rows.length === 0 ? (
                    <Empty icon={Activity} title="No events yet">
                      {merchantId} has recorded nothing that is still kept.
                    </Empty>
                  ) : (
                    <Table
                      label="Recent events"
                      tall
                      rows={rows}
                      keyOf={({ date, id }) => `${date} ${id}`}
                      titleOf={({ id }) => id}
                      columns={[
                        { title: 'Time', cell: ({ time }) => <Moment time={time} clock /> },
                        {
                          title: 'User',
                          cell: ({ userId }) => (userId ? <Clip title={userId}>{nameOf(userId)}</Clip> : '–'),
                        },
                        { title: 'Model', cell: ({ model }) => (model ? <Clip>{model}</Clip> : '–') },
                        {
                          title: 'Status',
                          cell: ({ status, flushed }) => (
                            <Chip tone={status === 'failure' ? 'bad' : flushed ? 'good' : undefined}>
                              {status === 'failure' ? 'failure' : flushed ? 'counted' : 'accepted'}
                            </Chip>
                          ),
                        },
                        numbers('Tokens', rows, ({ metrics }) =>
                          add(metrics.prompt_tokens ?? '0', metrics.completion_tokens ?? '0'),
                        ),
                        numbers('Cost', rows, ({ metrics }) => metrics.cost ?? '0', 'money'),
                      ]}
                    />
                  )
                }
              </Answer>
            </Card>
            <Realtime merchantId={who.merchantId ?? search.merchant} paused={paused} />
          </div>
        </>
      )}
    </div>
  );
}

type Current = { date: string; metrics: Record<string, string>; asOf: string; complete: boolean };

const SHOWN = [
  ['requests', 'Requests today', 'count'],
  ['cost', 'Cost today', 'money'],
] as const;

function Totals({
  query,
  merchantId,
}: {
  query: { data: Current | undefined; error: unknown };
  merchantId: string | undefined;
}) {
  return SHOWN.map(([metric, label, kind]) => (
    <div className="card stat" key={metric}>
      <span className="stat-label">{label}</span>
      <span className="stat-value">
        <Part query={query} width={120}>
          {({ metrics, date }) => (
            <Explained
              value={metrics[metric] ?? '0'}
              kind={kind}
              metric={metric}
              range={{ startDate: date, endDate: date }}
              filters={merchantId ? { merchants: [merchantId] } : {}}
            />
          )}
        </Part>
      </span>
      <span className="stat-note">
        {query.data?.complete === false ? 'may be too low: a store does not answer' : 'running total in Redis'}
      </span>
    </div>
  ));
}

const WINDOW_MS = 30_000;
/** A lower rate depends more on the moment of the query than on usage. */
const SHORTEST_MS = 3_000;

/** Shows the requests per second of the last half minute, from running totals. */
function Throughput({ current }: { current: Current | undefined }) {
  const [samples, setSamples] = useState<{ at: number; requests: string }[]>([]);
  // Without Redis, totals are those of the last flush: they do not grow as usage arrives.
  const known = current?.complete !== false;
  const at = current && known ? Date.parse(current.asOf) : undefined;
  const requests = current?.metrics.requests ?? '0';
  useEffect(() => {
    if (at !== undefined)
      setSamples((earlier) => [
        ...earlier.filter((each) => each.at > at - WINDOW_MS && each.at < at),
        { at, requests },
      ]);
  }, [at, requests]);
  const [first, last] = [samples[0], samples.at(-1)];
  const ms = first && last ? last.at - first.at : 0;
  // A total decreases only at midnight.
  const added = first && last ? subtract(last.requests, first.requests) : '0';
  const rate = ms < SHORTEST_MS || isNegative(added) ? null : scale(added, 1000, ms).replace(/(\.\d).*$/, '$1');
  return (
    <div className="card stat">
      <span className="stat-label">Throughput</span>
      <span className="stat-value num">
        {rate === null || !known ? (
          <span className="muted">{known ? 'measuring…' : 'unknown'}</span>
        ) : (
          `${format(rate, 'count')}/s`
        )}
      </span>
      <span className="stat-note">requests, last {WINDOW_MS / 1000} seconds</span>
    </div>
  );
}

/** Unknown while Redis is unavailable. */
const pendingText = (count: number | null) => (count === null ? 'unknown' : format(String(count), 'count'));

function Counting({
  query,
}: {
  query: {
    data: { pendingKeys: number | null; lagMs: number | null; lastFlushAt: string | null } | undefined;
    error: unknown;
  };
}) {
  const { data } = query;
  return (
    <>
      <div className="card stat">
        <span className="stat-label">Accepted → counted</span>
        <span className="stat-value num">
          <Part query={query} width={90}>
            {({ lagMs }) => (lagMs === null ? 'unknown' : `${format(String(Math.round(lagMs)), 'count')} ms`)}
          </Part>
        </span>
        <span className="stat-note">
          {data?.lagMs === null ? 'Redis does not answer' : 'age of the oldest event that waits'}
        </span>
      </div>
      <div className="card stat">
        <span className="stat-label">Merchants with events waiting</span>
        <span className="stat-value num">
          <Part query={query} width={40}>
            {({ pendingKeys }) => pendingText(pendingKeys)}
          </Part>
        </span>
        <span className="stat-note">
          {data?.lastFlushAt ? (
            <>
              last flush <Moment time={data.lastFlushAt} ago />
            </>
          ) : (
            'no flush yet'
          )}
        </span>
      </div>
    </>
  );
}

const SERIES = 12;

function Realtime({ merchantId, paused }: { merchantId: string | undefined; paused: boolean }) {
  const scope = merchantId ? { merchantId } : {};
  const list = useQuery(api.realtime.list.queryOptions({ ...scope, limit: SERIES }, { refetchInterval: 30_000 }));
  return (
    <Card title="Realtime metrics" note={list.data?.nextCursor ? `the first ${SERIES}` : undefined} flush>
      <Answer query={list}>
        {({ rows }) =>
          rows.length === 0 ? (
            <Empty icon={Radio} title="No realtime metrics">
              Counters, gauges, histograms and rates show up here once something writes to them:{' '}
              <code>realtime.increment</code>, <code>.gauge</code>, <code>.observe</code>, <code>.mark</code>.
            </Empty>
          ) : (
            <ul className="series-list">
              {rows.map(({ name, labels, type }) => (
                <SeriesRow
                  key={JSON.stringify([name, labels])}
                  name={name}
                  labels={labels}
                  type={type}
                  scope={scope}
                  paused={paused}
                />
              ))}
            </ul>
          )
        }
      </Answer>
    </Card>
  );
}

function SeriesRow({
  name,
  labels,
  type,
  scope,
  paused,
}: {
  name: string;
  labels: Record<string, string>;
  type: string;
  scope: { merchantId?: string };
  paused: boolean;
}) {
  const watched = useSubscription(
    api.realtime.watch.subscriptionOptions({ name, labels, ...scope }, { enabled: !paused }),
  );
  const [last, setLast] = useState(watched.data);
  if (watched.data && watched.data !== last) setLast(watched.data);
  const value = last && (last.value ?? last.perSecond ?? last.p95 ?? last.count);
  const unit = last?.perSecond !== undefined ? '/s' : last?.p95 ? ' p95' : last?.unit ? ` ${last.unit}` : '';
  const about = Object.entries(labels).map(([key, each]) => `${key}=${each}`);
  return (
    <li>
      <span>
        {name}
        <small>{[type.toLowerCase(), ...about].join(' · ')}</small>
      </span>
      <span className="series-value num">
        <Part query={{ data: value ?? undefined, error: watched.error }} width={50} height={20}>
          {(shown) => `${format(shown, 'count')}${unit}`}
        </Part>
      </span>
    </li>
  );
}
