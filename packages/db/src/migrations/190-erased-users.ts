import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Users that were erased: the pseudonym that stands for each, and how far the journal has been renamed. The user itself is
 * kept as a digest only, so that later events of it can be recognised.
 */
export class ErasedUsers1763856000190 implements MigrationInterface {
  name = 'ErasedUsers1763856000190';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table erased_users (
        merchant_id text not null,
        digest text not null,
        pseudonym text not null unique,
        requested_at timestamptz not null default clock_timestamp(),
        requested_by text not null,
        after_date date not null default '0001-01-01',
        after_id text not null default '',
        completed_at timestamptz,
        primary key (merchant_id, digest)
      )`);
    // Replaces a text wherever it is a whole value or a name in a document; text that only contains it stays.
    await runner.query(`
      create function tally_renamed(document jsonb, old_text text, new_text text) returns jsonb
      language plpgsql immutable as $$
      begin
        return case jsonb_typeof(document)
          when 'string' then case when document #>> '{}' = old_text then to_jsonb(new_text) else document end
          when 'array' then (
            select coalesce(jsonb_agg(tally_renamed(value, old_text, new_text) order by place), '[]')
            from jsonb_array_elements(document) with ordinality as element (value, place))
          when 'object' then (
            select coalesce(jsonb_object_agg(
              case when key = old_text then new_text else key end, tally_renamed(value, old_text, new_text)), '{}')
            from jsonb_each(document))
          else document
        end;
      end $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop function tally_renamed(jsonb, text, text)');
    await runner.query('drop table erased_users');
  }
}
