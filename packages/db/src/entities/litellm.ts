import type { Day, Measure } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** Sums of a day, in units, as text. */
export type DaySums = Record<Exclude<Measure, 'failed_requests'> | 'failed', string>;

/** A pull of LiteLLM's spend logs. Counts are bigints, which the driver returns as text. */
export type LitellmPullRow = {
  id: string;
  /** schedule: from the end of the previous pull; hand: a requested range; day: a whole day, once it is complete. */
  kind: 'schedule' | 'hand' | 'day';
  status: 'RUNNING' | 'COMPLETED' | 'FAILED';
  start: Date;
  end: Date;
  position: Date;
  calls: string;
  accepted: string;
  duplicates: string;
  rejected: string;
  missing: string;
  rejections: { id: string | null; code: string; message: string }[];
  daySums: (DaySums & { date: Day }) | null;
  error: { code: string; message: string } | null;
  startedAt: Date;
  updatedAt: Date;
  finishedAt: Date | null;
};

export const LitellmPullEntity = new EntitySchema<LitellmPullRow>({
  name: 'LitellmPull',
  tableName: 'litellm_pulls',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    kind: { type: 'text' },
    status: { type: 'text' },
    start: { name: 'range_start', type: 'timestamptz' },
    end: { name: 'range_end', type: 'timestamptz' },
    position: { type: 'timestamptz' },
    calls: { type: 'bigint', default: 0 },
    accepted: { type: 'bigint', default: 0 },
    duplicates: { type: 'bigint', default: 0 },
    rejected: { type: 'bigint', default: 0 },
    missing: { type: 'bigint', default: 0 },
    rejections: { type: 'jsonb', default: [] },
    daySums: { name: 'day_sums', type: 'jsonb', nullable: true },
    error: { type: 'jsonb', nullable: true },
    startedAt: { name: 'started_at', type: 'timestamptz', default: () => 'clock_timestamp()' },
    updatedAt: { name: 'updated_at', type: 'timestamptz', default: () => 'clock_timestamp()' },
    finishedAt: { name: 'finished_at', type: 'timestamptz', nullable: true },
  },
});

/** A day of LiteLLM: what is counted (calls or daily sums), the sums of its calls, and LiteLLM's daily sums. */
export type LitellmDayRow = {
  date: Day;
  toldBy: 'calls' | 'sums' | null;
  seen: DaySums | null;
  reported: DaySums | null;
  differs: boolean | null;
  error: string | null;
  checkedAt: Date | null;
};

export const LitellmDayEntity = new EntitySchema<LitellmDayRow>({
  name: 'LitellmDay',
  tableName: 'litellm_days',
  columns: {
    date: { type: 'date', primary: true },
    toldBy: { name: 'told_by', type: 'text', nullable: true },
    seen: { type: 'jsonb', nullable: true },
    reported: { type: 'jsonb', nullable: true },
    differs: { type: 'boolean', nullable: true },
    error: { type: 'text', nullable: true },
    checkedAt: { name: 'checked_at', type: 'timestamptz', nullable: true },
  },
});
