import type { DataSource } from 'typeorm';
import {
  SourceRejectionEntity,
  type SourceRejectionRow,
  SourceStateEntity,
  type SourceStateRow,
} from '../entities/source.ts';
import { sql } from '../run-sql.ts';
import { LessThan } from '../typeorm.ts';

/** Counts that a process received from a source since it last saved them. */
export type SourceCounts = {
  source: string;
  accepted: number;
  duplicates: number;
  rejected: number;
  skipped: number;
  firstSeenAt: Date;
  lastSeenAt: Date;
};

export type SourceRejection = Omit<SourceRejectionRow, 'id'>;

export type SourcesStore = {
  /** Adds counts to the states of sources, and keeps the newest `REJECTIONS_KEPT` rejections of each. */
  add(counts: readonly SourceCounts[], rejections: readonly SourceRejection[]): Promise<void>;
  /** Returns the states of all sources, by name. */
  states(): Promise<SourceStateRow[]>;
  /** Returns rejections, newest first, with an id below `before`. */
  rejections(page: {
    source?: string | undefined;
    before?: string | undefined;
    limit: number;
  }): Promise<SourceRejectionRow[]>;
};

/** The number of rejections kept per source. */
export const REJECTIONS_KEPT = 100;

/** Counts and rejections of sources, in `source_states` and `source_rejections`. */
export function createSourcesStore(dataSource: DataSource): SourcesStore {
  const states = dataSource.getRepository(SourceStateEntity);
  const rejected = dataSource.getRepository(SourceRejectionEntity);
  return {
    async add(counts, rejections) {
      const column = <K extends keyof SourceCounts>(name: K) => counts.map((each) => each[name]);
      const values = [
        column('source'),
        column('accepted'),
        column('duplicates'),
        column('rejected'),
        column('skipped'),
        column('firstSeenAt'),
        column('lastSeenAt'),
      ];
      await dataSource.transaction(async (manager) => {
        await manager.query(sql('count-source-events'), values);
        if (rejections.length === 0) return;
        await manager.insert(SourceRejectionEntity, [...rejections]);
        await manager.query(sql('prune-source-rejections'), [column('source'), REJECTIONS_KEPT]);
      });
    },
    states: () => states.find({ order: { source: 'asc' } }),
    rejections({ source, before, limit }) {
      return rejected.find({
        where: { ...(source !== undefined && { source }), ...(before !== undefined && { id: LessThan(before) }) },
        order: { id: 'desc' },
        take: limit,
      });
    },
  };
}
