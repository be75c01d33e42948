import type { DirectoryEntry, DirectoryKind } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DirectoryEntryEntity } from '../entities/directory-entry.ts';
import { runSql } from '../run-sql.ts';
import { In } from '../typeorm.ts';

export type Known = { id: string; name: string; email: string | null; role: string | null };

/** A name that a source reported, at a time in milliseconds. */
export type LearnedName = {
  kind: DirectoryKind;
  id: string;
  /** '' is for every merchant. */
  merchantId: string;
  /** Null where only the team is reported. */
  name: string | null;
  email: string | null;
  team: string | null;
  at: number;
};

export type DirectoryStore = {
  /**
   * Stores entries, all or none; of two with the same identity the last wins. An entry without `team` keeps its team.
   */
  upsert(entries: readonly DirectoryEntry[]): Promise<number>;
  /** Writes names that a source reported, each identity once; what somebody wrote stays. */
  learn(names: readonly LearnedName[]): Promise<void>;
  /**
   * Returns entries of a kind by id. For one merchant: its own and the general ones; of kind merchant only its own.
   * With `boundTo`, general entries only if their ids occur in the usage of that merchant.
   */
  list(page: {
    kind: DirectoryKind;
    merchantIds?: readonly string[] | undefined;
    boundTo: string | null;
    ids?: readonly string[] | undefined;
    /** A part of the id, the name or the e-mail address, in any case. */
    search?: string | undefined;
    limit: number;
    after?: { id: string; merchantId: string } | undefined;
  }): Promise<(DirectoryEntry & { team: string | null })[]>;
  remove(entries: { kind: DirectoryKind; ids: readonly string[]; merchantId: string | null }): Promise<number>;
  /** Returns the entries of these ids, in one lookup: for one merchant its own name, else the general one. */
  find(question: {
    kind: DirectoryKind;
    ids: readonly string[];
    merchantIds?: readonly string[] | undefined;
  }): Promise<Map<string, Known>>;
};

const KnownRow = z.object({
  id: z.string(),
  name: z.string(),
  email: z.string().nullable(),
  role: z.string().nullable(),
});
const EntryRow = KnownRow.extend({ merchant_id: z.string(), team: z.string().nullable() });

/** Answers call the absent team `unknown`, so that is none. */
const teamIn = (team: string | null) => (team === 'unknown' ? null : team);

/** Names of users, API keys and merchants, in `directory_entries`. */
export function createDirectoryStore(dataSource: DataSource): DirectoryStore {
  const directory = dataSource.getRepository(DirectoryEntryEntity);
  return {
    async upsert(entries) {
      const unique = new Map(entries.map((entry) => [JSON.stringify([entry.kind, entry.id, entry.merchantId]), entry]));
      const rows = [...unique.values()];
      const column = (value: (entry: DirectoryEntry) => string | null) => rows.map(value);
      await runSql(
        dataSource,
        'upsert-directory',
        [
          column((entry) => entry.kind),
          column((entry) => entry.id),
          column((entry) => entry.merchantId ?? ''),
          column((entry) => entry.name),
          column((entry) => entry.email),
          column((entry) => entry.role),
          column((entry) => teamIn(entry.team ?? null)),
          rows.map((entry) => entry.team !== undefined),
        ],
        z.unknown(),
      );
      return rows.length;
    },
    async learn(names) {
      const column = <Value>(value: (name: LearnedName) => Value) => names.map(value);
      const values = [
        column(({ kind }) => kind),
        column(({ id }) => id),
        column(({ merchantId }) => merchantId),
        column(({ name }) => name),
        column(({ email }) => email),
        column(({ team }) => teamIn(team)),
        column(({ at }) => new Date(at).toISOString()),
      ];
      await runSql(dataSource, 'learn-directory', values, z.unknown());
    },
    async list({ kind, merchantIds, boundTo, ids, search, limit, after }) {
      const place = [after?.id ?? null, after?.merchantId ?? null];
      const values = [kind, merchantIds ?? null, ...place, limit, boundTo, search ?? null, ids ?? null];
      const rows = await runSql(dataSource, 'list-directory', values, EntryRow);
      return rows.map(({ merchant_id, ...row }) => ({ kind, ...row, merchantId: merchant_id || null }));
    },
    async remove({ kind, ids, merchantId }) {
      const { affected } = await directory.delete({ kind, id: In([...ids]), merchantId: merchantId ?? '' });
      return affected ?? 0;
    },
    async find({ kind, ids, merchantIds }) {
      if (ids.length === 0) return new Map();
      const rows = await runSql(dataSource, 'find-directory', [kind, ids, merchantIds ?? null], KnownRow);
      return new Map(rows.map((row) => [row.id, row]));
    },
  };
}
