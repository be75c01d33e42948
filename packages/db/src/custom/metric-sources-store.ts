import { isDeepStrictEqual } from 'node:util';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { MetricSourceEntity, type MetricSourceRow } from '../entities/metric-source.ts';
import { runSql } from '../run-sql.ts';
import { type HostSource, hostShape, quoted, type SourceShape, type ValueType, viewOf } from './metric-sources.ts';

export type StoredSource = HostSource & { createdAt: string };

/** A view as the database describes it. */
export type SeenView = {
  /** Whether the role that computes formulas may read it. */
  readable: boolean;
  /** The role that computes formulas. */
  reader: string;
  columns: Record<string, { kinds: readonly ValueType[]; sqlType: string }>;
};

export type MetricSourcesStore = {
  /** Describes a view; undefined if it does not exist, or belongs to the database or Tally. */
  inspect(view: string): Promise<SeenView | undefined>;
  /** Stores a source; undefined if another one has its name. */
  register(source: HostSource, dateType: SourceShape['date']['type']): Promise<StoredSource | undefined>;
  /** Returns the shape of a registered source. */
  find(name: string): Promise<SourceShape | undefined>;
  list(): Promise<StoredSource[]>;
  /** Returns whether there was a source of that name. */
  remove(name: string): Promise<boolean>;
};

const ROLE = 'tally_reader';
const OWN_SCHEMAS = ['pg_catalog', 'information_schema', 'pg_toast', 'tally_sources'];

/** Views of the host application as data sources, in `custom_metric_sources`. */
export function createMetricSourcesStore(dataSource: DataSource): MetricSourcesStore {
  const sources = dataSource.getRepository(MetricSourceEntity);
  return {
    async inspect(view) {
      const { schema, name } = viewOf({ view });
      if (OWN_SCHEMAS.includes(schema)) return undefined;
      const columns = await runSql(dataSource, 'custom/inspect-view', [schema, name, ROLE], ColumnRow);
      const [first] = columns;
      return (
        first && {
          readable: first.readable,
          reader: quoted(first.reader),
          columns: Object.fromEntries(
            columns.map((each) => [each.name, { kinds: kindsOf(each), sqlType: each.sqlType }]),
          ),
        }
      );
    },

    async register({ name, view, columns, merchantColumn = null, dateColumn }, dateType) {
      const wanted = { name, view, columns, merchantColumn, dateColumn, dateType };
      await sources.createQueryBuilder().insert().values(wanted).orIgnore().execute();
      const stored = await sources.findOneBy({ name });
      return stored && isDeepStrictEqual({ ...stored, ...wanted }, stored) ? present(stored) : undefined;
    },

    async find(name) {
      const row = await sources.findOneBy({ name });
      return row ? hostShape(present(row), row.dateType) : undefined;
    },

    async list() {
      const rows = await sources.find({ order: { name: 'asc' } });
      return rows.map(present);
    },

    async remove(name) {
      const { affected } = await sources.delete({ name });
      return affected === 1;
    },
  };
}

/** The kinds that values of a column can be read as. Categories are those of pg_type. */
function kindsOf({ sqlType, category }: { sqlType: string; category: string }): readonly ValueType[] {
  if (sqlType === 'date') return ['date', 'time'];
  if (sqlType.startsWith('timestamp')) return ['time', 'date'];
  if (category === 'N') return ['number', 'text'];
  if (category === 'B') return ['boolean', 'text'];
  return category === 'S' || category === 'E' || sqlType === 'uuid' ? ['text'] : [];
}

const ColumnRow = z.object({
  reader: z.string(),
  readable: z.boolean(),
  name: z.string(),
  sqlType: z.string(),
  category: z.string(),
});

const present = ({ merchantColumn, dateType: _, createdAt, ...row }: MetricSourceRow): StoredSource => ({
  ...row,
  ...(merchantColumn !== null && { merchantColumn }),
  createdAt: createdAt.toISOString(),
});
