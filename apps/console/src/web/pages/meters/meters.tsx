import type { Meter } from '@tally/contracts';
import { useMutation, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { Gauge, Plus } from 'lucide-react';
import { useState } from 'react';
import { api, client } from '../../api.ts';
import { measureOfMetric } from '../../measures.ts';
import { useWho } from '../../session.tsx';
import { Answer, Button, Card, Chip, Empty, PageHead } from '../../ui/parts.tsx';
import { Confirm, tell, tellFailure } from '../../ui/popups.tsx';
import { RowActions, Table } from '../../ui/table.tsx';
import { dimensionText, refreshMeters } from './meter.ts';
import { ChangeMeter, NewMeter } from './new-meter.tsx';

/** Lists, creates and removes meters; the explorer shows their usage. */
export function Meters() {
  const who = useWho();
  const list = useQuery(api.meters.list.queryOptions());
  const [creating, setCreating] = useState(false);
  const [removing, setRemoving] = useState<Meter | null>(null);
  const [editing, setEditing] = useState<Meter | null>(null);
  const isAdmin = who.may('admin');
  const remove = useMutation({
    mutationFn: ({ key, merchantId }: Meter) => client.meters.remove.mutate({ key, ...(merchantId && { merchantId }) }),
    onSuccess: async (_answer, { name }) => {
      setRemoving(null);
      tell('Removed', name);
      await refreshMeters();
    },
    onError: tellFailure,
  });
  const rows = list.data?.rows as Meter[] | undefined;
  // Built-in meters are the measures of the explorer.
  const own = rows?.filter(({ id }) => id !== null);
  const create = (
    <Button kind="primary" onClick={() => setCreating(true)}>
      <Plus size={16} aria-hidden="true" />
      New meter
    </Button>
  );

  return (
    <div className="stack">
      <PageHead title="Meters" note="Named quantities with dimensions of their own, kept for years.">
        {isAdmin && create}
      </PageHead>
      {own?.length === 0 && (
        <Card>
          <Empty icon={Gauge} title="No meters of your own yet" tools={isAdmin ? create : undefined}>
            A meter counts a quantity that you name, such as GPU hours or pages read, by dimensions that you choose.
            Events that are still kept are counted, too.
          </Empty>
        </Card>
      )}
      <Card title="All meters" note={rows && `${rows.length}, built-in ones among them`} flush>
        <Answer query={{ ...list, data: rows }}>
          {(meters) => (
            <Table
              label="Meters"
              rows={meters}
              keyOf={({ key, merchantId }) => `${key} ${merchantId}`}
              columns={[
                {
                  title: 'Name',
                  cell: ({ id, key, merchantId, name }) => (
                    <span className="cell-name">
                      <span>
                        <Link
                          className="link"
                          to="/app/explorer"
                          search={
                            id === null
                              ? { measure: measureOfMetric(key)?.id ?? 'cost' }
                              : { meter: key, ...(merchantId && { of: merchantId }) }
                          }
                        >
                          {name}
                        </Link>
                        {name !== key && (
                          <small className="mono" title={key}>
                            {key}
                          </small>
                        )}
                      </span>
                    </span>
                  ),
                },
                { title: 'Counts', cell: (meter) => <Counts meter={meter} /> },
                { title: 'Unit', cell: ({ unit }) => unit ?? '–' },
                {
                  title: 'By',
                  wrap: true,
                  cell: ({ dimensions }) =>
                    dimensions.length === 0 ? (
                      <span className="muted">merchant only</span>
                    ) : (
                      <span className="filters">
                        {dimensions.map((dimension) => (
                          <Chip key={dimension}>{dimensionText(dimension)}</Chip>
                        ))}
                      </span>
                    ),
                },
                { title: 'Merchant', cell: ({ merchantId }) => merchantId ?? <span className="muted">all</span> },
                { title: 'History', cell: (meter) => <History meter={meter} /> },
                isAdmin && {
                  title: 'Actions',
                  untitled: true,
                  right: true,
                  cell: (meter) =>
                    meter.id === null ? (
                      <span className="muted">built in</span>
                    ) : (
                      (who.merchantId === null || who.merchantId === meter.merchantId) && (
                        <RowActions
                          name={meter.name}
                          onChange={() => setEditing(meter)}
                          onRemove={() => setRemoving(meter)}
                        />
                      )
                    ),
                },
              ]}
            />
          )}
        </Answer>
      </Card>
      {creating && <NewMeter bound={who.merchantId} onClose={() => setCreating(false)} />}
      {editing && <ChangeMeter meter={editing} onClose={() => setEditing(null)} />}
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title={`Remove ${removing?.name ?? ''}?`}
        text="Its sums are removed; the events stay. A meter with this key can be created again, from the events that are still kept."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </div>
  );
}

const AGGREGATIONS: Record<Meter['aggregation'], string> = {
  SUM: 'sum of',
  COUNT: 'number of calls',
  UNIQUE: 'different values of',
  MAX: 'greatest',
  MIN: 'least',
  LATEST: 'latest',
  PERCENTILE: 'percentile of',
};

function Counts({ meter: { aggregation, metricType, valueProperty, eventType, filters } }: { meter: Meter }) {
  if (aggregation === 'SUM' && !metricType && !valueProperty) return <>what Tally priced</>;
  const conditions = [
    ...(eventType ? [`event type ${eventType}`] : []),
    ...Object.entries(filters).map(([dimension, values]) => `${dimensionText(dimension)} ${values.join(' or ')}`),
  ];
  return (
    <>
      {AGGREGATIONS[aggregation]} <span className="mono">{metricType ?? valueProperty}</span>
      {conditions.length > 0 && <small className="muted"> where {conditions.join(', ')}</small>}
    </>
  );
}

function History({ meter: { id, history } }: { meter: Meter }) {
  if (id === null) return <span className="muted">always</span>;
  if (history.from === null) return <span className="muted">from its creation on</span>;
  if (history.daysDone < history.days)
    return (
      <Chip tone="warn">
        {history.daysDone} of {history.days} days computed
      </Chip>
    );
  return <>from {history.from}</>;
}
