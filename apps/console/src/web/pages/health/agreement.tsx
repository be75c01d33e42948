import { useMutation, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { CircleCheck, Scale, Wrench } from 'lucide-react';
import { useState } from 'react';
import { api, client, messageOf, queryClient } from '../../api.ts';
import { kindOfMetric, labelOfMetric } from '../../measures.ts';
import { format } from '../../quantity.ts';
import { addDays, dayText, type Range, rangeText, today } from '../../time.ts';
import { Explained } from '../../ui/explained.tsx';
import { Banner, Button, Card, Empty, Moment, Num, Part } from '../../ui/parts.tsx';
import { Confirm } from '../../ui/popups.tsx';
import { Table } from '../../ui/table.tsx';
import { STORED } from '../explain/reconciliation.tsx';

const CHECKED_DAYS = 7;
/** Events that may explain a difference, named in its row. */
const SUSPECTS = 3;

type Report = Awaited<ReturnType<typeof client.reconcile.check.query>>;
type Drift = Report['drift'][number];

/** Returns the names of the stored forms that differ from the journal. */
const formsOf = (row: Drift): string[] =>
  row.rollup
    ? [row.rollup]
    : STORED.filter(([id]) => row[id] !== null && row[id] !== row.journal).map(([, name]) => name);
const isOfRedis = ({ live, journal }: Drift) => live !== null && live !== journal;

/** What a repair does: computes rollups of merchants again, or of `all`, and corrects totals in Redis. */
type Plan = { merchants: readonly string[] | 'all'; totals: boolean };

/** Returns how to repair what a comparison found. Without `platform`, Redis is left to the repair of every night. */
function planOf({ drift, meters }: Report, platform: boolean): Plan {
  const wrong = [
    ...drift.filter((row) => row.rollup !== undefined || formsOf(row).length > Number(isOfRedis(row))),
    ...(platform ? [] : meters),
  ];
  const merchants = [...new Set(wrong.map(({ merchantId }) => merchantId))];
  return {
    // Rollups of all merchants have no name of one.
    merchants: merchants.includes('') ? 'all' : merchants,
    totals: platform && (meters.length > 0 || drift.some(isOfRedis)),
  };
}

/** Says whether all stored forms of the numbers agree, and repairs those that do not. */
export function Agreement({ platform }: { platform: boolean }) {
  const day = today();
  const range = { startDate: addDays(day, 1 - CHECKED_DAYS), endDate: day };
  const status = useQuery(api.flush.status.queryOptions(undefined, { enabled: platform, refetchInterval: 5_000 }));
  const check = useQuery(api.reconcile.check.queryOptions(range, { enabled: false }));
  const [asking, setAsking] = useState(false);
  const [done, setDone] = useState({ merchants: 0, of: 0 });
  const repair = useMutation({
    mutationFn: async ({ merchants, totals }: Plan) => {
      setDone({ merchants: 0, of: merchants.length });
      if (merchants === 'all') await client.reconcile.rebuild.mutate(range);
      // One at a time, so that each call is short, and what is done stays.
      else
        for (const [index, merchantId] of merchants.entries()) {
          await client.reconcile.rebuild.mutate({ ...range, merchantIds: [merchantId] });
          setDone({ merchants: index + 1, of: merchants.length });
        }
      // Last, since it corrects them from the sums in Postgres.
      if (totals) await client.reconcile.repair.mutate({});
      const { data } = await check.refetch({ throwOnError: true });
      return data!.balanced;
    },
    onSettled: () => void queryClient.invalidateQueries({ predicate: ({ queryKey }) => queryKey[0] !== 'readyz' }),
  });
  const report = check.data;
  const plan = report && !report.balanced ? planOf(report, platform) : undefined;
  const mayRepair = plan !== undefined && (plan.totals || plan.merchants.length > 0);
  return (
    <Card
      title="Do all stored forms agree?"
      tools={
        <div className="tools">
          {mayRepair && (
            <Button
              kind="primary"
              small
              disabled={repair.isPending || check.isFetching}
              onClick={() => setAsking(true)}
            >
              <Wrench size={14} aria-hidden="true" />
              Repair…
            </Button>
          )}
          <Button
            small
            disabled={repair.isPending || check.isFetching}
            onClick={() => {
              repair.reset();
              void check.refetch();
            }}
          >
            <Scale size={14} aria-hidden="true" />
            {check.isFetching ? 'Comparing…' : `Compare the last ${CHECKED_DAYS} days`}
          </Button>
        </div>
      }
      flush
    >
      {platform && (
        <div className="card-body">
          <dl className="facts">
            <dt>Waiting to be counted</dt>
            <dd className="num">
              <Part query={status} width={80} height={14}>
                {({ pendingKeys }) =>
                  pendingKeys === null
                    ? 'unknown: Redis does not answer'
                    : `${format(String(pendingKeys), 'count')} merchants`
                }
              </Part>
            </dd>
            <dt>Oldest waiting event</dt>
            <dd className="num">
              <Part query={status} height={14}>
                {({ lagMs }) =>
                  lagMs === null ? 'unknown: Redis does not answer' : `${format(String(Math.round(lagMs)), 'count')} ms`
                }
              </Part>
            </dd>
            <dt>Last flush</dt>
            <dd>
              <Part query={status} height={14}>
                {({ lastFlushAt }) => (lastFlushAt ? <Moment time={lastFlushAt} ago /> : 'none yet')}
              </Part>
            </dd>
          </dl>
        </div>
      )}
      {repair.isPending && <Progress done={done} all={repair.variables.merchants === 'all'} />}
      {repair.isSuccess && !check.isFetching && <Outcome balanced={repair.data} />}
      {repair.error && (
        <Banner tone="bad">
          {messageOf(repair.error)} What was repaired stays. Compare again to see what is left.
        </Banner>
      )}
      {plan && !mayRepair && (
        <Banner>Totals in Redis are repaired every night, or by an admin of all merchants on this page.</Banner>
      )}
      {report?.balanced && (
        <Empty icon={CircleCheck} title="They agree">
          {format(String(report.numbersChecked), 'count')} numbers of {format(String(report.merchantsChecked), 'count')}{' '}
          merchants were compared over the journal, all rollups and Redis.
        </Empty>
      )}
      {report && report.drift.length > 0 && <Differences rows={report.drift} />}
      {report && report.meters.length > 0 && (
        <Table
          label="Meters that differ"
          rows={report.meters}
          keyOf={(row) => `${row.meter} ${row.merchantId} ${row.date} ${row.rollup}`}
          columns={[
            { title: 'Merchant', cell: ({ merchantId }) => merchantId },
            { title: 'Day', cell: ({ date }) => dayText(date) },
            { title: 'Meter', cell: ({ meter }) => meter },
            { title: 'Rollup', cell: ({ rollup }) => rollup },
            { title: 'Rows that differ', right: true, cell: ({ rows }) => <Num value={String(rows)} kind="count" /> },
          ]}
        />
      )}
      {check.error && !repair.error && <Empty title={messageOf(check.error)} />}
      {plan && (
        <Confirm
          open={asking}
          onClose={() => setAsking(false)}
          title="Repair these numbers?"
          text={<What plan={plan} range={range} report={report!} />}
          action="Repair"
          run={() => {
            setAsking(false);
            repair.mutate(plan);
          }}
        />
      )}
    </Card>
  );
}

function Differences({ rows }: { rows: readonly Drift[] }) {
  const hasSuspects = rows.some(({ suspects }) => suspects.length > 0);
  return (
    <Table
      label="Differences"
      rows={rows}
      keyOf={(row) => JSON.stringify([row.merchantId, row.date, row.metricType, row.rollup])}
      columns={[
        { title: 'Merchant', cell: ({ merchantId }) => merchantId || <span className="muted">all</span> },
        { title: 'Day', cell: ({ date, rollup }) => (rollup ? `from ${dayText(date)}` : dayText(date)) },
        { title: 'Metric', cell: ({ metricType }) => labelOfMetric(metricType) },
        {
          title: 'Journal',
          right: true,
          cell: ({ journal, metricType, date, merchantId }) => (
            <Explained
              value={journal}
              kind={kindOfMetric(metricType)}
              metric={metricType}
              range={{ startDate: date, endDate: date }}
              filters={merchantId ? { merchants: [merchantId] } : {}}
            />
          ),
        },
        { title: 'What differs', wrap: true, cell: (row) => formsOf(row).join(', ') },
        {
          title: 'By',
          right: true,
          cell: ({ drift, metricType }) => <Num value={drift} kind={kindOfMetric(metricType)} />,
        },
        hasSuspects && {
          title: 'Events that may explain it',
          wrap: true,
          cell: ({ suspects }) =>
            suspects
              .slice(0, SUSPECTS)
              .map(({ id, why }) => `${id}: ${why}`)
              .join('; '),
        },
      ]}
    />
  );
}

/** Says what a repair does, before it is done. */
function What({ plan: { merchants, totals }, range, report }: { plan: Plan; range: Range; report: Report }) {
  const whose = merchants === 'all' ? 'all merchants' : countText(merchants.length, 'merchant');
  const unexplained = report.drift.some(({ suspects }) => suspects.length > 0);
  return (
    <>
      {merchants.length > 0 && (
        <>
          All sums of {whose} of {rangeText(range)} are computed again from their events and adjustments.{' '}
        </>
      )}
      {totals && <>Totals in Redis, and rollups of meters, that differ are corrected from Postgres. </>}
      Events and adjustments stay as they are, and the audit log keeps who repaired.
      {unexplained && (
        <>
          {' '}
          <b>First note the events that may explain the differences:</b> a repair does not count an event that is lost,
          and afterwards nothing names it. Only its producer can send it again.
        </>
      )}
    </>
  );
}

const countText = (count: number, name: string) => `${format(String(count), 'count')} ${name}${count === 1 ? '' : 's'}`;

const Progress = ({ done, all }: { done: { merchants: number; of: number }; all: boolean }) => (
  <div className="card-body stack" role="status">
    {all || done.merchants === done.of ? (
      <progress aria-label="Progress" />
    ) : (
      <progress max={done.of} value={done.merchants} aria-label="Progress" />
    )}
    <p className="muted">
      {all
        ? 'Computing the sums of all merchants again.'
        : done.merchants < done.of
          ? `${format(String(done.merchants), 'count')} of ${countText(done.of, 'merchant')} computed again.`
          : 'Correcting totals, and comparing all again.'}{' '}
      What is done stays, also if you close this page.
    </p>
  </div>
);

const Outcome = ({ balanced }: { balanced: boolean }) => (
  <Banner tone={balanced ? 'good' : 'bad'}>
    {balanced ? (
      <>
        Repaired: all stored forms agree again. <Link to="/app/audit">The audit log</Link> has who repaired what.
      </>
    ) : (
      <>
        Repaired, and what is listed below still differs. Keep this list: the runbook of <code>TallyBooksDiffer</code>{' '}
        says what to do.
      </>
    )}
  </Banner>
);
