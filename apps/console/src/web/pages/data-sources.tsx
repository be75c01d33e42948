import { useMutation, useQuery } from '@tanstack/react-query';
import { Database, Plus, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { api, client, queryClient } from '../api.ts';
import { useWho } from '../session.tsx';
import { Field } from '../ui/field.tsx';
import { AdminsOnly, Answer, Button, Card, Chip, Empty, Moment, PageHead } from '../ui/parts.tsx';
import { Confirm, FormDialog, tell, tellFailure } from '../ui/popups.tsx';
import { Table } from '../ui/table.tsx';

const refresh = () => queryClient.invalidateQueries({ queryKey: [['custom', 'sources']] });

/** Lists views of the host application that custom metrics can use, and registers them. */
export function DataSources() {
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const list = useQuery(api.custom.sources.list.queryOptions(undefined, { enabled: isAdmin }));
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<string | null>(null);
  const remove = useMutation({
    mutationFn: (name: string) => client.custom.sources.remove.mutate({ name }),
    onSuccess: async ({ name }) => {
      setRemoving(null);
      tell('Removed', name);
      await refresh();
    },
    onError: tellFailure,
  });
  if (!isAdmin) return <AdminsOnly title="Data sources" what="see data sources" />;
  const add = (
    <Button kind="primary" onClick={() => setAdding(true)}>
      <Plus size={16} aria-hidden="true" />
      Add a source
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Data sources" note="Views of your own database that custom metrics can compute from.">
        {add}
      </PageHead>
      <Card flush>
        <Answer query={list}>
          {({ rows }) =>
            rows.length === 0 ? (
              <Empty icon={Database} title="No data sources yet" tools={add}>
                Custom metrics compute from events, daily usage and rollups. Add a view of your own tables to compute
                cost per order or usage per seat.
              </Empty>
            ) : (
              <Table
                label="Data sources"
                rows={rows}
                keyOf={({ name }) => name}
                columns={[
                  { title: 'Name', mono: true, cell: ({ name }) => name },
                  { title: 'View', mono: true, cell: ({ view }) => view },
                  {
                    title: 'Columns',
                    wrap: true,
                    cell: ({ columns }) => (
                      <span className="filters">
                        {columns.map(({ name, type, unit }) => (
                          <Chip key={name}>
                            {name} · {type}
                            {unit && ` in ${unit}`}
                          </Chip>
                        ))}
                      </span>
                    ),
                  },
                  { title: 'Day', mono: true, cell: ({ dateColumn }) => dateColumn },
                  {
                    title: 'Merchant',
                    cell: ({ merchantColumn }) =>
                      merchantColumn ? (
                        <span className="mono">{merchantColumn}</span>
                      ) : (
                        <span className="muted">for keys of all merchants only</span>
                      ),
                  },
                  { title: 'Added', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
                  {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: ({ name }) => (
                      <Button kind="plain" small icon aria-label={`Remove ${name}`} onClick={() => setRemoving(name)}>
                        <Trash2 size={15} aria-hidden="true" />
                      </Button>
                    ),
                  },
                ]}
              />
            )
          }
        </Answer>
      </Card>
      {adding && <Register onClose={() => setAdding(false)} />}
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title={`Remove ${removing ?? ''}?`}
        text="Metrics that use it remain, but fail until you add it again."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </div>
  );
}

const FIELDS = [
  ['name', 'Name', 'licenses', 'How formulas and the editor call it', true],
  ['view', 'View', 'app.licenses', 'The schema and the view, or a view of the schema public', true],
  ['dateColumn', 'Column of the day', 'day', 'A date or a time: ranges select by it', true],
  ['merchantColumn', 'Column of the merchant', 'customer', 'Empty: only for keys of all merchants', false],
] as const;

type ColumnType = 'number' | 'text' | 'boolean' | 'date' | 'time';

/** Parses `name type`, one per line. */
export function columnsOf(text: string): { name: string; type: ColumnType; unit?: string }[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .map((line) => {
      const [name = '', type = 'number', unit] = line.split(/\s+/);
      return { name, type: type as ColumnType, ...(unit && { unit }) };
    });
}

function Register({ onClose }: { onClose: () => void }) {
  const [draft, setDraft] = useState({ name: '', view: '', dateColumn: '', merchantColumn: '' });
  const [columns, setColumns] = useState('');
  const save = useMutation({
    mutationFn: () => {
      const { merchantColumn, ...rest } = draft;
      return client.custom.sources.register.mutate({
        ...rest,
        columns: columnsOf(columns),
        ...(merchantColumn && { merchantColumn }),
      });
    },
    onSuccess: async ({ name }) => {
      tell('Added', name);
      onClose();
      await refresh();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title="Add a source"
      text="Formulas read the view with the rights of tally_reader: grant it usage of the schema and select on the view."
      save={save}
      action="Add"
      working="Adding…"
    >
      <div className="form-row">
        {FIELDS.map(([field, label, placeholder, note, required]) => (
          <Field
            key={field}
            label={label}
            mono
            required={required}
            placeholder={placeholder}
            note={note}
            value={draft[field]}
            onChange={(value) => setDraft({ ...draft, [field]: value.trim() })}
          />
        ))}
      </div>
      <div className="field">
        <label htmlFor="source-columns">Columns</label>
        <textarea
          id="source-columns"
          className="input formula"
          required
          spellCheck={false}
          placeholder={'seats number\nplan text\nprice number USD'}
          value={columns}
          onChange={(event) => setColumns(event.target.value)}
        />
        <small>One a line: name, kind (number, text, boolean, date, time) and optionally its unit.</small>
      </div>
    </FormDialog>
  );
}
