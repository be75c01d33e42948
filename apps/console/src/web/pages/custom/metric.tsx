import { useMutation, useQuery } from '@tanstack/react-query';
import { Pencil, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { api, client, queryClient } from '../../api.ts';
import { useWho } from '../../session.tsx';
import { addDays, rangeText, today } from '../../time.ts';
import { Answer, Button, Card, Moment, Skeleton } from '../../ui/parts.tsx';
import { Confirm, tell, tellFailure } from '../../ui/popups.tsx';
import { type Definition, PREVIEW_DAYS } from './definition.ts';
import { Result } from './result.tsx';

/** Shows a metric: its value of the last days, its versions, and its changes. */
export function Metric({ metric, onEdit, onGone }: { metric: Definition; onEdit: () => void; onGone: () => void }) {
  const who = useWho();
  const range = { startDate: addDays(today(), 1 - PREVIEW_DAYS), endDate: today() };
  const administers = who.may('admin') && (who.merchantId === null || who.merchantId === metric.merchantId);
  const mayChange = administers || metric.ownerId === who.keyId;
  const versions = useQuery(api.custom.versions.queryOptions({ id: metric.id }));
  const audit = useQuery(api.custom.audit.queryOptions({ id: metric.id, limit: 20 }, { enabled: mayChange }));
  const result = useQuery({
    queryKey: ['custom-result', metric.id, metric.version, range],
    queryFn: ({ signal }) => client.custom.calculate.mutate({ id: metric.id, ...range }, { signal }),
    enabled: who.may('define'),
    retry: false,
  });
  const [removing, setRemoving] = useState(false);
  const remove = useMutation({
    mutationFn: () => client.custom.remove.mutate({ id: metric.id }),
    onSuccess: async () => {
      tell('Removed', metric.name);
      await queryClient.invalidateQueries({ queryKey: [['custom']] });
      onGone();
    },
    onError: tellFailure,
  });
  return (
    <div className="wide-two">
      <Card
        title={metric.name}
        note={`version ${metric.version}`}
        tools={
          mayChange ? (
            <span className="tools">
              <Button small onClick={onEdit}>
                <Pencil size={14} aria-hidden="true" />
                Edit
              </Button>
              <Button small kind="danger" onClick={() => setRemoving(true)}>
                <Trash2 size={14} aria-hidden="true" />
                Remove
              </Button>
            </span>
          ) : undefined
        }
      >
        <div className="stack">
          {metric.description && <p className="muted">{metric.description}</p>}
          <pre className="code formula">{metric.calculationFormula}</pre>
          {who.may('define') && (
            <>
              <h3>{rangeText(range)}</h3>
              <Answer query={result} waiting={<Skeleton height={40} width={200} />}>
                {(answer) => <Result answer={answer} />}
              </Answer>
            </>
          )}
        </div>
      </Card>
      <div className="stack">
        <Card title="Versions" flush>
          <Answer query={versions}>
            {({ rows }) => (
              <ul className="series-list">
                {rows.map((version) => (
                  <li key={version.version}>
                    <span>
                      Version {version.version}
                      <small className="mono">{version.definition.calculationFormula}</small>
                    </span>
                    <Moment time={version.createdAt} ago />
                  </li>
                ))}
              </ul>
            )}
          </Answer>
        </Card>
        {audit.data && (
          <Card title="Audit" flush>
            <ul className="series-list">
              {audit.data.rows.map((entry) => (
                <li key={`${entry.at} ${entry.action} ${entry.callerId}`}>
                  <span>
                    {entry.action}
                    <small>
                      {entry.callerId} · {entry.outcome}
                    </small>
                  </span>
                  <Moment time={entry.at} ago />
                </li>
              ))}
            </ul>
          </Card>
        )}
      </div>
      <Confirm
        open={removing}
        onClose={() => setRemoving(false)}
        title={`Remove ${metric.name}?`}
        text="The audit log keeps its versions, but nobody can calculate it again."
        action="Remove"
        busy={remove.isPending}
        run={() => remove.mutate()}
      />
    </div>
  );
}
