import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

// Events of past days are written to Postgres at once. One producer's history must not keep another's waiting.

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest({ POSTGRES_POOL_SIZE: '10' });
});
afterAll(async () => {
  await ingest.close();
});

test("a producer's event of a past day does not wait in the line of another producer", async () => {
  const [busy, quiet] = await Promise.all(
    ['busy', 'quiet'].map(async (name) => {
      const { key } = await ingest.admin.keys.create.mutate({ name, role: 'producer', merchantId: name });
      return ingest.clientWith(key);
    }),
  );
  const at = (merchantId: string, id: string) => ({
    entries: [{ id, merchantId, time: '2026-11-10T10:00:00Z', metrics: { requests_made: '1' } }],
  });
  await busy!.usage.record.mutate(at('busy', 'first'));

  const postgres = new pg.Client({ connectionString: ingest.databaseUrl });
  await postgres.connect();
  await postgres.query('begin');
  // Whatever else counts for this merchant and day waits for this row.
  await postgres.query("select from usage_daily where merchant_id = 'busy' for update");
  const history = Array.from({ length: 30 }, (_, index) => busy!.usage.record.mutate(at('busy', `old-${index}`)));
  expect(await quiet!.usage.record.mutate(at('quiet', 'one'))).toMatchObject({ accepted: 1 });
  await postgres.query('commit');
  await postgres.end();
  expect((await Promise.all(history)).every(({ accepted }) => accepted === 1)).toBe(true);
});
