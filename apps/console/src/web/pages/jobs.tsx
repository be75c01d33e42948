import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { CalendarClock, CircleCheck, Play, RotateCcw } from 'lucide-react';
import { useState } from 'react';
import { api, client, messageOf, queryClient } from '../api.ts';
import { format } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { addMonths, daysOfMonth, monthOf, rangeText, today } from '../time.ts';
import { Answer, Banner, Button, Card, Chip, Empty, Failure, Moment, PageHead } from '../ui/parts.tsx';
import { Dialog, Segments, tell, tellFailure } from '../ui/popups.tsx';
import { LoadMore, Table } from '../ui/table.tsx';

const WHAT: Record<string, string> = {
  reconcile: 'Compares realtime metrics with their copies',
  daily: 'Rolls up yesterday',
  afterDaily: 'Rolls up what late events changed',
  weekly: 'Rolls up last week',
  monthly: 'Rolls up last month',
  realtime: 'Copies realtime metrics to Postgres',
  refresh: 'Rolls up periods that changed again',
  cleanup: 'Removes what is past its retention',
};
const TONES: Record<string, 'good' | 'bad' | 'warn' | 'accent'> = {
  COMPLETED: 'good',
  FAILED: 'bad',
  PARTIAL: 'warn',
  RUNNING: 'accent',
};

