import { z } from 'zod';
import { bindings, type Executor } from '../run-sql.ts';
import { boundedProperties, type MeterSpec } from './event-rows.ts';
import { type EventScope, rawEvents } from './event-scope.ts';

const OverflowRows = z.tuple([z.object({ overflowed: z.boolean() })]);
const overflowIn = (rows: unknown): boolean => OverflowRows.parse(rows)[0].overflowed;

/**
 * Stores the values of properties that are dimensions, up to the limit of each merchant's day; returns true if one is
 * full.
 */
export async function admitValues(
  transaction: Executor,
  { meters, scope, valuesPerDay }: { meters: readonly MeterSpec[]; scope: EventScope; valuesPerDay: number },
): Promise<boolean> {
  const properties = boundedProperties(meters);
  if (properties.length === 0) return false;
  const { bind, values } = bindings();
  const names = `${bind(properties)}::text[]`;
  const text = `
    -- Joins in place of correlated subqueries, which Citus cannot run here.
    with raw as materialized (
      select merchant_id, date, properties, place from (${rawEvents(scope, bind)}) as event
      where properties ?| ${names}
    ),
    candidates as materialized (
      select merchant_id, date, dimension, properties ->> dimension as value, min(place) as place
      from raw, unnest(${names}) as dimension
      where properties ? dimension and coalesce(properties ->> dimension, '') not in ('', 'unknown')
      group by 1, 2, 3, 4
    ),
    admitted_before as materialized (
      select known.merchant_id, known.date, known.dimension, known.value
      from candidates join meter_values as known using (merchant_id, date, dimension, value)
    ),
    numbered as materialized (
      select merchant_id, date, dimension, value,
        row_number() over (partition by merchant_id, date, dimension order by place, value collate "C") as number
      from candidates left join (select *, true as is_admitted from admitted_before) as known
        using (merchant_id, date, dimension, value)
      where octet_length(value) <= 400 and is_admitted is null
    ),
    counts as materialized (
      select merchant_id, date, dimension, count(*) as count
      from (select distinct merchant_id, date, dimension from numbered) as day
      join meter_values using (merchant_id, date, dimension)
      group by 1, 2, 3
    ),
    placed as materialized (
      select numbered.*, number + coalesce(count, 0) <= ${bind(valuesPerDay)}::bigint as is_admitted
      from numbered left join counts using (merchant_id, date, dimension)
    ),
    admitted as (
      insert into meter_values (merchant_id, date, dimension, value)
      select merchant_id, date, dimension, value from placed where is_admitted order by 1, 2, 3, 4
    ),
    beyond as materialized (
      select distinct merchant_id, date, dimension from placed where not is_admitted
      union
      select merchant_id, date, dimension from candidates where octet_length(value) > 400
    ),
    overflowed as (
      insert into meter_overflows (merchant_id, date, dimension)
      select merchant_id, date, dimension from beyond order by 1, 2, 3
      on conflict do nothing
    )
    select exists (select 1 from beyond) or exists (
      select 1 from meter_overflows join candidates using (merchant_id, date, dimension)) as overflowed`;
  return overflowIn(await transaction.query(text, values));
}

/** Returns whether a property of one of these merchants exceeded its limit on a day. */
export const hasOverflows = async (transaction: Executor, merchantIds: readonly string[], date: string) =>
  overflowIn(
    await transaction.query(
      'select exists (select from meter_overflows where merchant_id = any($1) and date = $2) as overflowed',
      [merchantIds, date],
    ),
  );
