import { EntitySchema } from '../typeorm.ts';

/** Counts of a source, over all processes. Counts are bigints, which the driver returns as text. */
export type SourceStateRow = {
  source: string;
  accepted: string;
  duplicates: string;
  rejected: string;
  skipped: string;
  firstSeenAt: Date;
  lastSeenAt: Date;
};

export const SourceStateEntity = new EntitySchema<SourceStateRow>({
  name: 'SourceState',
  tableName: 'source_states',
  columns: {
    source: { type: 'text', primary: true },
    accepted: { type: 'bigint' },
    duplicates: { type: 'bigint' },
    rejected: { type: 'bigint' },
    skipped: { type: 'bigint' },
    firstSeenAt: { name: 'first_seen_at', type: 'timestamptz' },
    lastSeenAt: { name: 'last_seen_at', type: 'timestamptz' },
  },
});

/** An event that was not counted, and why. */
export type SourceRejectionRow = {
  id: string;
  source: string;
  at: Date;
  merchantId: string | null;
  eventId: string | null;
  code: string;
  message: string;
};

export const SourceRejectionEntity = new EntitySchema<SourceRejectionRow>({
  name: 'SourceRejection',
  tableName: 'source_rejections',
  columns: {
    id: { type: 'bigint', primary: true, generated: 'increment' },
    source: { type: 'text' },
    at: { type: 'timestamptz' },
    merchantId: { name: 'merchant_id', type: 'text', nullable: true },
    eventId: { name: 'event_id', type: 'text', nullable: true },
    code: { type: 'text' },
    message: { type: 'text' },
  },
});