/** Shows schedules, runs and failures of jobs. */
export function Jobs() {
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const [backfilling, setBackfilling] = useState(false);
  const mayRead = who.mayPlatform('read');
  const log = useQuery(api.jobs.log.queryOptions({ limit: 50 }, { enabled: mayRead, refetchInterval: 5_000 }));
  const schedules = useQuery(api.jobs.schedules.queryOptions(undefined, { enabled: isAdmin, refetchInterval: 30_000 }));
  const failed = useInfiniteQuery({
    queryKey: [['jobs'], 'failed'],
    queryFn: ({ pageParam, signal }) => client.jobs.failed.query(pageParam ? { cursor: pageParam } : {}, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    enabled: isAdmin,
    refetchInterval: 15_000,
  });
  const failures = failed.data?.pages.flatMap(({ rows }) => rows) ?? [];
  const refresh = () => queryClient.invalidateQueries({ queryKey: [['jobs']] });
  const run = useMutation({
    mutationFn: (name: string) => client.jobs.run.mutate({ name: name as 'daily' }),
    onSuccess: async (_answer, name) => {
      tell('Put into the queue', name);
      await refresh();
    },
    onError: tellFailure,
  });
  const retry = useMutation({
    mutationFn: (id: string) => client.jobs.retry.mutate({ id }),
    onSuccess: refresh,
    onError: tellFailure,
  });

  if (!mayRead)
    return (
      <div className="stack">
        <PageHead title="Jobs" />
        <Banner>Jobs are about all merchants; this key is bound to one.</Banner>
      </div>
    );
  return (
    <div className="stack">
      <PageHead title="Jobs" note="Rollups with growth, and what keeps them right.">
        {isAdmin && (
          <Button kind="primary" onClick={() => setBackfilling(true)}>
            <CalendarClock size={16} aria-hidden="true" />
            Backfill
          </Button>
        )}
      </PageHead>
      {failures.length > 0 && (
        <Card title="Failed" note="after all their attempts" flush>
          <Table
            label="Failed jobs"
            rows={failures}
            keyOf={({ id }) => id}
            columns={[
              { title: 'Job', cell: ({ name }) => name },
              { title: 'Failed', cell: ({ failedAt }) => (failedAt ? <Moment time={failedAt} ago /> : '–') },
              { title: 'Why', wrap: true, cell: ({ error }) => error },
              {
                title: 'Actions',
                untitled: true,
                right: true,
                cell: ({ id }) => (
                  <Button small disabled={retry.isPending} onClick={() => retry.mutate(id)}>
                    <RotateCcw size={14} aria-hidden="true" />
                    Try again
                  </Button>
                ),
              },
            ]}
          >
            <LoadMore list={failed}>{format(String(failures.length), 'count')} shown</LoadMore>
          </Table>
        </Card>
      )}
      <div className={isAdmin ? 'wide-two' : 'stack'}>
        <Card title="Runs" note="newest first" flush>
          <Answer query={log}>
            {({ rows }) =>
              rows.length === 0 ? (
                <Empty icon={CircleCheck} title="Nothing has run yet">
                  The rollups of a day are made the next morning. Backfill makes them of older days now.
                </Empty>
              ) : (
                <Table
                  label="Runs"
                  rows={rows}
                  keyOf={({ id }) => id}
                  titleOf={({ error }) => error ?? undefined}
                  columns={[
                    { title: 'Job', cell: ({ kind }) => kind },
                    { title: 'Period', cell: ({ period }) => rangeText(period) },
                    {
                      title: 'Status',
                      cell: ({ status, periodsDone, periodsTotal }) => (
                        <>
                          <Chip tone={TONES[status]}>{status.toLowerCase()}</Chip>
                          {status === 'RUNNING' && periodsTotal > 1 && (
                            <>
                              {' '}
                              <progress max={periodsTotal} value={periodsDone} aria-label="Progress" />
                            </>
                          )}
                        </>
                      ),
                    },
                    {
                      title: 'Rows',
                      right: true,
                      cell: (job) => <span className="num">{format(String(job.rows), 'count')}</span>,
                    },
                    {
                      title: 'Took',
                      right: true,
                      cell: ({ started, finished }) => (
                        <span className="num">
                          {finished ? tookText(Date.parse(finished) - Date.parse(started)) : '–'}
                        </span>
                      ),
                    },
                    { title: 'Started', cell: ({ started }) => <Moment time={started} ago /> },
                  ]}
                />
              )
            }
          </Answer>
        </Card>
        {isAdmin && (
          <Card title="Schedule" note="in UTC" flush>
            <Answer query={schedules}>
              {({ rows }) => (
                <ul className="series-list">
                  {rows.map((job) => (
                    <li key={job.name}>
                      <span>
                        {job.name}
                        <small>{WHAT[job.name] ?? job.pattern}</small>
                        <small>
                          <span className="mono">{job.pattern}</span>
                          {job.next && (
                            <>
                              {' · next '}
                              <Moment time={job.next} />
                            </>
                          )}
                        </small>
                      </span>
                      <Button
                        small
                        icon
                        aria-label={`Run ${job.name} now`}
                        disabled={run.isPending}
                        onClick={() => run.mutate(job.name)}
                      >
                        <Play size={14} aria-hidden="true" />
                      </Button>
                    </li>
                  ))}
                </ul>
              )}
            </Answer>
          </Card>
        )}
      </div>
      {failed.error && (
        <Card>
          <Failure error={failed.error} />
        </Card>
      )}
      {backfilling && <Backfill onClose={() => setBackfilling(false)} onDone={refresh} />}
    </div>
  );
}

const tookText = (ms: number) =>
  ms < 1_000
    ? `${ms} ms`
    : ms < 60_000
      ? `${(ms / 1_000).toFixed(1)} s`
      : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1_000)} s`;

type Grain = 'daily' | 'weekly' | 'monthly';

function Backfill({ onClose, onDone }: { onClose: () => void; onDone: () => unknown }) {
  const [grain, setGrain] = useState<Grain>('monthly');
  const [from, setFrom] = useState(`${addMonths(monthOf(today()), -3)}-01`);
  const [to, setTo] = useState(daysOfMonth(addMonths(monthOf(today()), -1)).endDate);
  const make = useMutation({
    mutationFn: () => client.rollups[grain].backfill.mutate({ startDate: from, endDate: to }),
    onSuccess: (run) => {
      tell(
        'Backfilled',
        `${format(String(run.rowsWritten), 'count')} rows of ${run.periods.length} periods in ${tookText(run.durationMs)}`,
      );
      onClose();
    },
    onSettled: () => void onDone(),
  });
  return (
    <Dialog
      open
      onClose={onClose}
      title="Backfill rollups"
      text="Computes every period that overlaps the range. Repeating it changes nothing, and an interrupted run resumes by itself."
    >
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          make.mutate();
        }}
      >
        <Segments
          label="Rollups"
          value={grain}
          options={[
            { value: 'daily', label: 'Daily' },
            { value: 'weekly', label: 'Weekly' },
            { value: 'monthly', label: 'Monthly' },
          ]}
          onChange={setGrain}
        />
        <div className="form-row">
          <div className="field">
            <label htmlFor="backfill-from">From</label>
            <input
              id="backfill-from"
              className="input"
              type="date"
              required
              value={from}
              onChange={(event) => setFrom(event.target.value)}
            />
          </div>
          <div className="field">
            <label htmlFor="backfill-to">To, included</label>
            <input
              id="backfill-to"
              className="input"
              type="date"
              required
              value={to}
              onChange={(event) => setTo(event.target.value)}
            />
          </div>
        </div>
        {make.error && <Banner tone="bad">{messageOf(make.error)}</Banner>}
        <div className="dialog-actions">
          <Button type="button" onClick={onClose}>
            {make.isPending ? 'Let it run' : 'Cancel'}
          </Button>
          <Button kind="primary" type="submit" disabled={make.isPending || from > to}>
            {make.isPending ? 'Running… see the runs' : 'Backfill'}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
