import type { Meter, MeterAggregation } from '@tally/contracts';
import { useMutation } from '@tanstack/react-query';
import { client } from '../../api.ts';
import { Field, useDraft } from '../../ui/field.tsx';
import { FormDialog, Select, tell, useUnchanged } from '../../ui/popups.tsx';
import { refreshMeters } from './meter.ts';

const AGGREGATIONS: readonly { value: MeterAggregation; label: string; note: string }[] = [
  { value: 'SUM', label: 'Sum', note: 'of a metric type or a property' },
  { value: 'COUNT', label: 'Count', note: 'of calls' },
  { value: 'UNIQUE', label: 'Different values', note: 'of a property or a dimension' },
  { value: 'MAX', label: 'Greatest', note: 'value' },
  { value: 'MIN', label: 'Least', note: 'value' },
  { value: 'LATEST', label: 'Latest', note: 'value, by time and id' },
  { value: 'PERCENTILE', label: 'Percentile', note: 'of values' },
];

const EMPTY = {
  key: '',
  name: '',
  unit: '',
  scale: '0',
  aggregation: 'SUM' as MeterAggregation,
  of: 'metric' as 'metric' | 'property',
  source: '',
  eventType: '',
  dimensions: '',
  merchantId: '',
};

/** Creates a meter; its definition cannot be changed afterwards. */
export function NewMeter({ bound, onClose }: { bound: string | null; onClose: () => void }) {
  const { draft, of } = useDraft({ ...EMPTY, merchantId: bound ?? '' });
  const { aggregation } = draft;
  const counts = aggregation === 'COUNT';
  const whole = counts || aggregation === 'UNIQUE';
  const ofProperty = aggregation === 'UNIQUE' || draft.of === 'property';
  const save = useMutation({
    mutationFn: () => {
      const dimensions = draft.dimensions.split(/[\s,]+/).filter(Boolean);
      return client.meters.create.mutate({
        key: draft.key,
        aggregation,
        ...(draft.name && { name: draft.name }),
        ...(draft.unit && { unit: draft.unit }),
        ...(!whole && { scale: Number(draft.scale) }),
        ...(!counts && (ofProperty ? { valueProperty: draft.source } : { metricType: draft.source })),
        ...(draft.eventType && { eventType: draft.eventType }),
        ...(dimensions.length > 0 && { dimensions }),
        ...(draft.merchantId && { merchantId: draft.merchantId }),
      });
    },
    onSuccess: async ({ name, history }) => {
      tell('Created', history.days > 0 ? `${name}: ${history.days} days of history are being computed` : name);
      onClose();
      await refreshMeters();
    },
  });
  return (
    <FormDialog
      wide
      onClose={onClose}
      title="New meter"
      text="It counts the events that are still kept, and all new ones. Later you can change its name and unit, but not what it counts."
      save={save}
      action="Create the meter"
      working="Creating…"
    >
      <div className="form-row">
        <Field label="Key" mono required placeholder="gpu_hours" {...of('key')} />
        <Field label="Name" placeholder="GPU hours" {...of('name')} />
        <Field label="Unit" placeholder="h" {...of('unit')} />
      </div>
      <div className="tools">
        <Select label="Aggregation" {...of('aggregation')} options={AGGREGATIONS} />
        {!whole && (
          <Select
            label="Of what"
            prefix="of a"
            {...of('of')}
            options={[
              { value: 'metric' as const, label: 'metric type' },
              { value: 'property' as const, label: 'property' },
            ]}
          />
        )}
      </div>
      <div className="form-row">
        {!counts && (
          <Field
            label={ofProperty ? 'Property' : 'Metric type'}
            mono
            required
            placeholder={ofProperty ? 'duration' : 'gpu_hours'}
            note={aggregation === 'UNIQUE' ? 'Or user, apiKey, model, provider' : undefined}
            {...of('source')}
          />
        )}
        {!whole && (
          <Field
            label="Decimals"
            type="number"
            min={0}
            max={9}
            note="They cannot change later for this metric type"
            {...of('scale')}
          />
        )}
        <Field label="Event type" mono note="Only events whose property event_type is this" {...of('eventType')} />
      </div>
      <Field
        label="Dimensions"
        mono
        placeholder="user, property:region"
        note="At most 4: user, apiKey, model, provider or property:<name>"
        {...of('dimensions')}
      />
      {bound === null && <Field label="Merchant" note="Empty: events of every merchant count" {...of('merchantId')} />}
    </FormDialog>
  );
}

/** Changes what a meter is called, and its unit; what it counts stays. */
export function ChangeMeter({ meter, onClose }: { meter: Meter; onClose: () => void }) {
  const before = { name: meter.name, unit: meter.unit ?? '' };
  const { draft, of } = useDraft(before);
  const assertUnchanged = useUnchanged(before);
  const save = useMutation({
    mutationFn: async () => {
      const id = { key: meter.key, ...(meter.merchantId && { merchantId: meter.merchantId }) };
      const edited = (['name', 'unit'] as const).filter((field) => draft[field] !== before[field]);
      const stored = await client.meters.get.query(id);
      assertUnchanged({ name: stored.name, unit: stored.unit ?? '' }, edited);
      return client.meters.update.mutate({
        ...id,
        ...(edited.includes('name') && { name: draft.name }),
        ...(edited.includes('unit') && { unit: draft.unit || null }),
      });
    },
    onSuccess: async ({ name }) => {
      tell('Changed', name);
      onClose();
      await refreshMeters();
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title={`Change ${meter.name}`}
      text="What it counts stays: make another meter for something else."
      save={save}
      action="Save"
      working="Saving…"
    >
      <div className="form-row">
        <Field label="Name" required maxLength={200} {...of('name')} />
        <Field label="Unit" maxLength={50} {...of('unit')} />
      </div>
    </FormDialog>
  );
}
