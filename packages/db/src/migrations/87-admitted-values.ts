import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = 'requests, failed_requests, prompt_tokens, completion_tokens, cost';
const DIMENSIONS = ['user_id', 'api_key', 'model', 'provider'];
const rolled = DIMENSIONS.map(
  (name, bit) => `case when folded & ${1 << bit} <> 0 then '(other)' else ${name} end as ${name}`,
).join(', ');

/**
 * The values that each dimension of a merchant's day may have in rollups, in the order in which they were counted. What
 * comes beyond the limit is marked in its row, so whatever is made from rows again is made alike.
 */
export class AdmittedValues1763856000087 implements MigrationInterface {
  name = 'AdmittedValues1763856000087';

  async up(runner: QueryRunner): Promise<void> {
    const comment = `'dimensions that rollups count under (other), one bit each: user, key, model, provider'`;
    for (const table of ['usage_events', 'usage_adjustments']) {
      await runner.query(`alter table ${table} add column folded smallint`);
      await runner.query(`comment on column ${table}.folded is ${comment}`);
    }
    // A row for each transaction that admitted values: thousands of values are few rows.
    await runner.query(`
      create table usage_admitted_values (
        merchant_id text not null,
        date date not null,
        dimension smallint not null,
        part int not null,
        values text[] not null,
        primary key (merchant_id, date, dimension, part)
      )`);
    await runner.query(`create index usage_admitted_values_date on usage_admitted_values using brin (date)`);
    await runner.query(`
      create table usage_overflows (
        merchant_id text not null,
        date date not null,
        dimension smallint not null,
        recorded_at timestamptz not null default clock_timestamp(),
        primary key (merchant_id, date, dimension)
      )`);
    await runner.query('create index usage_overflows_date on usage_overflows (date)');
    await runner.query(
      `comment on table usage_overflows is 'days on which a dimension had more values than rollups may have'`,
    );
    await runner.query(`
      create view usage_counted_events as
      select date, merchant_id, flush_id, time, ${rolled}, ${MEASURES} from usage_events`);
    await runner.query(`
      create view usage_counted_adjustments as
      select date, merchant_id, ${rolled}, ${MEASURES} from usage_adjustments`);
    await runner.query('drop view usage_pending');
    await runner.query(`
      create view usage_pending as
      select event.*
      from usage_flushes as flush
      join usage_counted_events as event
        on event.flush_id = flush.id and event.date between flush.first_date and flush.last_date
      where flush.derived_at is null`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop view usage_pending, usage_counted_events, usage_counted_adjustments');
    await runner.query('drop table usage_overflows, usage_admitted_values');
    await runner.query('alter table usage_events drop column folded');
    await runner.query('alter table usage_adjustments drop column folded');
    await runner.query(`
      create view usage_pending as
      select event.*
      from usage_flushes as flush
      join usage_events as event on event.flush_id = flush.id and event.date between flush.first_date and flush.last_date
      where flush.derived_at is null`);
  }
}
