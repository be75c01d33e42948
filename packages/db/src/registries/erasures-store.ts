import { randomBytes } from 'node:crypto';
import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Journal } from '../journal/journal-store.ts';
import type { MeterRollups } from '../meters/meter-rollups-store.ts';
import type { DaysStore } from '../rollups/days-store.ts';
import { holdRolledUp } from '../rollups/rolled-up.ts';
import { DateText } from '../rows.ts';
import { runSql, sql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';

export type Erasure = {
  merchantId: string;
  userId: string;
  /** Replaces the user's id from now on. It is random, so it reveals nothing about the user. */
  pseudonym: string;
  /** True to include what belongs to no merchant: the user's general directory entry, imported day snapshots. */
  everywhere: boolean;
  /** Events of the journal up to this one are renamed. */
  after: { date: Day; id: string };
};

export type ErasuresStore = {
  /**
   * Returns active budgets and meters that name the user, at most 10. They would stop working, so they must be removed
   * first.
   */
  blockers(merchantId: string, userId: string): Promise<{ kind: 'budget' | 'meter'; name: string }[]>;
  /**
   * Gives a user of a merchant a pseudonym, which everything counted from now on has. Called again, it resumes; after a
   * complete erasure it starts again with the same pseudonym.
   */
  begin(user: Pick<Erasure, 'merchantId' | 'userId' | 'everywhere'>, actor: string): Promise<Erasure>;
  /**
   * Renames stored data, slice by slice, each in a transaction that keeps all sums. Stops between slices once `isOver`;
   * to resume, call `begin` and this again. Returns the number of renamed events.
   */
  run(erasure: Erasure, isOver: () => boolean): Promise<{ complete: boolean; events: number }>;
};

const PAGE_EVENTS = 10_000;
const SNAPSHOTS_AT_ONCE = 10;

/** Statements on small tables, or tables with few rows of a user; each takes merchant, user and pseudonym. */
const SMALL = [
  ...['admitted-values', 'dead-letters', 'conflicts', 'budgets', 'meters'],
  ...['custom-values', 'custom-versions', 'custom-audit'],
];
const METRICS = ['daily-metrics', 'weekly-metrics', 'monthly-metrics'];

const BeginRow = z.object({ pseudonym: z.string(), after_date: DateText, after_id: z.string() });
const BlockerRow = z.object({ kind: z.enum(['budget', 'meter']), name: z.string() });
const PageRow = z.object({ seen: z.number().int(), renamed: z.number().int(), last_id: z.string() });
const DateRow = z.object({ date: DateText });
const YearRow = z.object({ year: DateText });
const SnapshotRow = z.object({ date: DateText, status: z.enum(['complete', 'partial']) });

/** Erased users, in `erased_users`, and the one place that renames a user in every table with users. */
export function createErasuresStore(
  dataSource: DataSource,
  journal: Pick<Journal, 'exclusively'>,
  days: Pick<DaysStore, 'rebuild'>,
  meters: Pick<MeterRollups, 'renameUser'>,
): ErasuresStore {
  const namesOf = ({ merchantId, userId, pseudonym }: Erasure) => [merchantId, userId, pseudonym];

  async function renameSmall(erasure: Erasure): Promise<void> {
    const { merchantId, userId, everywhere, pseudonym } = erasure;
    await inTransaction(dataSource, async (transaction) => {
      for (const name of SMALL) await transaction.query(sql(`erase/${name}`), namesOf(erasure));
      await transaction.query(sql('erase/audit-log'), [...namesOf(erasure), everywhere]);
      await transaction.query(sql('erase/directory'), [merchantId, userId, everywhere]);
      if (everywhere) await transaction.query(sql('erase/imported-snapshots'), [userId, pseudonym]);
    });
  }

  /** Renames one page of the journal; returns its result, and whether the day has more. */
  async function renamePage(erasure: Erasure, date: Day, afterId: string) {
    return inTransaction(dataSource, async (transaction) => {
      const values = [...namesOf(erasure), date, afterId, PAGE_EVENTS];
      const [page] = await runSql(transaction, 'erase/events', values, PageRow);
      const { seen, renamed, last_id: lastId } = page!;
      await transaction.query(sql('erase/position'), [erasure.pseudonym, date, lastId, false]);
      return { renamed, lastId, hasMore: seen === PAGE_EVENTS };
    });
  }

  /**
   * Renames a whole year at once: queries read years minus months and months minus days, so these change together.
   * Derivations wait, since one that read events before the renaming would bring the user back.
   */
  async function renameYear(erasure: Erasure, year: Day): Promise<number> {
    const { merchantId, userId } = erasure;
    const range = [year, `${String(Number(year.slice(0, 4)) + 1).padStart(4, '0')}-01-01`];
    return journal.exclusively([merchantId], async (transaction) => {
      await holdRolledUp(transaction);
      await transaction.query(sql('hold-flushes'));
      const values = [...namesOf(erasure), ...range];
      await transaction.query(sql('erase/platform-users'), values);
      await transaction.query(sql('erase/platform-users-empty'), [userId, ...range]);
      const changed = await runSql(transaction, 'erase/daily', values, DateRow);
      const months = await runSql(transaction, 'erase/monthly', values, DateRow);
      await runSql(transaction, 'erase/quarter-months', values, DateRow);
      await runSql(transaction, 'erase/yearly', values, DateRow);
      await runSql(transaction, 'erase/priced', values, DateRow);
      for (const { date } of months) await transaction.query(sql('rebuild/rollup-rows'), [merchantId, date, year]);
      if (changed.length > 0) await transaction.query(sql('touch-days'), [merchantId, changed.map(({ date }) => date)]);
      return changed.length + months.length;
    });
  }

  return {
    blockers: (merchantId, userId) => runSql(dataSource, 'erase/blockers', [merchantId, userId], BlockerRow),

    begin: ({ merchantId, userId, everywhere }, actor) =>
      journal.exclusively([merchantId], async (transaction) => {
        const own = `erased-${randomBytes(16).toString('hex')}`;
        const [row] = await runSql(transaction, 'erase/begin', [merchantId, userId, own, actor], BeginRow);
        const { pseudonym, after_date: date, after_id: id } = row!;
        await transaction.query(sql('erase/adjustments'), [merchantId, userId, pseudonym]);
        return { merchantId, userId, everywhere, pseudonym, after: { date, id } };
      }),

    async run(erasure, isOver) {
      const { merchantId, userId, pseudonym, after } = erasure;
      let events = 0;
      const stopped = () => ({ complete: false, events });
      await renameSmall(erasure);
      if (isOver()) return stopped();
      for (const { date } of await runSql(dataSource, 'erase/journal-days', [after.date], DateRow)) {
        let id = date === after.date ? after.id : '';
        for (let hasMore = true; hasMore; ) {
          const page = await renamePage(erasure, date, id);
          events += page.renamed;
          ({ lastId: id, hasMore } = page);
          if (isOver()) return stopped();
        }
      }
      // Before the years, which mark their days as changed: a meter answer cached meanwhile is not used.
      if ((await meters.renameUser(merchantId, userId, pseudonym)) > 0 && isOver()) return stopped();
      for (const { year } of await runSql(dataSource, 'erase/years', [merchantId], YearRow))
        if ((await renameYear(erasure, year)) > 0 && isOver()) return stopped();
      for (const name of METRICS) await dataSource.query(sql(`erase/${name}`), namesOf(erasure));
      for (let date = '0001-01-01'; ; ) {
        const named = await runSql(dataSource, 'erase/snapshots', [userId, date, SNAPSHOTS_AT_ONCE], SnapshotRow);
        if (named.length === 0) break;
        await days.rebuild(named, { onlyStale: false });
        date = named.at(-1)!.date;
        if (isOver()) return stopped();
      }
      await dataSource.query(sql('erase/position'), [pseudonym, '0001-01-01', '', true]);
      return { complete: true, events };
    },
  };
}
