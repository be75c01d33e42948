import { useQuery } from '@tanstack/react-query';
import { CircleCheck, Scale } from 'lucide-react';
import { useState } from 'react';
import { api } from '../../api.ts';
import { kindOfMetric } from '../../measures.ts';
import { useWho } from '../../session.tsx';
import { countDays, dayText, type Range } from '../../time.ts';
import { Answer, Button, Card, Skeleton } from '../../ui/parts.tsx';
import { numbers, Table } from '../../ui/table.tsx';

/** The stored forms of a number, each with its name. */
export const STORED = [
  ['journal', 'Journal'],
  ['daily', 'Daily rollup'],
  ['usage', 'Merchant usage'],
  ['live', 'Redis total'],
  ['dailyModels', 'Daily by model'],
  ['quarterHours', 'Quarter hours'],
  ['monthly', 'Monthly rollup'],
  ['yearly', 'Yearly rollup'],
] as const;

/** The longest range that is compared automatically. */
const AUTOMATIC_DAYS = 1;

/** Shows whether all stored forms of a number agree. */
export function Reconciliation({ merchantId, range, metric }: { merchantId: string; range: Range; metric: string }) {
  const who = useWho();
  const [asked, setAsked] = useState(countDays(range) <= AUTOMATIC_DAYS);
  const query = useQuery(
    api.reconcile.check.queryOptions(
      { ...range, merchantIds: [merchantId] },
      { enabled: asked && who.may('admin'), staleTime: 60_000 },
    ),
  );
  if (!who.may('admin')) return null;
  if (!asked)
    return (
      <Card
        title="Reconciliation"
        tools={
          <Button small onClick={() => setAsked(true)}>
            <Scale size={14} aria-hidden="true" />
            Compare all stored forms
          </Button>
        }
      >
        <p className="muted">Compares the journal, every rollup and the Redis totals of {merchantId} for these days.</p>
      </Card>
    );
  const types = metric === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [metric];
  const drift = query.data?.drift.filter((row) => types.includes(row.metricType));
  if (query.data && drift!.length === 0)
    return (
      <div className="banner" data-tone="good" role="status">
        <CircleCheck size={16} aria-hidden="true" />
        <div>
          <b>All stored forms agree.</b> The journal, every rollup and the Redis total hold the same number
          {!query.data.balanced && '; other metrics or meters of this merchant differ, see Health'}.
        </div>
      </div>
    );
  return (
    <Card title="Reconciliation" note="what every stored form says" flush>
      <Answer
        query={{ ...query, data: drift }}
        waiting={
          <div className="card-body">
            <Skeleton height={20} width="60%" />
          </div>
        }
      >
        {(rows) => (
          <Table
            label="Stored forms"
            rows={rows}
            keyOf={({ date, metricType }) => `${date} ${metricType}`}
            columns={[
              { title: 'Day', cell: ({ date }) => dayText(date) },
              ...STORED.map(([id, name]) => numbers(name, rows, (row) => row[id], kindOfMetric(metric))),
            ]}
          />
        )}
      </Answer>
    </Card>
  );
}
