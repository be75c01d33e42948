import { useMutation } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { Download, Equal, History, Scale, Square } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { client, messageOf, PageError, queryClient } from '../../api.ts';
import { saveCsv } from '../../csv.ts';
import { add, compare, format, isZero, signed } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { addDays, countDays, dayText, type Range, rangeText, today } from '../../time.ts';
import { Filters } from '../../ui/filters.tsx';
import {
  AdminsOnly,
  Banner,
  Button,
  Card,
  CellName,
  Digits,
  Empty,
  Num,
  PageHead,
  padOf,
  SkeletonRows,
} from '../../ui/parts.tsx';
import { Confirm, tellFailure } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { LoadMore, numbers, Table, useParts } from '../../ui/table.tsx';

const DAYS = 30;

type Question = Range & { merchantIds?: string[] };
type Report = Awaited<ReturnType<typeof client.prices.rerate.mutate>>;
type Row = Report['rows'][number];
/** What was applied so far. `of`: the days of the report. */
type Applied = { days: number; of: number; adjustments: number; difference: string };

/** Prices past usage again by the price list of now: shows the differences, then applies them. */
export function PriceAgain() {
  const search = useSearch({ from: '/frame/app/prices/again' });
  const navigate = useNavigate({ from: '/app/prices/again' });
  const who = useWho();
  const range = { startDate: search.from ?? addDays(today(), 1 - DAYS), endDate: search.to ?? today() };
  const question = { ...range, ...(search.merchants && { merchantIds: search.merchants }) };
  if (!who.mayPlatform('admin')) return <AdminsOnly title="Price usage again" what="price usage again" />;
  const set = (next: Partial<typeof search>) =>
    void navigate({ search: (known) => ({ ...known, ...next }), replace: true });
  return (
    <div className="stack">
      <PageHead
        title="Price usage again"
        note="Usage that Tally priced keeps its cost when prices change. Here it gets the cost of the price list of now."
      >
        <RangePicker range={range} onChange={({ startDate, endDate }) => set({ from: startDate, to: endDate })} />
        <Filters
          range={range}
          filters={search.merchants ? { merchants: search.merchants } : {}}
          only={['merchant']}
          onChange={({ merchants }) => set({ merchants })}
        />
      </PageHead>
      <Comparison key={JSON.stringify(question)} question={question} />
    </div>
  );
}

/** Shows what differs, once asked, and applies it a day at a time: each call is short, and can be repeated. */
function Comparison({ question }: { question: Question }) {
  const [applied, setApplied] = useState<Applied | null>(null);
  const [asking, setAsking] = useState(false);
  const stopped = useRef(false);
  // Who leaves the page stops after the day that is under way.
  useEffect(() => {
    stopped.current = false;
    return () => {
      stopped.current = true;
    };
  }, []);
  const show = useMutation({ mutationFn: () => client.prices.rerate.mutate({ ...question, dryRun: true }) });
  const apply = useMutation({
    mutationFn: async (report: Report) => {
      const days = daysOf(report, question);
      let done: Applied = { days: 0, of: days.length, adjustments: 0, difference: '0' };
      setApplied(done);
      for (const day of days) {
        if (stopped.current) break;
        const part = { ...question, startDate: day, endDate: day, dryRun: false };
        const { adjustments, difference, ...of } = await client.prices.rerate.mutate(part);
        done = {
          ...{ of: days.length, days: done.days + 1 },
          ...{ adjustments: done.adjustments + adjustments, difference: add(done.difference, difference) },
        };
        setApplied(done);
        if (of.version !== report.version)
          throw new PageError(`The price list has changed meanwhile. ${dayText(day)} has the new prices already.`);
      }
      return done.days === days.length;
    },
    // What was applied is compared again: now nothing should differ.
    onSuccess: (isWhole) => (isWhole ? show.mutate() : show.reset()),
    onError(error) {
      show.reset();
      tellFailure(error);
    },
    onSettled() {
      stopped.current = false;
      void queryClient.invalidateQueries();
    },
  });
  const report = show.data;
  const start = (
    <Button
      kind="primary"
      onClick={() => {
        setApplied(null);
        show.mutate();
      }}
    >
      <Scale size={16} aria-hidden="true" />
      Show the differences
    </Button>
  );
  if (apply.isPending)
    return (
      <Card title="Applying" note={rangeText(question)}>
        <Progress applied={applied} />
        <div className="tools">
          <Button
            onClick={() => {
              stopped.current = true;
            }}
          >
            <Square size={15} aria-hidden="true" />
            Stop after this day
          </Button>
        </div>
      </Card>
    );
  return (
    <>
      {applied && <Outcome applied={applied} failed={apply.isError} />}
      {show.error && <Banner tone="bad">{messageOf(show.error)}</Banner>}
      {show.isPending ? (
        <Card title="Differences" note={rangeText(question)}>
          <SkeletonRows />
        </Card>
      ) : report ? (
        <Differences report={report} question={question} onApply={() => setAsking(true)} />
      ) : (
        <Card title="Differences" note={rangeText(question)}>
          <Empty icon={History} title="Compare first" tools={start}>
            Only usage that Tally priced, or found no price for, is compared: costs that producers sent stay. Nothing
            changes until you apply the differences.
          </Empty>
        </Card>
      )}
      {report && (
        <Confirm
          open={asking}
          onClose={() => setAsking(false)}
          title="Apply these differences?"
          text={
            <>
              What Tally priced of {rangeText(question)} changes by {signed(report.difference, 'money')}, to{' '}
              {format(report.new, 'money')}. Each change is an adjustment, which Explain shows; budgets and alerts
              follow. To take it back, set the old prices and price the usage again.
            </>
          }
          action="Apply"
          run={() => {
            setAsking(false);
            apply.mutate(report);
          }}
        />
      )}
    </>
  );
}

