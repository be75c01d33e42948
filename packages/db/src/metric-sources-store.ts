import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { type HostSource, hostShape, quoted, type SourceShape, type ValueType, viewOf } from './metric-sources.ts';
import { Moment } from './rows.ts';

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
  /** Describes a view; undefined where there is none of that name, or it is one of the database's own or Tally's. */
  inspect(view: string): Promise<SeenView | undefined>;
  /** Stores a source; undefined where there is another of that name. */
  register(source: HostSource, dateType: SourceShape['date']['type']): Promise<StoredSource | undefined>;
  /** The shape of a registered source. */
  find(name: string): Promise<SourceShape | undefined>;
  list(): Promise<StoredSource[]>;
  /** Returns whether there was a source of that name. */
  remove(name: string): Promise<boolean>;
};

const ROLE = 'tally_reader';
const OWN_SCHEMAS = ['pg_catalog', 'information_schema', 'pg_toast', 'tally_sources'];

/** Views of the host application as data sources, in `custom_metric_sources`. */
export function createMetricSourcesStore(dataSource: DataSource): MetricSourcesStore {
  return {
    async inspect(view) {
      const { schema, name } = viewOf({ view });
      if (OWN_SCHEMAS.includes(schema)) return undefined;
      const rows = (await dataSource.query(
        `select
           coalesce(role.rolname, current_user)::text as reader,
           has_schema_privilege(coalesce(role.oid, current_user::regrole), space.oid, 'usage')
             and has_table_privilege(coalesce(role.oid, current_user::regrole), view.oid, 'select') as readable,
           attribute.attname as name, format_type(type.oid, null) as "sqlType", type.typcategory as category
         from pg_class as view
         join pg_namespace as space on space.oid = view.relnamespace
         join pg_attribute as attribute on attribute.attrelid = view.oid and attnum > 0 and not attisdropped
         join pg_type as type on type.oid = attribute.atttypid
         left join pg_roles as role on role.rolname = $3 and pg_has_role(current_user, role.oid, 'member')
         where space.nspname = $1 and view.relname = $2 and view.relkind in ('v', 'm')`,
        [schema, name, ROLE],
      )) as unknown[];
      const columns = rows.map((row) => ColumnRow.parse(row));
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

    async register({ name, view, columns, merchantColumn, dateColumn }, dateType) {
      const values = [name, view, JSON.stringify(columns), merchantColumn ?? null, dateColumn, dateType];
      await dataSource.query(
        `insert into custom_metric_sources (name, view, columns, merchant_column, date_column, date_type)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing`,
        values,
      );
      const [row] = await dataSource.query(
        `select * from custom_metric_sources
         where name = $1 and view = $2 and columns = $3::jsonb and merchant_column is not distinct from $4::text
           and date_column = $5 and date_type = $6`,
        values,
      );
      return row && SourceRow.parse(row).source;
    },

    async find(name) {
      const [row] = await dataSource.query(`select * from custom_metric_sources where name = $1`, [name]);
      if (row === undefined) return undefined;
      const { source, dateType } = SourceRow.parse(row);
      return hostShape(source, dateType);
    },

    async list() {
      const rows = (await dataSource.query(`select * from custom_metric_sources order by name`)) as unknown[];
      return rows.map((row) => SourceRow.parse(row).source);
    },

    async remove(name) {
      const [row] = await dataSource.query(
        `with removed as (delete from custom_metric_sources where name = $1 returning 1)
         select exists (select from removed) as removed`,
        [name],
      );
      return row.removed === true;
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

const SourceRow = z
  .object({
    name: z.string(),
    view: z.string(),
    columns: z.array(
      z.object({
        name: z.string(),
        type: z.enum(['number', 'text', 'boolean', 'date', 'time']),
        unit: z.string().optional(),
      }),
    ),
    merchant_column: z.string().nullable(),
    date_column: z.string(),
    date_type: z.enum(['date', 'timestamp', 'timestamptz']),
    created_at: Moment,
  })
  .transform((row) => ({
    dateType: row.date_type,
    source: {
      name: row.name,
      view: row.view,
      columns: row.columns,
      ...(row.merchant_column !== null && { merchantColumn: row.merchant_column }),
      dateColumn: row.date_column,
      createdAt: row.created_at,
    } satisfies StoredSource,
  }));
