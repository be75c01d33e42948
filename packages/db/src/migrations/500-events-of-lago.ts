import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Lago's clients look an event up by its id alone. The index has no row of other events. */
export class EventsOfLago1763856000500 implements MigrationInterface {
  name = 'EventsOfLago1763856000500';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("create index usage_events_lago on usage_events (id) where id like 'lago:%'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index usage_events_lago');
  }
}
