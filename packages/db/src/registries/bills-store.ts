import {
  BillClass,
  BillKind,
  type BillProvider,
  countDays,
  type Day,
  MAX_BILLS,
  TallyError,
  type Units,
} from '@tally/contracts';
import type { DataSource, FindOptionsWhere } from 'typeorm';
import { z } from 'zod';
import { BillEntity, type BillRow } from '../entities/bill.ts';
import { DateText, Units as UnitsText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { LessThan } from '../typeorm.ts';

export type NewBill = Omit<BillRow, 'id' | 'createdAt'>;

/** A line of a bill, or several with the same day, model and class. `amount` is nano-USD; null: unknown. */
export type BillLine = {
  date: Day;
  model: string;
  class: BillClass;
  quantity: Units | null;
  amount: Units | null;
  lines: number;
};

/** A bill, and how many of its days no newer one covers. */
export type KnownBill = BillRow & { daysInForce: number };

export type Replaced = { id: string; days: number };

export type BillsStore = {
  /** Returns the bills whose days a new one would replace; `same`: the id of the same file, if it is in force wholly. */
  overlapping(bill: NewBill): Promise<{ replaces: Replaced[]; same: string | undefined }>;
  /** Stores a bill, unless the same file is in force. Throws CARDINALITY_LIMIT beyond MAX_BILLS. */
  add(
    bill: NewBill,
    lines: readonly BillLine[],
  ): Promise<{ bill: KnownBill; replaces: Replaced[]; unchanged: boolean }>;
  /** Returns a page of bills, newest first, of ids below `before`. */
  list(page: { provider: BillProvider | undefined; before: string | undefined; limit: number }): Promise<KnownBill[]>;
  /** Removes a bill; throws NOT_FOUND for an unknown id. */
  remove(id: string): Promise<KnownBill>;
  /**
   * Returns the bill in force on each day of a range, by account and kind, and their lines on these days, summed over
   * accounts, at most `limit`; all as of one moment.
   */
  inForce(
    scope: { provider: BillProvider; account: string | undefined; startDate: Day; endDate: Day },
    limit: number,
  ): Promise<{ days: BillDay[]; lines: SummedBillLine[] }>;
};

const DayRow = z.object({ account: z.string(), kind: BillKind, date: DateText, bill_id: z.string() });
/** The bill of an account and kind that is in force on a day. */
export type BillDay = z.output<typeof DayRow>;
const LineRow = z.object({
  kind: BillKind,
  date: DateText,
  model: z.string(),
  class: BillClass,
  quantity: UnitsText.nullable(),
  amount: UnitsText.nullable(),
  rounding: UnitsText,
});
/** A sum of lines. `rounding`: nano-USD by which all of them may be rounded, times two. */
export type SummedBillLine = z.output<typeof LineRow>;
const OverlapRow = z.object({ id: z.string(), days: z.number().int(), same: z.boolean() });
const InForceRow = z.object({ id: z.string(), days: z.number().int() });

/** Bills of providers, in `bills` and `bill_lines`. */
export function createBillsStore(dataSource: DataSource): BillsStore {
  const bills = dataSource.getRepository(BillEntity);

  async function overlapping(executor: Executor, bill: NewBill) {
    const { provider, account, kind, startDate, endDate, fileHash } = bill;
    const rows = await runSql(
      executor,
      'bills/overlapping',
      [provider, account, kind, startDate, endDate, fileHash],
      OverlapRow,
    );
    const [first] = rows;
    // The period of a file may be given, so the same file may cover other days.
    const same = rows.length === 1 && first!.same && first!.days === countDays(startDate, endDate);
    return { replaces: rows.map(({ id, days }) => ({ id, days })), same: same ? first!.id : undefined };
  }

  return {
    overlapping: (bill) => overlapping(dataSource, bill),
    add: (bill, lines) =>
      dataSource.transaction(async (manager) => {
        await manager.query(sql('bills/lock'));
        const { replaces, same } = await overlapping(manager, bill);
        if (same !== undefined) {
          const row = (await manager.findOneBy(BillEntity, { id: same }))!;
          return { bill: (await withDays(manager, [row]))[0]!, replaces: [], unchanged: true };
        }
        const known = await manager.count(BillEntity);
        if (known >= MAX_BILLS)
          throw new TallyError('CARDINALITY_LIMIT', `There are ${known} bills; at most ${MAX_BILLS}. Remove old ones.`);
        const row = await manager.save(BillEntity, bill as BillRow);
        await manager.query(sql('bills/add-lines'), [
          row.id,
          lines.map(({ date }) => date),
          lines.map(({ model }) => model),
          lines.map((line) => line.class),
          lines.map(({ quantity }) => quantity?.toString() ?? null),
          lines.map(({ amount }) => amount?.toString() ?? null),
          lines.map((line) => line.lines),
        ]);
        return { bill: (await withDays(manager, [row]))[0]!, replaces, unchanged: false };
      }),
    async list({ provider, before, limit }) {
      const where: FindOptionsWhere<BillRow> = {
        ...(provider !== undefined && { provider }),
        ...(before !== undefined && { id: LessThan(before) }),
      };
      return withDays(dataSource, await bills.find({ where, order: { id: 'desc' }, take: limit }));
    },
    remove: (id) =>
      dataSource.transaction(async (manager) => {
        await manager.query(sql('bills/lock'));
        const row = await manager.findOneBy(BillEntity, { id });
        if (!row) throw new TallyError('NOT_FOUND', `There is no bill ${id}.`);
        const [known] = await withDays(manager, [row]);
        await manager.delete(BillEntity, { id });
        return known!;
      }),
    inForce: ({ provider, account, startDate, endDate }, limit) =>
      // Without the lines of a bill that is removed meanwhile, its days would cost nothing.
      dataSource.transaction('REPEATABLE READ', async (manager) => {
        const days = await runSql(manager, 'bills/days', [provider, account ?? null, startDate, endDate], DayRow);
        const values = [days.map(({ date }) => date), days.map(({ bill_id }) => bill_id), limit];
        return { days, lines: await runSql(manager, 'bills/lines', values, LineRow) };
      }),
  };
}

async function withDays(executor: Executor, rows: readonly BillRow[]): Promise<KnownBill[]> {
  const days = await runSql(executor, 'bills/days-in-force', [rows.map(({ id }) => id)], InForceRow);
  const byId = new Map(days.map((each) => [each.id, each.days]));
  return rows.map((row) => ({ ...row, daysInForce: byId.get(row.id) ?? 0 }));
}