const count = (number: number) => format(String(number), 'count');

const Progress = ({ applied }: { applied: Applied | null }) => (
  <div className="stack" role="status">
    <progress max={applied?.of ?? 1} value={applied?.days ?? 0} aria-label="Progress" />
    <p>
      {count(applied?.days ?? 0)} of {count(applied?.of ?? 0)} days, {count(applied?.adjustments ?? 0)} adjustments.
      What is applied stays, also if you close this page.
    </p>
  </div>
);

function Outcome({ applied: { days, of, adjustments, difference }, failed }: { applied: Applied; failed: boolean }) {
  const isWhole = days === of && !failed;
  return (
    <Banner tone={isWhole ? 'good' : 'info'}>
      {isWhole ? 'Applied' : 'Applied in part'}: {count(adjustments)} adjustments on {count(days)} of {count(of)} days
      changed the cost by {signed(difference, 'money')}.{!isWhole && ' Show the differences to see what is left.'}
    </Banner>
  );
}

/** The days that have rows; all days of the range, where the report leaves rows out. */
const daysOf = ({ rows, truncated }: Report, { startDate, endDate }: Range): string[] =>
  truncated
    ? Array.from({ length: countDays({ startDate, endDate }) }, (_, index) => addDays(startDate, index))
    : [...new Set(rows.map(({ date }) => date))].sort();

/** The rows that differ, the greatest first. */
function Differences({ report, question, onApply }: { report: Report; question: Question; onApply: () => void }) {
  const different = report.rows
    .filter(({ difference }) => !isZero(difference))
    .sort((a, b) => compare(b.difference.replace('-', ''), a.difference.replace('-', '')));
  const unpriced = report.rows.reduce((sum, row) => sum + row.unpriced, 0);
  const { shown, list } = useParts(different);
  const pad = padOf(
    shown.map(({ old }) => old),
    'money',
  );
  const title = `${rangeText(question)}, version ${report.version} of the price list`;
  return (
    <>
      {!report.complete && (
        <Banner>Some events are not counted yet, so this may lack them. Show the differences again in a moment.</Banner>
      )}
      {unpriced > 0 && (
        <Banner>
          {count(unpriced)} events have no price and keep the cost that they have.{' '}
          <Link to="/app/prices">Set their prices</Link> first.
        </Banner>
      )}
      {report.truncated && (
        <Banner tone="info">
          Only the {count(report.rows.length)} rows with the greatest differences are listed. Sums are of all.
        </Banner>
      )}
      <Card
        title="Differences"
        note={title}
        tools={
          different.length > 0 && (
            <div className="tools">
              <Button onClick={() => download(report, question)}>
                <Download size={15} aria-hidden="true" />
                CSV
              </Button>
              <Button kind="primary" onClick={onApply}>
                Apply {signed(report.difference, 'money')}
              </Button>
            </div>
          )
        }
        flush
      >
        {different.length === 0 ? (
          <Empty
            icon={Equal}
            title={report.rows.length === 0 ? 'Nothing that Tally priced' : 'Every cost agrees with the price list'}
          >
            {report.rows.length === 0
              ? 'Tally prices events that are sent without a cost. There are none on these days.'
              : `${format(report.old, 'money')} of ${rangeText(question)} would be priced the same now.`}
          </Empty>
        ) : (
          <Table
            label="Differences"
            rows={shown}
            keyOf={(row) => JSON.stringify([row.merchantId, row.date, row.provider, row.model])}
            columns={[
              { title: 'Merchant', foot: 'All that Tally priced', cell: ({ merchantId }) => merchantId },
              { title: 'Day', cell: ({ date }) => dayText(date) },
              {
                title: 'Model',
                cell: (row) => <CellName name={row.model ?? 'unknown'} id={row.provider ?? row.model ?? ''} />,
              },
              numbers('Events', shown, ({ events }) => String(events)),
              {
                title: 'Cost now',
                right: true,
                cell: (row) => <Cost row={row} pad={pad} />,
                foot: <Num value={report.old} kind="money" />,
              },
              {
                ...numbers('By the list', shown, (row) => row.new, 'money'),
                foot: <Num value={report.new} kind="money" />,
              },
              {
                ...numbers('Difference', shown, ({ difference }) => difference, 'money'),
                foot: <Num value={report.difference} kind="money" />,
              },
            ]}
          >
            <LoadMore list={list}>
              {count(shown.length)} of {count(different.length)} that differ
            </LoadMore>
          </Table>
        )}
      </Card>
    </>
  );
}

/** What the row costs now, with the way to what it is made of. */
const Cost = ({ row: { merchantId, date, model, provider, old }, pad }: { row: Row; pad: number }) => (
  <Link
    className="num"
    to="/app/explain"
    search={{
      ...{ metric: 'cost', from: date, to: date, merchants: [merchantId] },
      ...{ models: [model ?? 'unknown'], providers: [provider ?? 'unknown'] },
    }}
    preload={false}
    title={`Explain the cost of ${model ?? 'unknown'} on ${dayText(date)}`}
  >
    <Digits value={old} kind="money" pad={pad} />
  </Link>
);

const download = ({ rows }: Report, { startDate, endDate }: Question): void =>
  saveCsv(
    `price-again-${startDate}-${endDate}.csv`,
    ['merchant_id', 'date', 'provider', 'model', 'events', 'unpriced', 'old_usd', 'new_usd', 'difference_usd'],
    rows.map((row) => [
      ...[row.merchantId, row.date, row.provider, row.model, String(row.events), String(row.unpriced)],
      ...[row.old, row.new, row.difference],
    ]),
  );
