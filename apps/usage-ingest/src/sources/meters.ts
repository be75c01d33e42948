import { setTimeout as wait } from 'node:timers/promises';
import type { Meter } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { Log } from '@tally/service';
import type { Reading } from './foreign-event.ts';
import type { SourceRequest } from './source.ts';

/** Meters as sources use them: each call is made as the caller of the request. */
export type SourceMeters = {
  /** Returns how to read the events of a request. Never throws: the meters it knows may be some seconds old. */
  reading(request: SourceRequest): Promise<Reading>;
  /** Lists declared meters with one of these aggregations: of a merchant and for all, or all that the caller may see. */
  list(request: SourceRequest, aggregations: readonly string[], merchantId?: string): Promise<Meter[]>;
  /** Creates a meter. Events read from now on count in it. */
  create(request: SourceRequest, meter: object): Promise<Meter>;
  /** Changes the name of a meter, which is all that can change; what it counts stays. */
  rename(request: SourceRequest, key: string, name: string | undefined): Promise<Meter>;
  remove(request: SourceRequest, key: string): Promise<void>;
};

const KEPT_MS = 2_000;
/** Events wait no longer than this for a Postgres that does not answer. */
const MAX_WAIT_MS = 500;

/** Reads the registry of meters at most every two seconds; while Postgres is unavailable, the last meters stay. */
export function createSourceMeters({
  meters,
  log,
  now,
}: {
  meters: Pick<Db['meters'], 'list'>;
  log: Log;
  now: () => number;
}): SourceMeters {
  let known: ReadonlySet<string> = new Set();
  let readAt = Number.NEGATIVE_INFINITY;
  let running: Promise<void> | undefined;

  async function read(): Promise<void> {
    try {
      const rows = await meters.list();
      known = new Set(rows.flatMap(({ valueProperty }) => (valueProperty === null ? [] : [valueProperty])));
    } catch (err) {
      log.warn({ err }, 'meters could not be read; sources go on with those known');
    }
    readAt = now();
    running = undefined;
  }

  return {
    async reading({ caller, now: at }) {
      if (Math.abs(now() - readAt) > KEPT_MS) running ??= read();
      if (running) await Promise.race([running, wait(MAX_WAIT_MS, undefined, { ref: false })]);
      return { caller, now: at, metered: known };
    },
    async list({ call }, aggregations, merchantId) {
      const { rows } = (await call('meters.list', { merchantId })) as { rows: Meter[] };
      return rows.filter(({ id, aggregation }) => id !== null && aggregations.includes(aggregation));
    },
    async create({ call }, meter) {
      const created = (await call('meters.create', meter)) as Meter;
      readAt = Number.NEGATIVE_INFINITY;
      return created;
    },
    rename: async ({ call }, key, name) => (await call('meters.update', { key, name })) as Meter,
    async remove({ call }, key) {
      await call('meters.remove', { key });
      readAt = Number.NEGATIVE_INFINITY;
    },
  };
}
