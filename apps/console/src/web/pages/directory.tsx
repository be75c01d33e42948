import { useMutation, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Pencil, Plus, Upload, Users, UserX } from 'lucide-react';
import { useState } from 'react';
import { api, client, messageOf, queryClient } from '../api.ts';
import { type Entry, entriesOf } from '../csv.ts';
import { format } from '../quantity.ts';
import { useWho } from '../session.tsx';
import { Field, SearchBox } from '../ui/field.tsx';
import { Answer, Banner, Button, Card, Empty, PageHead } from '../ui/parts.tsx';
import { Dialog, FormDialog, Segments, tell, tellFailure } from '../ui/popups.tsx';
import { Pager, Table } from '../ui/table.tsx';

const KINDS = [
  { value: 'user', label: 'Users' },
  { value: 'apiKey', label: 'API keys' },
  { value: 'merchant', label: 'Merchants' },
] as const;
type Kind = (typeof KINDS)[number]['value'];

const AT_ONCE = 5_000;
const PAGE = 100;
const NEW: Entry = { id: '', name: '', email: null, role: null, merchantId: null };

/** Edits the names that reports show in place of ids. */
export function Directory() {
  const search = useSearch({ from: '/frame/app/directory' });
  const navigate = useNavigate({ from: '/app/directory' });
  const who = useWho();
  const kind = search.kind ?? 'user';
  const [editing, setEditing] = useState<Entry | null>(null);
  const [uploading, setUploading] = useState(false);
  const [erasing, setErasing] = useState(false);
  const { find, cursor: page } = search;
  const list = useQuery(
    api.directory.list.queryOptions({
      kind,
      limit: PAGE,
      ...(find && { search: find }),
      ...(page && { cursor: page }),
    }),
  );
  const isAdmin = who.may('admin');
  const refresh = () => queryClient.invalidateQueries();

  return (
    <div className="stack">
      <PageHead title="Directory" note="Names that reports show instead of ids, and teams by which usage is grouped.">
        <Segments
          label="Kind"
          value={kind}
          options={KINDS}
          onChange={(next) => void navigate({ search: { kind: next }, replace: true })}
        />
        {isAdmin && (
          <>
            {kind === 'user' && (
              <Button onClick={() => setErasing(true)}>
                <UserX size={16} aria-hidden="true" />
                Erase a user
              </Button>
            )}
            <Button onClick={() => setUploading(true)}>
              <Upload size={16} aria-hidden="true" />
              Upload CSV
            </Button>
            <Button kind="primary" onClick={() => setEditing(NEW)}>
              <Plus size={16} aria-hidden="true" />
              Add
            </Button>
          </>
        )}
      </PageHead>
      <Card
        title={KINDS.find(({ value }) => value === kind)!.label}
        tools={
          <SearchBox
            label="Search the directory"
            value={find ?? ''}
            onChange={(text) => void navigate({ search: { kind, ...(text && { find: text }) }, replace: true })}
          />
        }
        flush
      >
        <Answer query={list}>
          {({ rows, nextCursor }) =>
            rows.length === 0 && find ? (
              <Empty title={`Nothing with “${find}”`}>The search looks in names, ids and e-mail addresses.</Empty>
            ) : rows.length === 0 ? (
              <Empty icon={Users} title="No names yet">
                Reports show the ids that producers send.{' '}
                {isAdmin
                  ? 'Add names one by one, or upload a CSV with id, name, team, email and role.'
                  : 'An admin can add names.'}
              </Empty>
            ) : (
              <Table
                label="Directory"
                rows={rows}
                keyOf={({ id, merchantId }) => `${id} ${merchantId ?? ''}`}
                columns={[
                  { title: 'Name', cell: ({ name }) => name },
                  { title: 'Id', mono: true, cell: ({ id }) => id },
                  kind !== 'merchant' && { title: 'Team', cell: ({ team }) => team ?? '–' },
                  kind === 'user' && { title: 'E-mail', cell: ({ email }) => email ?? '–' },
                  kind === 'user' && { title: 'Role', cell: ({ role }) => role ?? '–' },
                  { title: 'Merchant', cell: ({ merchantId }) => merchantId ?? <span className="muted">all</span> },
                  isAdmin && {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (row) => (
                      <Button
                        kind="plain"
                        small
                        icon
                        aria-label={`Edit ${row.name}`}
                        onClick={() => setEditing({ ...NEW, ...row })}
                      >
                        <Pencil size={15} aria-hidden="true" />
                      </Button>
                    ),
                  },
                ]}
              >
                <Pager
                  cursor={page}
                  nextCursor={nextCursor}
                  onTurn={(cursor) =>
                    void navigate({ search: { kind, ...(find && { find }), ...(cursor && { cursor }) } })
                  }
                >
                  {PAGE} a page
                </Pager>
              </Table>
            )
          }
        </Answer>
      </Card>
      {editing && (
        <Edit kind={kind} entry={editing} bound={who.merchantId} onClose={() => setEditing(null)} onDone={refresh} />
      )}
      {erasing && <Erase bound={who.merchantId} onClose={() => setErasing(false)} onDone={refresh} />}
      {uploading && (
        <UploadCsv kind={kind} bound={who.merchantId} onClose={() => setUploading(false)} onDone={refresh} />
      )}
    </div>
  );
}

const upsert = (kind: Kind, entries: readonly Entry[], bound: string | null) =>
  client.directory.upsert.mutate({
    entries: entries.map((entry) => ({ ...entry, kind, merchantId: bound ?? entry.merchantId })),
  });

