import { useMutation } from '@tanstack/react-query';
import { useState } from 'react';
import { client, messageOf } from '../../api.ts';
import { format } from '../../quantity.ts';
import { dayText, rangeText } from '../../time.ts';
import { Field } from '../../ui/field.tsx';
import { Banner, Button } from '../../ui/parts.tsx';
import { Dialog, Select, tell } from '../../ui/popups.tsx';
import { PROVIDERS, type Provider } from './names.ts';

type Read = Awaited<ReturnType<typeof client.bills.import.mutate>>;

/** Reads an export, shows what is in it, and imports it. */
export function ImportBill({
  provider: first,
  onClose,
  onImported,
}: {
  provider: Provider;
  onClose: () => void;
  onImported: () => void;
}) {
  const [provider, setProvider] = useState(first);
  const [account, setAccount] = useState('default');
  const [chosen, setChosen] = useState<File | null>(null);
  const send = async (dryRun: boolean) =>
    client.bills.import.mutate({ provider, account, file: await chosen!.text(), dryRun });
  const check = useMutation({ mutationFn: () => send(true) });
  const save = useMutation({
    mutationFn: () => send(false),
    onSuccess: ({ status, bill }) => {
      tell(status === 'imported' ? 'Imported' : 'Already there', rangeText(bill));
      onClose();
      onImported();
    },
  });
  /** What was checked is no longer what is sent. */
  const changed = () => {
    check.reset();
    save.reset();
  };
  const read = check.data;
  const isReady = read?.status === 'read';
  const error = check.error ?? save.error;
  return (
    <Dialog
      open
      onClose={onClose}
      title="Import a bill"
      text="The JSON that the provider's API of costs or usage answers, or the CSV of its console. Group it by line item (OpenAI) or description (Anthropic), so that it names models and classes."
    >
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          if (isReady) save.mutate();
          else check.mutate();
        }}
      >
        <div className="tools">
          <Select
            label="Provider of the bill"
            value={provider}
            options={PROVIDERS}
            onChange={(next) => {
              setProvider(next);
              changed();
            }}
          />
        </div>
        <Field
          label="Account"
          note="A name of your own, if you have several organisations there"
          required
          value={account}
          onChange={(next) => {
            setAccount(next);
            changed();
          }}
        />
        <div className="field">
          <label htmlFor="bill-file">File</label>
          <input
            id="bill-file"
            className="input"
            type="file"
            required
            accept=".json,.csv,application/json,text/csv"
            onChange={(event) => {
              setChosen(event.target.files?.[0] ?? null);
              changed();
            }}
          />
        </div>
        {read && <Found read={read} />}
        {error && <Banner tone="bad">{messageOf(error)}</Banner>}
        <div className="dialog-actions">
          <Button type="button" onClick={onClose}>
            Cancel
          </Button>
          <Button
            kind="primary"
            type="submit"
            disabled={!chosen || check.isPending || save.isPending || (read !== undefined && !isReady)}
          >
            {save.isPending ? 'Importing…' : check.isPending ? 'Reading…' : isReady ? 'Import' : 'Check the file'}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

const linesText = (lines: number) => (lines === 1 ? '1 line' : `${format(String(lines), 'count')} lines`);
const daysText = (days: number) => (days === 1 ? '1 day' : `${days} days`);

/** Shows what an export has, before anything is stored. */
function Found({ read }: { read: Read }) {
  const { status, bill, replaces, hasMore, unfinished, rejected, rejectedLines, repeated, repeatedLines, missing } =
    read;

  return (
    <>
      <dl className="facts">
        <dt>Has</dt>
        <dd>
          {bill.kind === 'cost' ? 'costs' : 'usage'}, {linesText(bill.lines)}
        </dd>
        <dt>Days</dt>
        <dd>{rangeText(bill)}</dd>
        {bill.amount !== null && (
          <>
            <dt>Amount</dt>
            <dd className="num">{format(bill.amount, 'money')}</dd>
          </>
        )}
        {bill.tokens !== null && (
          <>
            <dt>Tokens</dt>
            <dd className="num">{format(bill.tokens, 'count')}</dd>
          </>
        )}
      </dl>
      {status === 'unchanged' && <Banner tone="info">This file is imported already.</Banner>}
      {status === 'rejected' && (
        <Banner tone="bad">
          {linesText(rejectedLines)} cannot be read, so nothing is imported. {rejected[0]?.place}:{' '}
          {rejected[0]?.message}
        </Banner>
      )}
      {status === 'read' && replaces.length > 0 && (
        <Banner>
          It replaces bills that were imported before, on {daysText(replaces.reduce((all, { days }) => all + days, 0))}.
        </Banner>
      )}
      {hasMore && <Banner>The provider has more pages: put them into the file, too, as an array of pages.</Banner>}
      {repeatedLines > 0 && (
        <Banner>
          {repeatedLines === 1 ? '1 line repeats' : `${linesText(repeatedLines)} repeat`} an earlier one in every field,
          such as {repeated[0]}. They count: leave out what is in the file twice.
        </Banner>
      )}
      {missing.length > 0 && (
        <Banner>
          The file does not name {missing.length === 1 ? dayText(missing[0]!) : daysText(missing.length)} within its
          period{missing.length > 1 && `, the first is ${dayText(missing[0]!)}`}. They count as days without usage: if a
          page is missing, put it into the file.
        </Banner>
      )}
      {unfinished.length > 0 && <Banner tone="info">{dayText(unfinished[0]!)} is not over yet and is left out.</Banner>}
    </>
  );
}
