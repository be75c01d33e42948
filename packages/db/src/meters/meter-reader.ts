import { addDays, type Day, dayOf, monthOf } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { MeterRow } from '../entities/meter.ts';
import { DateText } from '../rows.ts';
import { bindings, kindOf, propertyOf, rowsOf } from './meter-sql.ts';

export type MeterScope = {
  merchantIds?: readonly string[] | undefined;
  /** The starts of the windows, in order; the last ends at `end`. All are on quarter hours. */
  starts: readonly number[];
  end: number;
  /** Dimensions of the meter, or `merchant`. */
  groupBy: readonly string[];
  /** The wanted values per dimension; `''` is an event without it. */
  filters: Readonly<Record<string, readonly string[]>>;
  /** The limit of returned rows. */
  limit: number;
  /** Only what was known at this moment: read from the journal, which must have all of the range. */
  asKnownOn?: string | undefined;
};

/** A sum of a window, counted from 0. `element`: a bucket of PERCENTILE. Amounts are whole units as text. */
export type MeterValue = { window: number; group: string[]; element: string; value: string };

export type MeterReader = {
  /**
   * Reads a meter by windows and dimensions, at one moment: clean months and days as a whole, quarter hours for dirty
   * ones and at window borders, plus what is not derived yet.
   */
  read(meter: MeterRow, scope: MeterScope): Promise<MeterValue[]>;
  /** The first day with quarter hours. */
  quartersFrom(): Promise<Day>;
  /** Returns whether days of the range are still to be computed for the meter. */
  isComputing(meterId: number, range: { startDate: Day; endDate: Day }): Promise<boolean>;
  /** Returns whether one of these dimensions exceeded its limit on a day of these merchants, or of any. */
  overflowed(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    dimensions: readonly string[];
  }): Promise<boolean>;
};

const MAX_GROUPS = 4;
/** Rows grouped by up to four dimensions. One column each: arrays cost the driver three times the CPU. */
const ValueRows = Array.from({ length: MAX_GROUPS + 1 }, (_, groups) => {
  const keys = Object.fromEntries(Array.from({ length: groups }, (_, index) => [`k${index}`, z.string()]));
  return z.array(z.object({ slot: z.number().int(), element: z.string(), value: z.string(), ...keys }));
});
const FoundRow = z.object({ found: z.boolean() });

/** The days of a range by the rollup that they are read from. */
export type ReadPlan = {
  /** First days of the first and the last month that lie in one window each; undefined without any. */
  months: { first: Day; last: Day } | undefined;
  /** Ranges of days that lie in one window each and are not in `months`. */
  days: { first: Day; last: Day }[];
  /** Days that contain a window border. */
  cut: Day[];
};

/** Chooses the rollups of a range. Pure, so that tests can check plans. */
export function planMeter({ starts, end }: Pick<MeterScope, 'starts' | 'end'>): ReadPlan {
  const plan: ReadPlan = { months: undefined, days: [], cut: [] };
  const bounds = [...starts, end];
  let next = 0;
  const isWhole = (from: number, to: number): boolean => {
    while (next < bounds.length && bounds[next]! <= from) next++;
    return from >= bounds[0]! && to <= end && (next >= bounds.length || bounds[next]! >= to);
  };
  const lastDay = dayOf(end - 1);
  for (let day = dayOf(bounds[0]!); day <= lastDay; ) {
    const month = monthOf(day);
    const from = Date.parse(`${day}T00:00:00Z`);
    if (month.startDate === day && isWhole(from, Date.parse(`${addDays(month.endDate, 1)}T00:00:00Z`))) {
      plan.months = { first: plan.months?.first ?? day, last: day };
      day = addDays(month.endDate, 1);
      continue;
    }
    const after = addDays(day, 1);
    if (isWhole(from, Date.parse(`${after}T00:00:00Z`))) {
      const last = plan.days.at(-1);
      if (last && addDays(last.last, 1) === day) last.last = day;
      else plan.days.push({ first: day, last: day });
    } else plan.cut.push(day);
    day = after;
  }
  return plan;
}

const NO_ROLLUPS: ReadPlan = { months: undefined, days: [], cut: [] };

/** More such days than this are read as one range. */
const CUT_ONE_BY_ONE = 40;