const FIELDS = [
  ['id', 'Id', 'As producers send it'],
  ['name', 'Name', 'Ada Lovelace'],
  ['team', 'Team', 'Research'],
  ['email', 'E-mail', 'ada@example.com'],
  ['role', 'Role', 'engineer'],
] as const;
/** Merchants have no team. */
const fieldsOf = (kind: Kind) => FIELDS.filter(([field]) => field !== 'team' || kind !== 'merchant');

function Edit({
  kind,
  entry,
  bound,
  onClose,
  onDone,
}: {
  kind: Kind;
  entry: Entry;
  bound: string | null;
  onClose: () => void;
  onDone: () => unknown;
}) {
  const [draft, setDraft] = useState(entry);
  const save = useMutation({
    mutationFn: () => upsert(kind, [draft], bound),
    onSuccess: () => {
      tell('Saved', draft.name);
      onClose();
      void onDone();
    },
  });
  const remove = useMutation({
    mutationFn: () => client.directory.remove.mutate({ kind, ids: [entry.id], merchantId: entry.merchantId }),
    onSuccess: () => {
      tell('Removed', entry.name);
      onClose();
      void onDone();
    },
    onError: tellFailure,
  });
  const known = entry.id !== '';
  return (
    <Dialog
      open
      onClose={onClose}
      title={known ? entry.name : 'Add a name'}
      text="Shown wherever usage is grouped or filtered."
    >
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          save.mutate();
        }}
      >
        {fieldsOf(kind).map(([field, label, placeholder]) => (
          <div className="field" key={field}>
            <label htmlFor={`entry-${field}`}>{label}</label>
            <input
              id={`entry-${field}`}
              className="input"
              required={field === 'id' || field === 'name'}
              readOnly={field === 'id' && known}
              placeholder={placeholder}
              value={draft[field] ?? ''}
              onChange={(event) =>
                setDraft({ ...draft, [field]: event.target.value || (field === 'id' || field === 'name' ? '' : null) })
              }
            />
          </div>
        ))}
        {save.error && <Banner tone="bad">{messageOf(save.error)}</Banner>}
        <div className="dialog-actions">
          {known && (
            <Button type="button" kind="danger" disabled={remove.isPending} onClick={() => remove.mutate()}>
              Remove
            </Button>
          )}
          <Button type="button" onClick={onClose}>
            Cancel
          </Button>
          <Button kind="primary" type="submit" disabled={save.isPending}>
            Save
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** Replaces a user of a merchant by a pseudonym, in calls of some seconds each. */
function Erase({ bound, onClose, onDone }: { bound: string | null; onClose: () => void; onDone: () => unknown }) {
  const [merchantId, setMerchantId] = useState(bound ?? '');
  const [userId, setUserId] = useState('');
  const save = useMutation({
    async mutationFn() {
      for (;;) {
        const { pseudonym, complete } = await client.users.erase.mutate({ merchantId, userId });
        if (complete) return pseudonym;
      }
    },
    onSuccess: (pseudonym) => {
      tell('Erased', `Reports name the user ${pseudonym} from now on.`);
      onClose();
      void onDone();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title="Erase a user"
      text="A random pseudonym takes the place of the id in all stored data of the merchant, and in events that come later. All numbers stay. This cannot be undone."
      save={save}
      action="Erase"
      working="Erasing…"
      kind="danger"
    >
      {bound === null && <Field label="Merchant" mono required value={merchantId} onChange={setMerchantId} />}
      <Field
        label="User"
        mono
        required
        note="The id that producers send, not the name"
        value={userId}
        onChange={setUserId}
      />
    </FormDialog>
  );
}

function UploadCsv({
  kind,
  bound,
  onClose,
  onDone,
}: {
  kind: Kind;
  bound: string | null;
  onClose: () => void;
  onDone: () => unknown;
}) {
  const [read, setRead] = useState<{ entries: Entry[]; problem: string | null } | null>(null);
  const save = useMutation({
    async mutationFn() {
      const { entries } = read!;
      for (let at = 0; at < entries.length; at += AT_ONCE) await upsert(kind, entries.slice(at, at + AT_ONCE), bound);
      return entries.length;
    },
    onSuccess: (count) => {
      tell('Saved', `${format(String(count), 'count')} names`);
      onClose();
      void onDone();
    },
  });
  const problem = read?.problem ?? null;
  return (
    <Dialog
      open
      onClose={onClose}
      title="Upload names"
      text="A CSV whose first line names its columns: id, name, and optionally email, role, team, merchantId. It replaces existing names."
    >
      <div className="form">
        <div className="field">
          <label htmlFor="names-file">File</label>
          <input
            id="names-file"
            className="input"
            type="file"
            accept=".csv,text/csv"
            onChange={(event) => {
              const [file] = event.target.files ?? [];
              if (file) void file.text().then((text) => setRead(entriesOf(text)));
            }}
          />
        </div>
        {problem && <Banner tone="bad">{problem}</Banner>}
        {read && !problem && (
          <p className="muted">
            {format(String(read.entries.length), 'count')} names, the first: {read.entries[0]?.id} is{' '}
            {read.entries[0]?.name}.
          </p>
        )}
        {save.error && <Banner tone="bad">{messageOf(save.error)}</Banner>}
        <div className="dialog-actions">
          <Button onClick={onClose}>Cancel</Button>
          <Button
            kind="primary"
            disabled={!read || problem !== null || read.entries.length === 0 || save.isPending}
            onClick={() => save.mutate()}
          >
            {save.isPending ? 'Saving…' : 'Save all'}
          </Button>
        </div>
      </div>
    </Dialog>
  );
}
