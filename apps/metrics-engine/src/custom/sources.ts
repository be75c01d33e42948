import { BuiltInSource, type MetricSourceFields, TallyError } from '@tally/contracts';
import { BUILT_IN_SOURCES, type Db, type SourceShape } from '@tally/db';

const MAX_SOURCES = 200;
/** SQL types of columns that days can be selected by. */
const DATE_TYPES: Readonly<Record<string, SourceShape['date']['type']>> = {
  date: 'date',
  'timestamp without time zone': 'timestamp',
  'timestamp with time zone': 'timestamptz',
};

/** The data sources of custom metrics: Tally's own, and views of the host application. */
export function createSources({ metricSources: store }: Pick<Db, 'metricSources'>) {
  return {
    /** Returns a source for a caller of a merchant, or of all (null). */
    async shapeFor(name: string, merchantId: string | null): Promise<SourceShape> {
      const builtIn = BuiltInSource.safeParse(name);
      const shape = builtIn.success ? BUILT_IN_SOURCES[builtIn.data] : await store.find(name);
      if (!shape)
        throw invalid('dataSource', `There is no data source ${name}; an admin can register one (custom.sources).`);
      if (merchantId !== null && shape.merchant === null)
        throw new TallyError(
          'MERCHANT_FORBIDDEN',
          `The rows of ${name} belong to no merchant; it has no merchantColumn.`,
        );
      return shape;
    },

    async register(given: MetricSourceFields) {
      if (BuiltInSource.safeParse(given.name).success)
        throw invalid('name', `${given.name} is a source of Tally's own.`);
      const view = await store.inspect(given.view);
      if (!view) throw invalid('view', `There is no view ${given.view}.`);
      const grants = `grant usage on schema … to ${view.reader}; grant select on ${given.view} to ${view.reader};`;
      if (!view.readable) throw invalid('view', `${given.view} cannot be read: ${grants}`);
      const typeOf = (field: string, name: string) => {
        if (Object.hasOwn(view.columns, name)) return view.columns[name]!;
        throw invalid(field, `${given.view} has no column ${name}.`);
      };
      const names = new Set(given.columns.map((each) => each.name.toLowerCase()));
      if (names.size < given.columns.length) throw invalid('columns', 'Two columns have the same name in a formula.');
      given.columns.forEach(({ name, type }, index) => {
        const { kinds, sqlType } = typeOf(`columns.${index}.name`, name);
        if (!kinds.includes(type)) throw invalid(`columns.${index}.type`, `${name} is ${sqlType}, not ${type}.`);
      });
      const { merchantColumn, dateColumn } = given;
      if (merchantColumn !== undefined && !typeOf('merchantColumn', merchantColumn).kinds.includes('text'))
        throw invalid('merchantColumn', `${merchantColumn} is not text.`);
      const dateType = DATE_TYPES[typeOf('dateColumn', dateColumn).sqlType];
      if (!dateType) throw invalid('dateColumn', `${dateColumn} is neither a date nor a timestamp.`);

      const known = await store.list();
      if (known.length >= MAX_SOURCES && !known.some((each) => each.name === given.name))
        throw new TallyError('CARDINALITY_LIMIT', `There are already ${MAX_SOURCES} data sources.`, {
          details: { limit: MAX_SOURCES },
        });
      const source = await store.register(given, dateType);
      if (source) return source;
      throw new TallyError('CONFLICT', `There is another data source ${given.name}; remove it first.`);
    },

    list: async () => ({ rows: await store.list(), nextCursor: null }),

    async remove(name: string) {
      if (!(await store.remove(name))) throw new TallyError('NOT_FOUND', `There is no data source ${name}.`);
      return { name, removed: true as const };
    },
  };
}

export type Sources = ReturnType<typeof createSources>;

const invalid = (field: string, message: string) =>
  new TallyError('INVALID_INPUT', `${field}: ${message}`, { details: { fields: [{ field, message }] } });
