import type { Bill, BillRow } from '@tally/contracts';
import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { Download, FileCheck, FileUp, ReceiptText, Trash2 } from 'lucide-react';
import { type ReactNode, useState } from 'react';
import { client, queryClient } from '../../api.ts';
import { saveCsv } from '../../csv.ts';
import { format, isZero } from '../../quantity.ts';
import type { BillsSearch } from '../../search.ts';
import { useWho } from '../../session.tsx';
import { addDays, dayText, rangeText, today } from '../../time.ts';
import { Filters } from '../../ui/filters.tsx';
import {
  AdminsOnly,
  Answer,
  Banner,
  Button,
  Card,
  CellName,
  Chip,
  Clip,
  Digits,
  Empty,
  Moment,
  Num,
  PageHead,
  padOf,
} from '../../ui/parts.tsx';
import { Confirm, Select, tell, tellFailure } from '../../ui/popups.tsx';
import { RangePicker } from '../../ui/range.tsx';
import { LoadMore, numbers, Table } from '../../ui/table.tsx';
import { ImportBill } from './import-bill.tsx';
import { CLASS_NAMES, PROVIDERS, type Provider, REASONS, reasonTone } from './names.ts';

const DAYS = 30;
const PAGE = 100;
/** Rows of one call when all of them are downloaded. */
const EXPORT_PAGE = 1_000;

const refresh = () => queryClient.invalidateQueries({ queryKey: ['bills'] });

/** Imports bills of providers, and compares them with what Tally metered. */
export function Bills() {
  const search = useSearch({ from: '/frame/app/bills' });
  const navigate = useNavigate({ from: '/app/bills' });
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const [importing, setImporting] = useState(false);
  const provider = search.provider ?? 'openai';
  const range = { startDate: search.from ?? addDays(today(), -DAYS), endDate: search.to ?? addDays(today(), -1) };
  if (!isAdmin) return <AdminsOnly title="Bills" what="see bills" />;
  const set = (next: Partial<typeof search>) =>
    void navigate({ search: (known) => ({ ...known, ...next }), replace: true });
  const add = (
    <Button kind="primary" onClick={() => setImporting(true)}>
      <FileUp size={16} aria-hidden="true" />
      Import a bill
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Bills" note="What providers charge, compared with what Tally metered and priced, by UTC day.">
        <Select
          label="Provider"
          value={provider}
          options={PROVIDERS}
          onChange={(next: Provider) => set({ provider: next === 'openai' ? undefined : next })}
        />
        <RangePicker range={range} onChange={({ startDate, endDate }) => set({ from: startDate, to: endDate })} />
        <Filters
          range={range}
          filters={search.merchants ? { merchants: search.merchants } : {}}
          only={['merchant']}
          onChange={({ merchants }) => set({ merchants })}
        />
        {add}
      </PageHead>
      {search.merchants && (
        <Banner tone="info">The whole bill is compared with the usage of the chosen merchants only.</Banner>
      )}
      <Comparison
        question={{ provider, ...range, ...(search.merchants && { merchantIds: search.merchants }) }}
        search={search}
        set={set}
        empty={add}
      />
      <Imported provider={provider} />
      {importing && (
        <ImportBill provider={provider} onClose={() => setImporting(false)} onImported={() => void refresh()} />
      )}
    </div>
  );
}

type Question = { provider: Provider; startDate: string; endDate: string; merchantIds?: string[] };

