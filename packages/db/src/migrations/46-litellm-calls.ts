import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * LiteLLM names a call by the id of the model's answer, by its own id of the call, or by both. This table keeps which
 * entry each of these ids stands for. It replaces `litellm_midnight_calls` and starts with what was counted before.
 */
export class LitellmCalls1763856000046 implements MigrationInterface {
  name = 'LitellmCalls1763856000046';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table litellm_calls (
        merchant_id text not null,
        alias text not null,
        date date not null,
        entry_id text not null,
        time timestamptz not null,
        is_sent_time boolean not null,
        response_id text,
        failed boolean,
        prompt_tokens bigint,
        completion_tokens bigint,
        cost bigint,
        primary key (merchant_id, alias, date, entry_id)
      )`);
    await runner.query(`comment on table litellm_calls is 'the entry that an id of a LiteLLM call stands for'`);
    await runner.query(`comment on column litellm_calls.time is 'of the entry: the first that was received of it'`);
    await runner.query(
      `comment on column litellm_calls.is_sent_time is 'time is when the call was reported, up to two hours after it began'`,
    );
    await runner.query(`create index litellm_calls_date on litellm_calls using brin (date)`);
    await runner.query(`
      insert into litellm_calls (merchant_id, alias, date, entry_id, time, is_sent_time, failed,
        prompt_tokens, completion_tokens, cost)
      select merchant_id, alias, date, id, time, properties ? 'cloud_event', failed,
        nullif(prompt_tokens, 0), nullif(completion_tokens, 0), nullif(cost, 0)
      from usage_events
      cross join lateral (select floor(extract(epoch from time) * 1000)::bigint as ms) as start
      cross join lateral (
        select id as alias
        union
        -- A cache hit was counted under the id of the call alone; its start is cut here and rounded in rows.
        select id || '_cache_hit@' || rounded
        from (values (ms), (ms + 1)) as starts (rounded)
        where properties -> 'cache_hit' = 'true' and position('_cache_hit@' in id) = 0
      ) as aliases
      where date in (select date from litellm_days where told_by = 'calls')
        and properties ->> 'source' = 'litellm' and not properties ? 'daily'`);
    await runner.query(`
      insert into litellm_calls (merchant_id, alias, date, entry_id, time, is_sent_time)
      select merchant_id, id, (time at time zone 'UTC')::date, id, time, true
      from litellm_midnight_calls
      on conflict do nothing`);
    await runner.query(`drop table litellm_midnight_calls`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table litellm_midnight_calls (
        midnight date not null,
        merchant_id text not null,
        id text not null,
        time timestamptz not null,
        primary key (midnight, merchant_id, id)
      )`);
    await runner.query(
      `comment on table litellm_midnight_calls is 'the time that was first told of a call within two hours of a midnight'`,
    );
    await runner.query(`
      insert into litellm_midnight_calls (midnight, merchant_id, id, time)
      select distinct on (1, 2, 3) midnight, merchant_id, entry_id, time
      from litellm_calls
      cross join lateral (select (time at time zone 'UTC' + interval '2 hours')::date as midnight) as near
      where time at time zone 'UTC' - midnight < interval '2 hours'
      order by 1, 2, 3, 4`);
    await runner.query(`drop table litellm_calls`);
  }
}
