import { BUILT_IN_METERS, type ingest, type Meter, TallyError } from '@tally/contracts';
import { type Db, type StoredMeter, unknownMeter } from '@tally/db';
import type { z } from 'zod';
import { MAX_RANGE_DAYS } from '../flush/flush.ts';
import { assertRange } from '../ranges.ts';
import type { RegistryReader } from './registry.ts';

type Input<Name extends keyof typeof ingest.meters> = z.output<(typeof ingest.meters)[Name]['input']>;
type Output<Name extends keyof typeof ingest.meters> = z.output<(typeof ingest.meters)[Name]['output']>;

export type Meters = {
  create(definition: Input<'create'>, by: string): Promise<Output<'create'>>;
  update(change: Input<'update'>, by: string): Promise<Output<'update'>>;
  list(question: Input<'list'>): Promise<Output<'list'>>;
  /** Returns a merchant's own meter, else the one for every merchant. */
  get(name: Input<'get'>): Promise<Output<'get'>>;
  remove(name: Input<'remove'>): Promise<Output<'remove'>>;
  rebuild(scope: Input<'rebuild'>): Promise<Output<'rebuild'>>;
};

/** The registry of meters. Their amounts are derived in the background: see derive-meters.ts. */
export function createMeters({
  db,
  registry,
  drain,
}: {
  db: Pick<Db, 'meters' | 'metricTypes'>;
  registry: RegistryReader;
  /** Flushes everything accepted before the call. */
  drain(): Promise<{ errors: { message: string }[] }>;
}): Meters {
  const named = ({ key, merchantId }: { key: string; merchantId?: string | undefined }) => ({
    key,
    merchantId: merchantId ?? '',
  });

  function assertOwn(key: string): void {
    if (BUILT_IN_METERS.some((meter) => meter.key === key))
      throw new TallyError('CONFLICT', `${key} is a built-in meter: it stays as it is.`);
  }

  async function find(name: { key: string; merchantId?: string | undefined }): Promise<StoredMeter> {
    const own = await db.meters.find(named(name));
    const found = own ?? (name.merchantId === undefined ? undefined : await db.meters.find(named({ key: name.key })));
    if (!found) throw unknownMeter(name.key);
    return found;
  }

  /** Declares a scale: first counts everything accepted, so that a type in use has the scale 0. */
  const declaring = async <T>(create: () => Promise<T>): Promise<T> => {
    // Little is left to flush while nothing is accepted.
    await drain();
    return registry.alone(async (renew) => {
      const { errors } = await drain();
      if (errors[0])
        throw new TallyError('UNAVAILABLE', `A scale cannot be declared before all is flushed: ${errors[0].message}`);
      await renew();
      return create();
    });
  };

  return {
    async create(definition, by) {
      assertOwn(definition.key);
      const { metricType } = definition;
      const builtIn = BUILT_IN_METERS.find(({ key }) => key === metricType);
      if (builtIn && definition.scale !== undefined && definition.scale !== builtIn.scale)
        throw new TallyError('CONFLICT', `${metricType} has the scale ${builtIn.scale}, which cannot change.`);
      const create = () => db.meters.create(definition, by);
      const declares = metricType !== undefined && !builtIn && (definition.scale ?? 0) > 0;
      const isNew = declares && (await db.metricTypes.scales([metricType]))(metricType) !== definition.scale;
      const created = isNew ? await declaring(create) : await create();
      await registry.reload().catch(() => {});
      return present(created);
    },

    async update({ name, unit, ...of }, by) {
      assertOwn(of.key);
      const updated = await db.meters.update(named(of), { name, unit }, by);
      await registry.reload().catch(() => {});
      return present(updated);
    },

    async list({ merchantId }) {
      const rows = await db.meters.list(merchantId);
      return { rows: [...BUILT_IN_METERS, ...rows.map(present)], nextCursor: null };
    },

    async get(name) {
      const builtIn = BUILT_IN_METERS.find(({ key }) => key === name.key);
      if (builtIn) return { ...builtIn, versions: [] };
      const meter = await find(name);
      const versions = await db.meters.versions(meter.id);
      return {
        ...present(meter),
        versions: versions.map(({ meterId: _, createdAt, ...version }) => ({
          ...version,
          createdAt: createdAt.toISOString(),
        })),
      };
    },

    async remove(name) {
      assertOwn(name.key);
      await db.meters.remove(named(name));
      await registry.reload().catch(() => {});
      return { removed: true };
    },

    async rebuild({ startDate, endDate, ...name }) {
      assertOwn(name.key);
      assertRange({ startDate, endDate }, MAX_RANGE_DAYS);
      const started = performance.now();
      const meter = await find(name);
      const merchantIds = name.merchantId === undefined ? undefined : [name.merchantId];
      const rebuilt = await db.meters.rebuild(meter, { startDate, endDate, merchantIds });
      return { ...rebuilt, durationMs: Math.round(performance.now() - started) };
    },
  };
}

function present(meter: StoredMeter): Meter {
  const { id, merchantId, createdAt, updatedAt, historyFrom, history } = meter;
  const { key, name, unit, scale, aggregation, metricType, valueProperty, eventType, filters, dimensions } = meter;
  return {
    id: String(id),
    key,
    merchantId: merchantId === '' ? null : merchantId,
    ...{ name, unit, scale, aggregation, metricType, valueProperty, eventType, filters, dimensions },
    version: meter.version,
    createdAt: createdAt.toISOString(),
    createdBy: meter.createdBy,
    updatedAt: updatedAt.toISOString(),
    history: { from: historyFrom, ...history },
  };
}
