import type { Price, PriceComponent } from '@tally/contracts';
import { useInfiniteQuery, useMutation, useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { CircleCheck, CloudDownload, History, Plus, Tag, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { api, client, queryClient } from '../../api.ts';
import { format } from '../../quantity.ts';
import { useWho } from '../../session.tsx';
import { addDays, rangeText, today } from '../../time.ts';
import { Field, useDraft } from '../../ui/field.tsx';
import { AdminsOnly, Answer, Button, Card, Chip, Empty, Moment, Num, PageHead } from '../../ui/parts.tsx';
import { Confirm, FormDialog, Select, tell, tellFailure } from '../../ui/popups.tsx';
import { LoadMore, numbers, Table } from '../../ui/table.tsx';

const COMPONENTS: readonly { value: PriceComponent; label: string; note: string }[] = [
  { value: 'input', label: 'Input tokens', note: 'less cached ones' },
  { value: 'cached_input', label: 'Cached input', note: 'read from a cache' },
  { value: 'cache_write', label: 'Cache writes', note: 'written to a cache' },
  { value: 'output', label: 'Output tokens', note: 'less reasoning' },
  { value: 'reasoning', label: 'Reasoning', note: 'of the output' },
  { value: 'request', label: 'Requests', note: 'that did not fail' },
  { value: 'unit', label: 'Units of a metric', note: 'of your own' },
];
const componentText = (value: string) => COMPONENTS.find((each) => each.value === value)?.label ?? value;

const UNPRICED_DAYS = 30;
const refresh = () => queryClient.invalidateQueries({ queryKey: ['prices'] });

/** Lists prices, sets and imports them, and names usage without a price. */
export function Prices() {
  const { model } = useSearch({ from: '/frame/app/prices' });
  const navigate = useNavigate({ from: '/app/prices' });
  const who = useWho();
  const isAdmin = who.mayPlatform('admin');
  const [adding, setAdding] = useState<Partial<Draft> | null>(null);
  const [importing, setImporting] = useState(false);
  const [removing, setRemoving] = useState<Price | null>(null);
  const list = useInfiniteQuery({
    queryKey: ['prices', model ?? ''],
    queryFn: ({ pageParam, signal }) =>
      client.prices.list.query({ ...(model && { model }), ...(pageParam && { cursor: pageParam }) }, { signal }),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    enabled: isAdmin,
  });
  const remove = useMutation({
    mutationFn: ({ id }: Price) => client.prices.remove.mutate({ id }),
    onSuccess: async () => {
      setRemoving(null);
      tell('Removed', 'Events that it priced keep their cost.');
      await refresh();
    },
    onError: tellFailure,
  });
  if (!isAdmin) return <AdminsOnly title="Prices" what="see prices" />;
  const rows = list.data?.pages.flatMap((page) => page.rows as Price[]);
  // Before the first price, nothing waits for one.
  const isPriced = list.data === undefined || list.data.pages.some(({ version }) => version !== '0');
  const set = (
    <Button kind="primary" onClick={() => setAdding({})}>
      <Plus size={16} aria-hidden="true" />
      Set a price
    </Button>
  );
  const load = (
    <Button onClick={() => setImporting(true)}>
      <CloudDownload size={16} aria-hidden="true" />
      Import list prices
    </Button>
  );
  return (
    <div className="stack">
      <PageHead title="Prices" note="Prices for events that were sent without a cost, by the time of the event.">
        <Link className="button" to="/app/prices/again">
          <History size={16} aria-hidden="true" />
          Price usage again
        </Link>
        {load}
        {set}
      </PageHead>
      {isPriced && <Unpriced onPrice={(next) => setAdding(next)} />}
      <Card
        title="Price list"
        note={list.data && `version ${list.data.pages[0]!.version}`}
        tools={
          <form
            className="search-box"
            onSubmit={(event) => {
              event.preventDefault();
              const named = String(new FormData(event.currentTarget).get('model') ?? '').trim();
              void navigate({ search: named ? { model: named } : {}, replace: true });
            }}
          >
            <Tag size={15} aria-hidden="true" />
            <label className="visually-hidden" htmlFor="prices-model">
              Prices of the model
            </label>
            <input id="prices-model" name="model" placeholder="Model, as it is written" defaultValue={model ?? ''} />
          </form>
        }
        flush
      >
        <Answer query={{ ...list, data: rows }}>
          {(all) =>
            all.length === 0 ? (
              <Empty
                icon={Tag}
                title={model ? `No price of ${model}` : 'No prices yet'}
                tools={
                  <>
                    {load}
                    {set}
                  </>
                }
              >
                Events keep the cost that producers send. With prices, Tally computes it for those without one.
              </Empty>
            ) : (
              <Table
                label="Prices"
                rows={all}
                keyOf={({ id }) => id}
                columns={[
                  { title: 'Model', mono: true, cell: ({ model: name, meter }) => name ?? meter ?? 'any' },
                  { title: 'Provider', cell: ({ provider }) => provider ?? <span className="muted">any</span> },
                  {
                    title: 'Of',
                    cell: ({ component, overPromptTokens }) => (
                      <>
                        {componentText(component)}{' '}
                        {overPromptTokens > 0 && (
                          <Chip>over {format(String(overPromptTokens), 'count')} prompt tokens</Chip>
                        )}
                      </>
                    ),
                  },
                  {
                    title: 'Price',
                    right: true,
                    cell: ({ amount, per }) => (
                      <>
                        <Num value={amount} kind="money" />{' '}
                        <span className="muted">per {per === 1 ? 'unit' : format(String(per), 'count')}</span>
                      </>
                    ),
                  },
                  { title: 'Merchant', cell: ({ merchantId }) => merchantId ?? <span className="muted">all</span> },
                  { title: 'From', cell: ({ validFrom }) => <Moment time={validFrom} /> },
                  { title: 'Until', cell: ({ validTo }) => (validTo ? <Moment time={validTo} /> : '–') },
                  { title: 'Source', cell: ({ source }) => <Chip>{source}</Chip> },
                  {
                    title: 'Actions',
                    untitled: true,
                    right: true,
                    cell: (price) => (
                      <Button
                        kind="plain"
                        small
                        icon
                        aria-label={`Remove the price of ${price.model ?? price.meter ?? 'any model'}, ${componentText(price.component)}`}
                        onClick={() => setRemoving(price)}
                      >
                        <Trash2 size={15} aria-hidden="true" />
                      </Button>
                    ),
                  },
                ]}
              >
                <LoadMore list={list}>{format(String(all.length), 'count')} shown</LoadMore>
              </Table>
            )
          }
        </Answer>
      </Card>
      {adding && <SetPrice given={adding} onClose={() => setAdding(null)} />}
      {importing && <Import onClose={() => setImporting(false)} />}
      <Confirm
        open={removing !== null}
        onClose={() => setRemoving(null)}
        title="Remove this price?"
        text="Events that it priced keep their cost, also when you price usage again. New events get the next matching price, or none."
        action="Remove"
        busy={remove.isPending}
        run={() => removing && remove.mutate(removing)}
      />
    </div>
  );
}

/** Models whose usage has no known price. */
function Unpriced({ onPrice }: { onPrice: (draft: Partial<Draft>) => void }) {
  const range = { startDate: addDays(today(), 1 - UNPRICED_DAYS), endDate: today() };
  const query = useQuery(api.prices.unpriced.queryOptions(range));
  const rows = query.data?.rows;
  if (rows?.length === 0)
    return (
      <div className="banner" data-tone="good" role="status">
        <CircleCheck size={16} aria-hidden="true" />
        <div>No usage of {rangeText(range)} since the first price was set waits for a price.</div>
      </div>
    );
  return (
    <Card
      title="Usage without a price"
      note={query.data?.truncated ? `${rangeText(range)}, the first ${query.data.rows.length}` : rangeText(range)}
      flush
    >
      <Answer query={query}>
        {({ rows: found }) => (
          <Table
            label="Usage without a price"
            tall
            rows={found}
            keyOf={(row) => JSON.stringify([row.merchantId, row.provider, row.model])}
            columns={[
              { title: 'Model', mono: true, cell: (row) => row.model ?? 'unknown' },
              { title: 'Provider', cell: ({ provider }) => provider ?? '–' },
              { title: 'Merchant', cell: ({ merchantId }) => merchantId },
              numbers('Events', found, ({ events }) => events),
              numbers('Input tokens', found, ({ promptTokens }) => promptTokens),
              numbers('Output tokens', found, ({ completionTokens }) => completionTokens),
              { title: 'Last', cell: ({ lastTime }) => <Moment time={lastTime} ago /> },
              {
                title: 'Actions',
                untitled: true,
                right: true,
                cell: (row) => (
                  <Button
                    small
                    onClick={() =>
                      onPrice({
                        model: row.model ?? '',
                        provider: row.provider ?? '',
                        validFrom: row.firstTime.slice(0, 10),
                      })
                    }
                  >
                    Set a price
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Answer>
    </Card>
  );
}

type Draft = {
  provider: string;
  model: string;
  meter: string;
  merchantId: string;
  component: PriceComponent;
  amount: string;
  per: string;
  validFrom: string;
};

const NEW_PRICE = {
  provider: '',
  model: '',
  meter: '',
  merchantId: '',
  component: 'input' as const,
  amount: '',
  per: '1000000',
};

function SetPrice({ given, onClose }: { given: Partial<Draft>; onClose: () => void }) {
  const { draft, change, of } = useDraft<Draft>({ ...NEW_PRICE, validFrom: today(), ...given });
  const isUnit = draft.component === 'unit';
  const save = useMutation({
    mutationFn: () =>
      client.prices.set.mutate({
        component: draft.component,
        amount: draft.amount,
        per: Number(draft.per),
        validFrom: `${draft.validFrom}T00:00:00Z`,
        ...(isUnit && { meter: draft.meter }),
        ...(draft.provider && { provider: draft.provider }),
        ...(draft.model && { model: draft.model }),
        ...(draft.merchantId && { merchantId: draft.merchantId }),
      }),
    onSuccess: async ({ model, meter }) => {
      tell('Set', model ?? meter ?? 'any model');
      onClose();
      await refresh();
    },
  });
  return (
    <FormDialog
      wide
      onClose={onClose}
      title="Set a price"
      text="It applies to events from that day on. Counted events keep their cost until you price usage again."
      save={save}
      action="Set the price"
      working="Setting…"
    >
      <div className="tools">
        <Select
          label="Component"
          prefix="Price of"
          value={draft.component}
          options={COMPONENTS}
          onChange={(component) =>
            change({ component, per: component === 'unit' || component === 'request' ? '1' : '1000000' })
          }
        />
      </div>
      <div className="form-row">
        {isUnit ? (
          <Field label="Metric type" mono required placeholder="images" {...of('meter')} />
        ) : (
          <Field
            label="Model"
            mono
            placeholder="gpt-4o"
            note="* stands for any text; empty: any model"
            {...of('model')}
          />
        )}
        <Field label="Provider" placeholder="openai" note="Empty: any" {...of('provider')} />
        <Field label="Merchant" note="Empty: all; a merchant's own price wins" {...of('merchantId')} />
      </div>
      <div className="form-row">
        <Field label="Amount in USD" required inputMode="decimal" placeholder="2.50" {...of('amount')} />
        <Field label="For how many" type="number" min={1} required {...of('per')} />
        <Field label="From" type="date" required note="Days of UTC" {...of('validFrom')} />
      </div>
    </FormDialog>
  );
}

function Import({ onClose }: { onClose: () => void }) {
  const [providers, setProviders] = useState('openai, anthropic');
  const [validFrom, setValidFrom] = useState(`${today().slice(0, 4)}-01-01`);
  const save = useMutation({
    mutationFn: () => {
      const named = providers.split(/[\s,]+/).filter(Boolean);
      return client.prices.import.mutate({
        source: 'genai-prices',
        validFrom: `${validFrom}T00:00:00Z`,
        ...(named.length > 0 && { providers: named }),
      });
    },
    onSuccess: async ({ added, replaced, unchanged, ended, skippedCount }) => {
      tell(
        'Imported',
        `${added} added, ${replaced} replaced, ${unchanged} unchanged, ${ended} ended, ${skippedCount} models skipped`,
      );
      onClose();
      await refresh();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title="Import list prices"
      text="Uses the package genai-prices that is installed with Tally, without internet access. Prices with the same amounts stay."
      save={save}
      action="Import"
      working="Importing…"
    >
      <Field label="Providers" note="Empty: the large ones" value={providers} onChange={setProviders} />
      <Field label="From" type="date" required note="Days of UTC" value={validFrom} onChange={setValidFrom} />
    </FormDialog>
  );
}
