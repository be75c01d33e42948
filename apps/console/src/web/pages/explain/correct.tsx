import { useMutation } from '@tanstack/react-query';
import { useState } from 'react';
import { client, queryClient } from '../../api.ts';
import { type FilterSearch, labelOfMetric } from '../../measures.ts';
import { dayText } from '../../time.ts';
import { FormDialog, tell } from '../../ui/popups.tsx';

/** Adds an adjustment, once: its id stays until it is saved, so a retry repeats it. */
export function Adjust({
  open,
  onClose,
  merchantId,
  date,
  metric,
  filters,
}: {
  open: boolean;
  onClose: () => void;
  merchantId: string;
  date: string;
  metric: string;
  filters: FilterSearch;
}) {
  const [id, setId] = useState(newId);
  const [amount, setAmount] = useState('');
  const [reason, setReason] = useState('');
  const single = (values: string[] | undefined) =>
    values?.length === 1 && values[0] !== 'unknown' ? values[0] : undefined;
  const dimensions = Object.fromEntries(
    [
      ['userId', single(filters.users)],
      ['apiKey', single(filters.keys)],
      ['model', single(filters.models)],
      ['provider', single(filters.providers)],
    ].filter(([, value]) => value !== undefined),
  );
  const save = useMutation({
    mutationFn: () =>
      client.usage.adjust.mutate({
        id,
        merchantId,
        date,
        metrics: { [metric]: amount.trim() },
        dimensions,
        reason: reason.trim(),
      }),
    onSuccess: async () => {
      tell('Adjusted', `${labelOfMetric(metric)} of ${merchantId} on ${dayText(date)}`);
      setId(newId());
      setAmount('');
      setReason('');
      onClose();
      await queryClient.invalidateQueries();
    },
  });
  const about = Object.values(dimensions).join(', ');
  return (
    <FormDialog
      open={open}
      onClose={onClose}
      title={`Adjust ${labelOfMetric(metric).toLowerCase()}`}
      text={`Adds to the number of ${merchantId} on ${dayText(date)}${about && ` for ${about}`}. It stays visible beside the events, with your name, and cannot be edited.`}
      save={save}
      action="Adjust"
      working="Saving…"
    >
      <div className="field">
        <label htmlFor="amount">Amount</label>
        <input
          id="amount"
          className="input num"
          required
          inputMode="decimal"
          pattern="-?[0-9]+([.][0-9]{1,9})?"
          placeholder={metric === 'cost' ? '-0.10' : '-100'}
          value={amount}
          onChange={(event) => setAmount(event.target.value)}
        />
        <small>
          {metric === 'cost' ? 'US dollars with at most 9 decimals' : 'A whole number'}; with a minus it is taken away.
        </small>
      </div>
      <ReasonField value={reason} placeholder="Credit note 17" onChange={setReason} />
    </FormDialog>
  );
}

const newId = () => `console-${crypto.randomUUID()}`;

/** Takes one event back, with a reason. */
export function VoidEvent({
  merchantId,
  date,
  id,
  onClose,
}: {
  merchantId: string;
  date: string;
  id: string;
  onClose: () => void;
}) {
  const [reason, setReason] = useState('');
  const save = useMutation({
    mutationFn: () => client.usage.void.mutate({ merchantId, date, id, reason: reason.trim() }),
    onSuccess: async () => {
      tell('Voided', id);
      onClose();
      await queryClient.invalidateQueries();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title="Void this event"
      text={
        <>
          An adjustment takes back everything that <span className="mono">{id}</span> counted, in every metric. The
          event stays in the journal, and cannot be counted again.
        </>
      }
      save={save}
      action="Void the event"
      working="Voiding…"
      kind="danger"
      disabled={reason.trim() === ''}
    >
      <ReasonField value={reason} placeholder="A test call" onChange={setReason} />
    </FormDialog>
  );
}

const ReasonField = ({
  value,
  placeholder,
  onChange,
}: {
  value: string;
  placeholder: string;
  onChange: (value: string) => void;
}) => (
  <div className="field">
    <label htmlFor="reason">Reason</label>
    <textarea
      id="reason"
      className="input"
      required
      maxLength={1000}
      placeholder={placeholder}
      value={value}
      onChange={(event) => onChange(event.target.value)}
    />
  </div>
);
