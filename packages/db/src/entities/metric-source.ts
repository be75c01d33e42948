import type { HostSource, SourceShape } from '../custom/metric-sources.ts';
import { EntitySchema } from '../typeorm.ts';

/** A view of the host application that formulas read. */
export type MetricSourceRow = {
  name: string;
  view: string;
  columns: HostSource['columns'];
  merchantColumn: string | null;
  dateColumn: string;
  dateType: SourceShape['date']['type'];
  createdAt: Date;
};

export const MetricSourceEntity = new EntitySchema<MetricSourceRow>({
  name: 'MetricSource',
  tableName: 'custom_metric_sources',
  columns: {
    name: { type: 'text', primary: true },
    view: { type: 'text' },
    columns: { type: 'jsonb' },
    merchantColumn: { name: 'merchant_column', type: 'text', nullable: true },
    dateColumn: { name: 'date_column', type: 'text' },
    dateType: { name: 'date_type', type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
  },
});
