import type { Day, JobKind, JobStatus } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** A run that computes rollups. */
export type RollupJobRow = {
  id: string;
  kind: JobKind;
  start: Day;
  end: Day;
  status: JobStatus;
  periodsTotal: number;
  periodsDone: number;
  periodsFailed: number;
  /** A bigint, which the driver returns as text. */
  rows: string;
  attempts: number;
  errors: { period: string; message: string }[];
  startedAt: Date;
  finishedAt: Date | null;
};

export const RollupJobEntity = new EntitySchema<RollupJobRow>({
  name: 'RollupJob',
  tableName: 'metrics_aggregation_jobs_log',
  columns: {
    id: { type: 'uuid', primary: true },
    kind: { type: 'text' },
    start: { name: 'period_start', type: 'date' },
    end: { name: 'period_end', type: 'date' },
    status: { type: 'text' },
    periodsTotal: { name: 'periods_total', type: 'int' },
    periodsDone: { name: 'periods_done', type: 'int', default: 0 },
    periodsFailed: { name: 'periods_failed', type: 'int', default: 0 },
    rows: { name: 'rows_written', type: 'bigint', default: 0 },
    attempts: { type: 'int', default: 1 },
    errors: { type: 'jsonb', default: [] },
    startedAt: { name: 'started_at', type: 'timestamptz', default: () => 'clock_timestamp()' },
    finishedAt: { name: 'finished_at', type: 'timestamptz', nullable: true },
  },
});
