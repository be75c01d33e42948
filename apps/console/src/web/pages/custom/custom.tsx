import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Plus, Sigma } from 'lucide-react';
import { useState } from 'react';
import { api, queryClient } from '../../api.ts';
import { useWho } from '../../session.tsx';
import { Answer, Button, Card, Chip, Empty, Moment, PageHead } from '../../ui/parts.tsx';
import { Table } from '../../ui/table.tsx';
import { type Draft, draftOf, EMPTY, EXAMPLES, SOURCES, visibilityText } from './definition.ts';
import { Editor } from './editor.tsx';
import { Metric } from './metric.tsx';

/** Lists custom metrics, shows their values and versions, and edits them. */
export function CustomMetrics() {
  const { id } = useSearch({ from: '/frame/app/custom-metrics' });
  const navigate = useNavigate({ from: '/app/custom-metrics' });
  const who = useWho();
  const list = useQuery(api.custom.list.queryOptions({ limit: 100 }));
  const [editing, setEditing] = useState<Draft | null>(null);
  const chosen = list.data?.rows.find((metric) => metric.id === id);

  return (
    <div className="stack">
      <PageHead title="Custom metrics" note="SQL expressions over usage, checked node by node and run read-only.">
        {who.may('define') && (
          <Button kind="primary" onClick={() => setEditing(EMPTY)}>
            <Plus size={16} aria-hidden="true" />
            New metric
          </Button>
        )}
      </PageHead>
      <Card flush>
        <Answer query={list}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty
                icon={Sigma}
                title="No custom metrics that you may see"
                tools={
                  who.may('define')
                    ? EXAMPLES.map((example) => (
                        <Button key={example.name} onClick={() => setEditing({ ...EMPTY, ...example })}>
                          <Sigma size={14} aria-hidden="true" />
                          {example.name}
                        </Button>
                      ))
                    : undefined
                }
              >
                {who.may('define')
                  ? 'A formula over usage, computed whenever it is asked for. Begin with one of these:'
                  : 'An analyst or admin can define them.'}
              </Empty>
            ) : (
              <Table
                label="Custom metrics"
                rows={rows}
                keyOf={(metric) => metric.id}
                columns={[
                  {
                    title: 'Name',
                    cell: (metric) => (
                      <button
                        type="button"
                        className="link"
                        onClick={() => void navigate({ search: { id: metric.id } })}
                      >
                        {metric.name}
                      </button>
                    ),
                  },
                  { title: 'Formula', mono: true, wrap: true, cell: (metric) => metric.calculationFormula },
                  {
                    title: 'From',
                    cell: ({ dataSource }) => SOURCES.find(({ value }) => value === dataSource)?.label ?? dataSource,
                  },
                  { title: 'Seen by', cell: ({ visibility }) => <Chip>{visibilityText(visibility)}</Chip> },
                  { title: 'Version', right: true, cell: ({ version }) => <span className="num">{version}</span> },
                  {
                    title: 'Changed',
                    cell: ({ updatedAt }) => (updatedAt ? <Moment time={updatedAt} ago /> : '–'),
                  },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      {chosen && (
        <Metric
          key={`${chosen.id} ${chosen.version}`}
          metric={chosen}
          onEdit={() => setEditing(draftOf(chosen))}
          onGone={() => void navigate({ search: {} })}
        />
      )}
      {editing && (
        <Editor
          draft={editing}
          onClose={() => setEditing(null)}
          onSaved={(saved) => {
            setEditing(null);
            void queryClient.invalidateQueries({ queryKey: [['custom']] });
            void navigate({ search: { id: saved } });
          }}
        />
      )}
    </div>
  );
}
