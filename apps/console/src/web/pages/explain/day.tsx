import { Link } from '@tanstack/react-router';
import { Plus, Scale } from 'lucide-react';
import { useState } from 'react';
import { codeOf, detailsOf, messageOf } from '../../api.ts';
import { type FilterSearch, kindOfMetric, labelOfMetric } from '../../measures.ts';
import { add, format, type Kind, subtract } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { dayText } from '../../time.ts';
import { Answer, Banner, Button, Card, Chip, Empty, Failure, Moment, Num, Skeleton } from '../../ui/parts.tsx';
import { numbers, Table } from '../../ui/table.tsx';
import { amountOf, voidedId } from './amounts.ts';
import { Adjust } from './correct.tsx';
import { Events } from './events.tsx';
import { useExplained } from './explained-events.ts';
import { Reconciliation } from './reconciliation.tsx';

/** Shows the events and adjustments behind a number of one merchant and day. */
export function DayOfMerchant({
  merchantId,
  date,
  metric,
  filters,
}: {
  merchantId: string;
  date: string;
  metric: string;
  filters: FilterSearch;
}) {
  const who = useWho();
  const kind = kindOfMetric(metric);
  const range = { startDate: date, endDate: date };
  const { merchants: _merchants, teams, ...narrow } = filters;
  const isNarrow = Object.keys(narrow).length > 0;
  const explained = useExplained({ merchantId, range, metric, filters });
  const [adjusting, setAdjusting] = useState(false);
  const first = explained.data?.pages[0];

  if (explained.error) {
    if (codeOf(explained.error) === 'JOURNAL_DROPPED')
      return <Dropped error={explained.error} metric={metric} kind={kind} />;
    if (!first)
      return (
        <Card>
          <Failure error={explained.error} retry={() => void explained.refetch()} />
        </Card>
      );
  }
  const adjusted = first && add(...first.byDay.map((day) => day.adjusted));
  return (
    <>
      <div className="equation">
        <div className="card term" data-result="">
          <span className="label">
            {labelOfMetric(metric)} of {merchantId}
          </span>
          <span className="value">
            {first ? <Num value={first.value} kind={kind} /> : <Skeleton width={150} height={26} />}
          </span>
          <small>{dayText(date)}, UTC</small>
        </div>
        <span className="operator" aria-hidden="true">
          =
        </span>
        <div className="card term">
          <span className="label">Events</span>
          <span className="value">
            <Term value={first && subtract(first.value, adjusted!)} kind={kind} />
          </span>
          <small>
            {first ? `${format(first.entryCount, 'count')} events, ${format(first.callCount, 'count')} calls` : ' '}
          </small>
        </div>
        <span className="operator" aria-hidden="true">
          +
        </span>
        <div className="card term">
          <span className="label">Adjustments</span>
          <span className="value">
            <Term value={adjusted} kind={kind} />
          </span>
          <small>{first ? countText(first.adjustmentCount, 'adjustment') : ' '}</small>
        </div>
      </div>
      {(isNarrow || teams) && (
        <Banner tone="info">
          {isNarrow && <>Only {Object.values(narrow).flat().join(', ')}. </>}
          {teams && <>Events do not record teams, so those of all teams are listed below. </>}
          <Link to="/app/explain" search={{ metric, from: date, to: date, merchants: [merchantId] }}>
            Show all events of the day
          </Link>
        </Banner>
      )}
      <Reconciliation merchantId={merchantId} range={range} metric={metric} />
      <div className="columns">
        <Card title="Flushes" note="how the events came to Postgres" flush>
          <Answer query={{ ...explained, data: first }}>
            {({ flushes }) =>
              flushes.length === 0 ? (
                <Empty title="No flush delivered any">
                  Nothing of {labelOfMetric(metric).toLowerCase()} was recorded on this day.
                </Empty>
              ) : (
                <Table
                  label="Flushes"
                  tall
                  rows={flushes}
                  keyOf={({ flushId }) => flushId}
                  columns={[
                    { title: 'At', cell: ({ at }) => <Moment time={at} /> },
                    { title: 'Source', cell: ({ source }) => <Chip>{source}</Chip> },
                    numbers('Events', flushes, ({ entries }) => entries),
                    numbers(labelOfMetric(metric), flushes, ({ value }) => value, kind),
                  ]}
                />
              )
            }
          </Answer>
        </Card>
        <Card
          title="Adjustments"
          flush
          tools={
            who.may('admin') && metric !== 'total_tokens' ? (
              <Button small onClick={() => setAdjusting(true)}>
                <Plus size={14} aria-hidden="true" />
                Adjust
              </Button>
            ) : undefined
          }
        >
          <Answer query={{ ...explained, data: first }}>
            {({ adjustments }) =>
              adjustments.length === 0 ? (
                <Empty icon={Scale} title="Never corrected">
                  The number is the sum of its events. Corrections are added beside them, with who, when and why; events
                  are never edited.
                </Empty>
              ) : (
                <Table
                  label="Adjustments"
                  tall
                  rows={adjustments}
                  keyOf={({ id }) => id}
                  columns={[
                    { title: 'When', cell: ({ createdAt }) => <Moment time={createdAt} /> },
                    { title: 'By', cell: ({ actor }) => actor },
                    {
                      title: 'Why',
                      wrap: true,
                      cell: ({ id, reason }) => (
                        <>
                          {voidedId(id, date) && <Chip tone="warn">voids {voidedId(id, date)}</Chip>} {reason}
                        </>
                      ),
                    },
                    numbers('Amount', adjustments, ({ metrics }) => amountOf(metrics, metric), kind),
                  ]}
                />
              )
            }
          </Answer>
        </Card>
      </div>
      <Events
        query={explained}
        metric={metric}
        kind={kind}
        merchantId={merchantId}
        adjustments={first?.adjustments ?? []}
      />
      <Adjust
        open={adjusting}
        onClose={() => setAdjusting(false)}
        merchantId={merchantId}
        date={date}
        metric={metric}
        filters={narrow}
      />
    </>
  );
}

/** Shows a part of the equation. */
const Term = ({ value, kind }: { value: string | undefined; kind: Kind }) =>
  value === undefined ? <Skeleton width={90} height={26} /> : <Num value={value} kind={kind} />;

const countText = (count: number, name: string) =>
  `${count === 0 ? 'no' : format(String(count), 'count')} ${name}${count === 1 ? '' : 's'}`;

function Dropped({ error, metric, kind }: { error: unknown; metric: string; kind: Kind }) {
  const { value } = detailsOf(error);
  return (
    <Card>
      <Empty icon={Scale} title="The events of this day are no longer kept">
        {messageOf(error)}{' '}
        {typeof value === 'string' && `${labelOfMetric(metric)} of this day is ${format(value, kind)}.`}
      </Empty>
    </Card>
  );
}
