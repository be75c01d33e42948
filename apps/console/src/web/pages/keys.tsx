import type { Role } from '@tally/contracts';
import { useInfiniteQuery, useMutation } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Ban, Ellipsis, KeyRound, Plus, RefreshCw } from 'lucide-react';
import { useState } from 'react';
import { client, queryClient } from '../api.ts';
import { useWho } from '../session.tsx';
import { SearchBox } from '../ui/field.tsx';
import { AdminsOnly, Answer, Button, Card, Chip, Clip, Empty, Moment, PageHead } from '../ui/parts.tsx';
import { Confirm, FormDialog, Menu, Secret, Segments, Select, tell, tellFailure } from '../ui/popups.tsx';
import { LoadMore, Table } from '../ui/table.tsx';

const ROLES: readonly { value: Exclude<Role, 'service'>; label: string; note: string }[] = [
  { value: 'producer', label: 'Producer', note: 'records usage' },
  { value: 'member', label: 'Member', note: 'records and reads' },
  { value: 'viewer', label: 'Viewer', note: 'reads' },
  { value: 'analyst', label: 'Analyst', note: 'reads, defines custom metrics' },
  { value: 'admin', label: 'Admin', note: 'may do everything' },
];

type Key = {
  id: string;
  name: string;
  role: string;
  merchantId: string | null;
  teamId: string | null;
  createdAt: string;
  lastUsedAt: string | null;
  expiresAt: string | null;
  revokedAt: string | null;
  previousSecretExpiresAt: string | null;
};

const UNUSED_DAYS = 90;
const DAY_MS = 86_400_000;

