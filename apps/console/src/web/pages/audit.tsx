import { useInfiniteQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { ScrollText } from 'lucide-react';
import { useState } from 'react';
import { client } from '../api.ts';
import { format } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { addDays, today } from '../time.ts';
import { AdminsOnly, Answer, Button, Card, Chip, Code, Empty, Moment, PageHead } from '../ui/parts.tsx';
import { Dialog } from '../ui/popups.tsx';
import { RangePicker } from '../ui/range.tsx';
import { LoadMore, Table } from '../ui/table.tsx';

type Row = {
  id: string;
  at: string;
  service: string;
  action: string;
  actor: string;
  role: string;
  merchantIds: string[];
  targetId: string | null;
  input: Record<string, unknown>;
  outcome: string | null;
  durationMs: number | null;
};

const PAGE = 100;
const DAYS = 30;

/** Shows every administrative call, newest first. */
export function Audit() {
  const search = useSearch({ from: '/frame/app/audit' });
  const navigate = useNavigate({ from: '/app/audit' });
  const who = useWho();
  const [open, setOpen] = useState<Row | null>(null);
  const range = { startDate: search.from ?? addDays(today(), 1 - DAYS), endDate: search.to ?? today() };
  const { actor, action } = search;
  const log = useInfiniteQuery({
    queryKey: ['audit', range, actor, action],
    queryFn: ({ pageParam, signal }) =>
      client.audit.list.query(
        {
          ...range,
          ...(actor && { actor }),
          ...(action && { action }),
          limit: PAGE,
          ...(pageParam ? { cursor: pageParam } : {}),
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    enabled: who.mayPlatform('admin'),
  });
  if (!who.mayPlatform('admin')) return <AdminsOnly title="Audit log" what="see the audit log" />;
  const rows = log.data?.pages.flatMap((page) => page.rows as Row[]);
  const set = (next: { actor?: string | undefined; action?: string | undefined }) =>
    void navigate({ search: (known) => ({ ...known, ...next }) });
  return (
    <div className="stack">
      <PageHead title="Audit log" note="Every administrative call: who, when, what, and how it ended.">
        <RangePicker
          range={range}
          onChange={({ startDate, endDate }) =>
            void navigate({ search: (known) => ({ ...known, from: startDate, to: endDate }) })
          }
        />
      </PageHead>
      {(actor || action) && (
        <div className="filters">
          {actor && <Chosen name="By" value={actor} onRemove={() => set({ actor: undefined })} />}
          {action && <Chosen name="Action" value={action} onRemove={() => set({ action: undefined })} />}
        </div>
      )}
      <Card flush>
        <Answer query={{ ...log, data: rows }}>
          {(all) =>
            all.length === 0 ? (
              <Empty icon={ScrollText} title="Nothing was changed">
                No administrative call matches. Calls that were refused before they ran are in the request log only.
              </Empty>
            ) : (
              <Table
                label="Audit log"
                rows={all}
                keyOf={({ id }) => id}
                columns={[
                  { title: 'When', cell: ({ at }) => <Moment time={at} /> },
                  {
                    title: 'By',
                    cell: (row) => (
                      <button
                        type="button"
                        className="link"
                        title={`Only calls by ${row.actor}`}
                        onClick={() => set({ actor: row.actor })}
                      >
                        {shortened(row.actor)}
                      </button>
                    ),
                  },
                  {
                    title: 'Action',
                    cell: (row) => (
                      <button
                        type="button"
                        className="link mono"
                        title={`Only ${row.action}`}
                        onClick={() => set({ action: row.action })}
                      >
                        {row.action}
                      </button>
                    ),
                  },
                  { title: 'Merchant', cell: ({ merchantIds }) => merchantsText(merchantIds) },
                  { title: 'What', mono: true, cell: ({ targetId }) => (targetId ? shortened(targetId) : '–') },
                  { title: 'Outcome', cell: ({ outcome }) => <Outcome of={outcome} /> },
                  {
                    title: 'Details',
                    untitled: true,
                    right: true,
                    cell: (row) => (
                      <Button small aria-label={`Details of ${row.action}`} onClick={() => setOpen(row)}>
                        Details
                      </Button>
                    ),
                  },
                ]}
              >
                <LoadMore list={log}>Newest first.</LoadMore>
              </Table>
            )
          }
        </Answer>
      </Card>
      <Dialog
        peek
        open={open !== null}
        onClose={() => setOpen(null)}
        wide
        title={open?.action ?? ''}
        text={open && <Moment time={open.at} />}
      >
        {open && (
          <div className="stack">
            <dl className="facts">
              <dt>By</dt>
              <dd className="mono">{open.actor}</dd>
              <dt>Role</dt>
              <dd>{open.role}</dd>
              <dt>Service</dt>
              <dd>{open.service}</dd>
              <dt>Merchants</dt>
              <dd>{open.merchantIds.join(', ') || 'all'}</dd>
              <dt>What</dt>
              <dd className="mono">{open.targetId ?? '–'}</dd>
              <dt>Outcome</dt>
              <dd>
                <Outcome of={open.outcome} />
              </dd>
              <dt>Took</dt>
              <dd className="num">
                {open.durationMs === null ? 'unknown' : `${format(String(open.durationMs), 'count')} ms`}
              </dd>
            </dl>
            <Code>{JSON.stringify(open.input, null, 2)}</Code>
            <div className="dialog-actions">
              <Button kind="primary" onClick={() => setOpen(null)}>
                Close
              </Button>
            </div>
          </div>
        )}
      </Dialog>
    </div>
  );
}

const MAX_SHOWN = 24;
const shortened = (id: string) => (id.length > MAX_SHOWN ? `${id.slice(0, MAX_SHOWN - 1)}…` : id);
const merchantsText = (ids: readonly string[]) =>
  ids.length === 0 ? '–' : ids.length === 1 ? ids[0] : `${ids[0]} and ${ids.length - 1} more`;

const Outcome = ({ of: outcome }: { of: string | null }) =>
  outcome === null ? <Chip tone="warn">unknown</Chip> : <Chip tone={outcome === 'ok' ? 'good' : 'bad'}>{outcome}</Chip>;

const Chosen = ({ name, value, onRemove }: { name: string; value: string; onRemove: () => void }) => (
  <div className="filter">
    <button type="button" aria-label={`Remove the filter ${name}: ${value}`} onClick={onRemove}>
      <span>
        {name} <b>{value}</b> ×
      </span>
    </button>
  </div>
);
