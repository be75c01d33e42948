import { afterAll, beforeAll } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

/** A listening usage-ingest for the clients of other products, whose stores fail when a test says so. */
export type ClientsWorld = Fixture & {
  /** The address for clients. */
  url: string;
  adminKey: string;
  /** How many of the next batches fail: before anything is stored, or afterwards, so that the answer is lost. */
  failing: { before: number; after: number };
  /** Creates a key. */
  keyOf(role: 'producer' | 'member' | 'viewer' | 'admin', merchantId?: string): Promise<string>;
  /** Returns current totals of a merchant, without the sum of all tokens. */
  totalsOf(merchantId: string): Promise<Record<string, string>>;
  resultsOf(source: string): Promise<{ accepted: number; duplicates: number; rejected: number; skipped: number }>;
};

/** Starts the world for a test file; its clock is that of the clients, which stamp events themselves. */
export function clientsWorld(): ClientsWorld {
  const world = {} as ClientsWorld;
  beforeAll(async () => {
    const failing = { before: 0, after: 0 };
    const ingest = await startIngest({}, async (point) => {
      if (point === 'record.before-store' && failing.before-- > 0) throw new Error('the store is unavailable');
      if (point === 'record.after-store' && failing.after-- > 0) throw new Error('the answer is lost');
    });
    ingest.clock.now = Date.now();
    const { port } = await ingest.app.listen({ host: '127.0.0.1', port: 0 });
    Object.assign(world, ingest, {
      url: `http://127.0.0.1:${port}`,
      adminKey: ADMIN_KEY,
      failing,
      async keyOf(role: 'producer', merchantId?: string) {
        const { key } = await ingest.admin.keys.create.mutate({ name: role, role, ...(merchantId && { merchantId }) });
        return key;
      },
      async totalsOf(merchantId: string) {
        await ingest.admin.flush.drain.mutate({ merchantIds: [merchantId] });
        const { total_tokens: _, ...metrics } = (await ingest.admin.usage.current.query({ merchantId })).metrics;
        return metrics;
      },
      async resultsOf(source: string) {
        const { sources } = await ingest.admin.sources.status.query({});
        const found = sources.find((each) => each.source === source);
        const { accepted = 0, duplicates = 0, rejected = 0, skipped = 0 } = found ?? {};
        return { accepted, duplicates, rejected, skipped };
      },
    });
  });
  afterAll(() => world.close());
  return world;
}