/** Creates, rotates and revokes API keys. */
export function Keys() {
  const { revoked = false, find } = useSearch({ from: '/frame/app/keys' });
  const navigate = useNavigate({ from: '/app/keys' });
  const who = useWho();
  const [creating, setCreating] = useState(false);
  const [shown, setShown] = useState<{ name: string; key: string } | null>(null);
  const [asked, setAsked] = useState<{ what: 'revoke' | 'rotate'; key: Key } | null>(null);
  const keys = useInfiniteQuery({
    queryKey: ['keys', revoked, find],
    queryFn: ({ pageParam, signal }) => {
      const page = { ...(find && { search: find }), ...(pageParam && { cursor: pageParam }) };
      return client.keys.list.query({ includeRevoked: revoked, ...page }, { signal });
    },
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    enabled: who.mayPlatform('admin'),
  });
  const refresh = () => queryClient.invalidateQueries({ queryKey: ['keys'] });
  const act = useMutation({
    mutationFn: async ({ what, key }: { what: 'revoke' | 'rotate'; key: Key }) =>
      what === 'revoke' ? client.keys.revoke.mutate({ id: key.id }) : client.keys.rotate.mutate({ id: key.id }),
    onSuccess: async (answer, { what, key }) => {
      setAsked(null);
      if ('key' in answer) setShown({ name: key.name, key: answer.key as string });
      else tell(what === 'revoke' ? 'Revoked' : 'Rotated', key.name);
      await refresh();
    },
    onError: tellFailure,
  });
  if (!who.mayPlatform('admin')) return <AdminsOnly title="API keys" what="see API keys" />;
  const rows = keys.data?.pages.flatMap((page) => page.rows as Key[]);

  return (
    <div className="stack">
      <PageHead title="API keys" note="Only hashes are kept: a secret is shown once, when it is made.">
        <Segments
          label="Which keys"
          value={revoked ? 'all' : 'living'}
          options={[
            { value: 'living', label: 'In use' },
            { value: 'all', label: 'With revoked' },
          ]}
          onChange={(next) =>
            void navigate({ search: ({ find }) => ({ find, ...(next === 'all' && { revoked: true }) }), replace: true })
          }
        />
        <Button kind="primary" onClick={() => setCreating(true)}>
          <Plus size={16} aria-hidden="true" />
          New key
        </Button>
      </PageHead>
      <Card
        title={revoked ? 'All keys' : 'Keys in use'}
        note="oldest first"
        tools={
          <SearchBox
            label="Search API keys"
            value={find ?? ''}
            onChange={(text) =>
              void navigate({ search: ({ revoked }) => ({ revoked, ...(text && { find: text }) }), replace: true })
            }
          />
        }
        flush
      >
        <Answer query={{ ...keys, data: rows }}>
          {(all) =>
            all.length === 0 && find ? (
              <Empty title={`No API key with “${find}”`}>
                The search looks in names, merchants, teams and ids of keys.
              </Empty>
            ) : all.length === 0 ? (
              <Empty
                icon={KeyRound}
                title="No API keys yet"
                tools={
                  <Button kind="primary" onClick={() => setCreating(true)}>
                    New key
                  </Button>
                }
              >
                You are signed in with a key of the settings. Make one for each program and person, with no more rights
                than it needs.
              </Empty>
            ) : (
              <Table
                label="API keys"
                rows={all}
                keyOf={({ id }) => id}
                columns={[
                  {
                    title: 'Name',
                    cell: ({ id, name }) => (
                      <span title={id}>
                        {name} {id === who.keyId && <Chip tone="accent">you</Chip>}
                      </span>
                    ),
                  },
                  {
                    title: 'Role',
                    cell: ({ role }) => <Chip tone={role === 'admin' ? 'accent' : undefined}>{role}</Chip>,
                  },
                  {
                    title: 'Merchant',
                    cell: ({ merchantId }) =>
                      merchantId ? <Clip>{merchantId}</Clip> : <span className="muted">all</span>,
                  },
                  { title: 'Team', cell: ({ teamId }) => (teamId ? <Clip>{teamId}</Clip> : '–') },
                  { title: 'Last used', cell: (key) => <LastUse of={key} /> },
                  { title: 'Expires', cell: (key) => <Expiry of={key} /> },
                  { title: 'Created', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
                  {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (key) =>
                      key.revokedAt === null && (
                        <Menu
                          button={
                            <Button kind="plain" small icon aria-label={`Actions for ${key.name}`}>
                              <Ellipsis size={17} aria-hidden="true" />
                            </Button>
                          }
                          actions={[
                            {
                              label: 'Rotate',
                              icon: <RefreshCw size={15} />,
                              run: () => setAsked({ what: 'rotate', key }),
                            },
                            { label: 'Revoke', icon: <Ban size={15} />, run: () => setAsked({ what: 'revoke', key }) },
                          ]}
                        />
                      ),
                  },
                ]}
              >
                <LoadMore list={keys}>Oldest first.</LoadMore>
              </Table>
            )
          }
        </Answer>
      </Card>
      {creating && (
        <NewKey
          onClose={() => setCreating(false)}
          onMade={(made) => {
            setCreating(false);
            setShown(made);
            void refresh();
          }}
        />
      )}
      <Secret
        title={`The secret of ${shown?.name ?? ''}`}
        text="Copy it now: it is shown here once, and only its hash is kept."
        secret={shown?.key ?? null}
        onClose={() => setShown(null)}
      />
      <Confirm
        open={asked !== null}
        onClose={() => setAsked(null)}
        busy={act.isPending}
        title={asked?.what === 'revoke' ? `Revoke ${asked.key.name}?` : `Rotate ${asked?.key.name}?`}
        text={
          asked?.what === 'revoke'
            ? 'Within a second every service refuses it, and its sessions end. It cannot be undone.'
            : 'It gets a new secret, shown once. The old one works for another day, so that programs can be changed in peace.'
        }
        action={asked?.what === 'revoke' ? 'Revoke' : 'Rotate'}
        run={() => asked && act.mutate(asked)}
      />
    </div>
  );
}

function LastUse({ of: { lastUsedAt, createdAt } }: { of: Key }) {
  if (lastUsedAt === null) return <span className="muted">never</span>;
  const old = Date.now() - Date.parse(lastUsedAt ?? createdAt) > UNUSED_DAYS * DAY_MS;
  return (
    <>
      <Moment time={lastUsedAt} ago /> {old && <Chip tone="warn">unused</Chip>}
    </>
  );
}

function Expiry({ of: { expiresAt, revokedAt, previousSecretExpiresAt } }: { of: Key }) {
  if (revokedAt !== null) return <Chip tone="bad">revoked</Chip>;
  if (expiresAt !== null && Date.parse(expiresAt) <= Date.now()) return <Chip tone="bad">expired</Chip>;
  const overlaps = previousSecretExpiresAt !== null && Date.parse(previousSecretExpiresAt) > Date.now();
  return (
    <>
      {expiresAt === null ? <span className="muted">never</span> : <Moment time={expiresAt} />}{' '}
      {overlaps && <Chip tone="warn">two secrets</Chip>}
    </>
  );
}

function NewKey({ onClose, onMade }: { onClose: () => void; onMade: (made: { name: string; key: string }) => void }) {
  const [name, setName] = useState('');
  const [role, setRole] = useState<(typeof ROLES)[number]['value']>('producer');
  const [merchantId, setMerchantId] = useState('');
  const [teamId, setTeamId] = useState('');
  const [expires, setExpires] = useState('');
  const make = useMutation({
    mutationFn: () =>
      client.keys.create.mutate({
        name: name.trim(),
        role,
        ...(merchantId.trim() && { merchantId: merchantId.trim() }),
        ...(teamId.trim() && { teamId: teamId.trim() }),
        ...(expires && { expiresAt: `${expires}T23:59:59Z` }),
      }),
    onSuccess: ({ key }) => onMade({ name: name.trim(), key }),
  });
  return (
    <FormDialog
      onClose={onClose}
      title="New API key"
      text="Create one for each program or person, with only the rights it needs."
      save={make}
      action="Make the key"
      working="Making…"
    >
      <div className="field">
        <label htmlFor="key-name">Name</label>
        <input
          id="key-name"
          className="input"
          required
          maxLength={100}
          placeholder="shop API"
          value={name}
          onChange={(event) => setName(event.target.value)}
        />
      </div>
      <div className="field">
        <span className="label">Role</span>
        <Select label="Role" value={role} options={ROLES} onChange={setRole} />
        <small>{ROLES.find(({ value }) => value === role)?.note}</small>
      </div>
      <div className="form-row">
        <div className="field">
          <label htmlFor="key-merchant">Merchant</label>
          <input
            id="key-merchant"
            className="input"
            placeholder="all merchants"
            value={merchantId}
            onChange={(event) => setMerchantId(event.target.value)}
          />
          <small>A key that is bound to a merchant sees nothing of others: safe to hand to a customer.</small>
        </div>
        <div className="field">
          <label htmlFor="key-team">Team</label>
          <input
            id="key-team"
            className="input"
            placeholder="none"
            value={teamId}
            onChange={(event) => setTeamId(event.target.value)}
          />
          <small>Shares custom metrics with the same team.</small>
        </div>
      </div>
      <div className="field">
        <label htmlFor="key-expires">Last day</label>
        <input
          id="key-expires"
          className="input"
          type="date"
          value={expires}
          onChange={(event) => setExpires(event.target.value)}
        />
        <small>Empty: it does not expire.</small>
      </div>
    </FormDialog>
  );
}
