import type { MigrationInterface, QueryRunner } from 'typeorm';
import { isDistributed } from '../distribution.ts';

const ON = `(id) where id like 'lago:%'`;

/** Lago's clients look an event up by its id alone. The index has no row of other events. */
export class EventsOfLago1763856000500 implements MigrationInterface {
  name = 'EventsOfLago1763856000500';
  transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    if (await isDistributed(runner)) {
      await runner.query(`create index if not exists usage_events_lago on usage_events ${ON}`);
      return;
    }
    // Days that are opened from now on have it; each earlier one gets it beside its writers.
    await runner.query(`create index if not exists usage_events_lago on only usage_events ${ON}`);
    const days = (await runner.query(
      `select day.inhrelid::regclass::text as name, to_regclass(day.inhrelid::regclass::text || '_lago') is not null as begun
       from pg_inherits as day
       where day.inhparent = 'usage_events'::regclass and not exists (
         select from pg_index as own join pg_inherits as part on part.inhrelid = own.indexrelid
         where own.indrelid = day.inhrelid and part.inhparent = 'usage_events_lago'::regclass)`,
    )) as { name: string; begun: boolean }[];
    for (const { name, begun } of days) {
      // One that was interrupted is not valid.
      if (begun) await runner.query(`drop index concurrently ${name}_lago`);
      await runner.query(`create index concurrently ${name}_lago on ${name} ${ON}`);
      await runner.query(`alter index usage_events_lago attach partition ${name}_lago`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index usage_events_lago');
  }
}