/** Shows sums by reason, and the rows of the comparison. */
function Comparison({
  question,
  search: { reason, sort },
  set,
  empty,
}: {
  question: Question;
  search: BillsSearch;
  set: (next: Partial<BillsSearch>) => void;
  empty: ReactNode;
}) {
  const asked = { ...question, ...(reason && { reasons: [reason] }), sortBy: sort ?? ('day' as const) };
  const whole = useQuery({
    queryKey: ['bills', 'sums', question],
    queryFn: ({ signal }) => client.bills.compare.query({ ...question, limit: 1 }, { signal }),
  });
  const list = useInfiniteQuery({
    queryKey: ['bills', 'rows', asked],
    queryFn: ({ pageParam, signal }) =>
      client.bills.compare.query({ ...asked, limit: PAGE, ...(pageParam && { cursor: pageParam }) }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const save = useMutation({
    mutationFn: async () => download(await allRows(asked), asked),
    onError: tellFailure,
  });
  const rows = list.data?.pages.flatMap((page) => page.rows as BillRow[]);
  const total = list.data?.pages[0]?.total ?? 0;
  return (
    <Answer query={whole}>
      {({ byReason, totals, days, withoutBill, complete }) =>
        days.compared === 0 ? (
          <Card title="Comparison" note={rangeText(question)}>
            <Empty icon={ReceiptText} title="No bill covers these days" tools={empty}>
              Import the export of costs of your provider, and the one of usage: Tally compares them with its own
              numbers by day, model and class of tokens, and says why they differ.
            </Empty>
          </Card>
        ) : (
          <>
            {!complete && <Banner>Some usage could not be read yet, so our numbers may be too low.</Banner>}
            {withoutBill.length > 0 && (
              <Banner tone="info">
                {withoutBill.length === 1
                  ? `${dayText(withoutBill[0]!)} has no bill and is not compared.`
                  : `${withoutBill.length} days have no bill and are not compared, the first is ${dayText(withoutBill[0]!)}.`}
              </Banner>
            )}
            <Card title="Why they differ" note={rangeText(question)} flush>
              <Table
                label="Differences by reason"
                rows={byReason}
                keyOf={(row) => row.reason}
                columns={[
                  {
                    title: 'Reason',
                    foot: 'All',
                    cell: (row) => (
                      <button
                        type="button"
                        className="link"
                        title="Show only these rows"
                        onClick={() => set({ reason: row.reason === reason ? undefined : row.reason })}
                      >
                        {REASONS[row.reason]}
                      </button>
                    ),
                  },
                  {
                    ...numbers('Rows', byReason, (row) => String(row.rows)),
                    foot: format(String(totals.rows), 'count'),
                  },
                  { ...numbers('On the bill', byReason, ({ bill }) => bill, 'money'), foot: money(totals.bill) },
                  { ...numbers('With us', byReason, ({ ours }) => ours, 'money'), foot: money(totals.ours) },
                  {
                    ...numbers('Difference', byReason, ({ difference }) => difference, 'money'),
                    foot: money(totals.difference),
                  },
                ]}
              />
            </Card>
            <Card
              title="By day, model and class"
              note={reason ? REASONS[reason] : `${format(String(total), 'count')} rows`}
              tools={
                <div className="tools">
                  {reason && (
                    <Button small onClick={() => set({ reason: undefined })}>
                      All reasons
                    </Button>
                  )}
                  <Select
                    label="Order"
                    value={sort ?? 'day'}
                    options={[
                      { value: 'day', label: 'By day' },
                      { value: 'difference', label: 'Greatest difference first' },
                    ]}
                    onChange={(next) => set({ sort: next === 'day' ? undefined : 'difference' })}
                  />
                  <Button disabled={save.isPending || total === 0} onClick={() => save.mutate()}>
                    <Download size={15} aria-hidden="true" />
                    {save.isPending ? 'Reading…' : 'CSV'}
                  </Button>
                </div>
              }
              flush
            >
              <Answer query={{ ...list, data: rows }}>
                {(all) =>
                  all.length === 0 ? (
                    <Empty icon={FileCheck} title="No such rows">
                      Nothing on these days has this reason.
                    </Empty>
                  ) : (
                    <Rows rows={all} question={question}>
                      <LoadMore list={list}>
                        {format(String(all.length), 'count')} of {format(String(total), 'count')} shown
                      </LoadMore>
                    </Rows>
                  )
                }
              </Answer>
            </Card>
          </>
        )
      }
    </Answer>
  );
}

const money = (value: string) => <Num value={value} kind="money" />;

function Rows({ rows, question, children }: { rows: readonly BillRow[]; question: Question; children: ReactNode }) {
  const pad = padOf(
    rows.flatMap(({ ours }) => ours.amount ?? []),
    'money',
  );
  return (
    <Table
      label="Comparison"
      rows={rows}
      keyOf={(row) => JSON.stringify([row.date, row.model, row.class])}
      columns={[
        { title: 'Day', cell: ({ date }) => dayText(date) },
        { title: 'Model', cell: (row) => <Model row={row} /> },
        { title: 'Of', cell: (row) => CLASS_NAMES[row.class] },
        numbers('Units billed', rows, ({ bill }) => bill.quantity),
        numbers('Units with us', rows, ({ ours }) => ours.quantity),
        numbers('Billed', rows, ({ bill }) => bill.amount, 'money'),
        {
          title: 'Ours',
          right: true,
          cell: (row) => <Ours row={row} question={question} pad={pad} />,
        },
        numbers('Difference', rows, ({ difference }) => difference.amount, 'money'),
        {
          title: 'Why',
          wrap: true,
          cell: ({ reason, message }) => (
            <div className="why">
              <Chip tone={reasonTone(reason)}>{REASONS[reason]}</Chip> {message}
            </div>
          ),
        },
      ]}
    >
      {children}
    </Table>
  );
}

/** Names the model, and the names that the bill has for it where they are others. */
function Model({ row: { model, billModels } }: { row: BillRow }) {
  if (model === '') return <span className="muted">all models</span>;
  const others = billModels.filter((name) => name !== model);
  return <CellName name={model} id={others.join(', ') || model} />;
}

/** Our amount, with the way to what it is made of. */
function Ours({ row, question, pad }: { row: BillRow; question: Question; pad: number }) {
  const { date, model, ours, ourModels, reason } = row;
  if (reason === 'unpriced' && ours.amount === null)
    return (
      <Link to="/app/prices" search={{ model: ourModels[0] ?? model }}>
        Set a price
      </Link>
    );
  if (ours.amount === null) return '–';
  if (ourModels.length === 0 || isZero(ours.amount)) return <Num value={ours.amount} kind="money" pad={pad} />;
  return (
    <Link
      className="num"
      to="/app/explain"
      search={{
        ...{ metric: 'cost', from: date, to: date, models: ourModels, providers: [question.provider] },
        ...(question.merchantIds && { merchants: question.merchantIds }),
      }}
      preload={false}
      title={`Explain our cost of ${model || 'all models'} on ${dayText(date)}`}
    >
      <Digits value={ours.amount} kind="money" pad={pad} />
    </Link>
  );
}

/** Lists the bills that were imported. */
function Imported({ provider }: { provider: Provider }) {
  const [removing, setRemoving] = useState<Bill | null>(null);
  const list = useInfiniteQuery({
    queryKey: ['bills', 'list', provider],
    queryFn: ({ pageParam, signal }) =>
      client.bills.list.query({ provider, ...(pageParam && { cursor: pageParam }) }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const remove = useMutation({
    mutationFn: ({ id }: Bill) => client.bills.remove.mutate({ id }),
    onSuccess: async () => {
      setRemoving(null);
      tell('Removed', 'Bills that it replaced count again.');
      await refresh();
    },
    onError: tellFailure,
  });
  const rows = list.data?.pages.flatMap((page) => page.rows as Bill[]);
  if (rows?.length === 0) return null;
  return (
    <Card title="Imported bills" note="newest first" flush>
      <Answer query={{ ...list, data: rows }}>
        {(all) => (
          <Table
            label="Imported bills"
            rows={all}
            keyOf={({ id }) => id}
            columns={[
              { title: 'Days', cell: (bill) => rangeText(bill) },
              { title: 'Has', cell: ({ kind }) => <Chip>{kind === 'cost' ? 'costs' : 'usage'}</Chip> },
              { title: 'Account', cell: ({ account }) => <Clip>{account}</Clip> },
              numbers('Amount', all, ({ amount }) => amount, 'money'),
              numbers('Tokens', all, ({ tokens }) => tokens),
              numbers('Lines', all, ({ lines }) => String(lines)),
              {
                title: 'Days that count',
                right: true,
                cell: ({ daysInForce }) =>
                  daysInForce === 0 ? <span className="muted">none, replaced</span> : String(daysInForce),
              },
              { title: 'Imported', cell: ({ createdAt }) => <Moment time={createdAt} ago /> },
              { title: 'Format', cell: ({ format: name }) => <span className="mono">{name}</span> },
              {
                title: 'Actions',
                untitled: true,
                right: true,
                cell: (bill) => (
                  <Button
                    kind="plain"
                    small
                    icon
                    aria-label={`Remove the ${bill.kind} bill of ${rangeText(bill)}`}
                    onClick={() => setRemoving(bill)}
                  >
                    <Trash2 size={15} aria-hidden="true" />
                  </Button>
                ),
              },
            ]}
          >
            <LoadMore list={list}>{format(String(all.length), 'count')} shown</LoadMore>
          </Table>
        )}
      </Answer>
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title="Remove this bill?"
        text="Its days are then compared with the bill that it replaced, or with none."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </Card>
  );
}

type Compare = Parameters<typeof client.bills.compare.query>[0];

/** Reads all pages of a comparison. */
async function allRows(asked: Compare): Promise<BillRow[]> {
  const rows: BillRow[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Awaited<ReturnType<typeof client.bills.compare.query>> = await client.bills.compare.query({
      ...asked,
      limit: EXPORT_PAGE,
      ...(cursor && { cursor }),
    });
    rows.push(...(page.rows as BillRow[]));
    cursor = page.nextCursor;
  }
  return rows;
}

const download = (rows: readonly BillRow[], { provider, startDate, endDate }: Compare): void =>
  saveCsv(
    `bill-${provider}-${startDate}-${endDate}.csv`,
    [
      ...['date', 'model', 'bill_models', 'class', 'reason', 'bill_quantity', 'our_quantity', 'quantity_difference'],
      ...['bill_usd', 'our_usd', 'usd_difference', 'usd_by_quantity', 'usd_by_price'],
      ...['bill_usd_per_million', 'our_usd_per_million', 'message'],
    ],
    rows.map(({ bill, ours, difference, ...row }) => [
      ...[row.date, row.model, row.billModels.join(' '), row.class, row.reason],
      ...[bill.quantity, ours.quantity, difference.quantity],
      ...[bill.amount, ours.amount, difference.amount, difference.byQuantity, difference.byPrice],
      ...[bill.unitPrice, ours.unitPrice, row.message],
    ]),
  );