/** Reads what meters have counted. */
export function createMeterReader(dataSource: DataSource): MeterReader {
  return {
    async read(meter, scope) {
      const { starts, end, groupBy, filters, limit, asKnownOn } = scope;
      const { bind, values } = bindings();
      const kind = kindOf(meter);
      const merchantIds = meter.merchantId === '' ? scope.merchantIds : [meter.merchantId];
      const { months, days, cut } = asKnownOn === undefined ? planMeter(scope) : NO_ROLLUPS;
      const [firstDay, lastDay] = [dayOf(starts[0]!), dayOf(end - 1)];
      const first = `${bind(new Date(starts[0]!).toISOString())}::timestamptz`;
      const until = `${bind(new Date(end).toISOString())}::timestamptz`;
      const merchants = merchantIds ? `${bind(merchantIds)}::text[]` : undefined;
      const of = (alias: string) => (merchants ? `and ${alias}.merchant_id = any(${merchants})` : '');
      const placeOf = (name: string) => `d${meter.dimensions.indexOf(name) + 1}`;
      const chosen = Object.entries(filters)
        .map(([name, wanted]) => `and ${placeOf(name)} = any(${bind(wanted)}::text[])`)
        .join(' ');
      const needed = [...new Set([...groupBy.filter((name) => name !== 'merchant').map(placeOf)])];
      const columns = (alias: string, moment: string) =>
        [`${alias}.merchant_id`, `${moment} as moment`, ...needed.map((name) => `${alias}.${name}`)]
          .concat(['element', 'value', 'at', 'event_id'].map((name) => `${alias}.${name}`))
          .join(', ');
      const midnight = (text: string) => `${text}::timestamp at time zone 'UTC'`;
      // Marks of one merchant are an array: a join of 120,000 rows with none cost a fifth of the query.
      const isMarked = (grain: string, alias: string, period: string) =>
        merchantIds?.length === 1
          ? `${period} = any(array(select period from marks where grain = '${grain}'))`
          : `exists (select from marks where marks.grain = '${grain}' and marks.merchant_id = ${alias}.merchant_id
          and marks.period = ${period})`;

      const parts: string[] = [];
      const wholeDays = [...days];
      if (months) {
        const [from, to] = [bind(months.first), bind(months.last)];
        const lastOfMonths = monthOf(months.last).endDate;
        parts.push(`select ${columns('m', midnight('m.month'))} from meter_months as m
          where m.meter_id = ${meter.id} ${of('m')} and m.month between ${from}::date and ${to}::date
            and not ${isMarked('month', 'm', 'm.month')} ${chosen}`);
        parts.push(`select ${columns('d', midnight('d.date'))} from marks as dirty
          join meter_days as d on d.meter_id = ${meter.id} and d.merchant_id = dirty.merchant_id
            and d.date >= dirty.period and d.date < (dirty.period + interval '1 month')::date
          where dirty.grain = 'month' and dirty.period between ${from}::date and ${to}::date
            and not ${isMarked('day', 'd', 'd.date')} ${chosen}`);
        wholeDays.push({ first: months.first, last: lastOfMonths });
      }
      for (const range of days)
        parts.push(`select ${columns('d', midnight('d.date'))} from meter_days as d
          where d.meter_id = ${meter.id} ${of('d')} and d.date between ${bind(range.first)}::date and ${bind(range.last)}::date
            and not ${isMarked('day', 'd', 'd.date')} ${chosen}`);
      if (wholeDays.length > 0) {
        const ranges = wholeDays
          .map((range) => `dirty.period between ${bind(range.first)}::date and ${bind(range.last)}::date`)
          .join(' or ');
        parts.push(`select ${columns('q', 'q.bucket')} from marks as dirty
          join meter_quarters as q on q.meter_id = ${meter.id} and q.merchant_id = dirty.merchant_id
            and q.bucket >= ${midnight('dirty.period')} and q.bucket < ${midnight('(dirty.period + 1)')}
          where dirty.grain = 'day' and (${ranges}) ${chosen}`);
      }
      if (cut.length > CUT_ONE_BY_ONE)
        parts.push(`select ${columns('q', 'q.bucket')} from meter_quarters as q
          where q.meter_id = ${meter.id} ${of('q')} and q.bucket >= ${first} and q.bucket < ${until}
            and (q.bucket at time zone 'UTC')::date = any(${bind(cut)}::date[]) ${chosen}`);
      else
        for (const day of cut)
          parts.push(`select ${columns('q', 'q.bucket')} from meter_quarters as q
            where q.meter_id = ${meter.id} ${of('q')} and q.bucket >= greatest(${first}, ${midnight(`${bind(day)}::date`)})
              and q.bucket < least(${until}, ${midnight(`(${bind(day)}::date + 1)`)}) ${chosen}`);
      const checksValues = await this.overflowed({
        startDate: firstDay,
        endDate: lastDay,
        merchantIds,
        dimensions: meter.dimensions,
      });
      const pending = rowsOf(
        [meter],
        {
          scope: {
            ...(asKnownOn === undefined ? { of: 'pending' as const } : { of: 'known' as const, on: asKnownOn }),
            ...{ merchantIds, first: firstDay, last: lastDay },
          },
          checksValues,
        },
        bind,
      );
      parts.push(`select ${columns('p', 'p.bucket')} from rows as p
        where p.bucket >= ${first} and p.bucket < ${until} ${chosen}`);

      const keys = groupBy.map((name) => (name === 'merchant' ? 'merchant_id' : placeOf(name)));
      const grouped = ['slot', ...keys].join(', ');
      const named = keys.map((key, index) => `, ${key} as k${index}`).join('');
      const slot =
        starts.length === 1
          ? '0'
          : `width_bucket(moment, ${bind(starts.map((ms) => new Date(ms).toISOString()))}::timestamptz[]) - 1`;
      const isUnique = meter.aggregation === 'UNIQUE';
      const byElement = meter.aggregation === 'PERCENTILE';
      const summed =
        kind === 'add'
          ? 'sum(value)'
          : kind === 'LATEST'
            ? '(array_agg(value order by at desc, event_id desc))[1]'
            : `${kind.toLowerCase()}(value)`;
      const inSlots = `select ${slot} as slot, parts.* from parts`;
      // The same value in two merchants is two values.
      const source = isUnique
        ? `(select distinct ${['slot', ...new Set(['merchant_id', ...keys]), 'element'].join(', ')} from (${inSlots}) as each)`
        : `(${inSlots})`;
      const text = `
        with marks as materialized (
          select merchant_id, grain, period from meter_marks
          where period between ${bind(monthOf(firstDay).startDate)}::date and ${bind(lastDay)}::date
            ${merchants ? `and merchant_id = any(${merchants})` : ''}
        ),
        ${pending},
        parts as (
          ${parts.join('\n union all\n')}
        )
        select slot${named}, ${byElement ? 'element' : `''`} as element,
          ${isUnique ? 'count(*)' : `trim_scale(${summed})`}::text as value
        from ${source} as placed
        group by ${grouped}${byElement ? ', element' : ''}
        order by ${grouped}${byElement ? ', element' : ''}
        limit ${bind(limit)}`;
      const found: Record<string, unknown>[] = ValueRows[keys.length]!.parse(await dataSource.query(text, values));
      return found.map(({ slot, element, value, ...groups }) => ({
        window: slot as number,
        group: keys.map((_, index) => groups[`k${index}`] as string),
        element: element as string,
        value: value as string,
      }));
    },

    async quartersFrom() {
      const [row] = (await dataSource.query('select quarters_from as date from meter_state')) as unknown[];
      return z.object({ date: DateText }).parse(row).date;
    },

    async isComputing(meterId, { startDate, endDate }) {
      const [row] = (await dataSource.query(
        `select exists (
           select from meter_history where meter_id = $1 and not done and date between $2 and $3) as found`,
        [meterId, startDate, endDate],
      )) as unknown[];
      return FoundRow.parse(row).found;
    },

    async overflowed({ startDate, endDate, merchantIds, dimensions }) {
      const properties = dimensions.flatMap((name) => propertyOf(name) ?? []);
      if (properties.length === 0) return false;
      const [row] = (await dataSource.query(
        `select exists (
           select from meter_overflows
           where dimension = any($1) and date between $2 and $3 and ($4::text[] is null or merchant_id = any($4))) as found`,
        [properties, startDate, endDate, merchantIds ?? null],
      )) as unknown[];
      return FoundRow.parse(row).found;
    },
  };
}
