import { type Day, DIMENSIONS } from '@tally/contracts';
import { z } from 'zod';
import { DateText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/** The dimensions in the order of their bits and of `usage_admitted_values.dimension`. */
export type DimensionColumn = (typeof DIMENSIONS)[number];

type Values = Pick<JournalLine, 'merchant_id' | 'date' | DimensionColumn>;

/** A line of a batch, and its dimensions that rollups count under `(other)`. */
export type FoldedLine = { position: number; dimensions: DimensionColumn[] };

export type Admitted = {
  /** The folded dimensions of each line, one bit each; undefined if no line has any. */
  bits: Uint8Array | undefined;
  folded: FoldedLine[];
  /** Call it when the transaction has committed. */
  committed(): void;
};

export type Admission = {
  /**
   * Admits the values of lines, in their order, up to the limit of each dimension of a merchant's day, and stores them
   * with the transaction. Returns the dimensions beyond the limit per line. Asks Postgres only about values that are
   * new to this process.
   */
  admit(transaction: Executor, lines: readonly Values[]): Promise<Admitted>;
  /** Predicts the folded dimensions of a line from the memory of this process. */
  predict(line: Values): DimensionColumn[];
};

/** The known values of one merchant's day, by dimension. A full set never changes again. */
type Day4 = { values: (Set<string> | undefined)[]; parts: number[]; overflowed: boolean[] };

/**
 * The limit of values remembered over all merchants' days; an empty day counts as a few. A value takes some 100 bytes.
 */
const MAX_REMEMBERED = 1_000_000;
const WEIGHT_OF_DAY = 8;
const MAX_ATTEMPTS = 100;

const PartRow = z.object({
  merchant_id: z.string(),
  date: DateText,
  dimension: z.number().int(),
  part: z.number().int(),
  values: z.array(z.string()),
});
const StoredRow = z.object({ merchant_id: z.string(), date: DateText, dimension: z.number().int() });

/** The values that one transaction adds to one dimension of a merchant's day. */
type Part = { key: string; merchantId: string; date: Day; dimension: number; part: number; values: Set<string> };

/** Limits the distinct values of a dimension that a merchant's day has in rollups. */
export function createAdmission(limit: number): Admission {
  const known = new Map<string, Day4>();
  /** The remembered days with a full dimension. They are few, so a prediction usually costs nothing. */
  const full = new Map<string, Day4>();
  let remembered = 0;

  /** Reads the admitted values of days, without the parts of this transaction, into `batch`. */
  async function load(
    transaction: Executor,
    days: readonly Values[],
    own: ReadonlyMap<string, Part>,
    batch: Map<string, Day4>,
  ): Promise<void> {
    for (const day of days) batch.set(keyOf(day), { values: [], parts: [0, 0, 0, 0], overflowed: [] });
    const columns = [days.map((day) => day.merchant_id), days.map((day) => day.date)];
    for (const row of await runSql(transaction, 'admitted-values', columns, PartRow)) {
      const key = keyOf(row);
      if (own.get(partOf(key, row.dimension))?.part !== row.part) {
        add(batch.get(key)!, row.dimension, row.part, row.values);
      }
    }
    for (const key of days.map(keyOf)) {
      const day = batch.get(key)!;
      remembered += weightOf(day) - weightOf(known.get(key));
      known.set(key, day);
      full.delete(key);
      noteFull(key, day);
    }
  }

  function noteFull(key: string, day: Day4): void {
    if (day.values.some((set) => set && set.size >= limit)) full.set(key, day);
  }

  /** Drops the days that were read first, but none of this batch. */
  function makeRoom(batch: ReadonlyMap<string, Day4>): void {
    if (remembered <= MAX_REMEMBERED) return;
    for (const [key, day] of known) {
      if (remembered <= MAX_REMEMBERED) return;
      if (batch.has(key)) continue;
      known.delete(key);
      full.delete(key);
      remembered -= weightOf(day);
    }
  }

  async function admit(transaction: Executor, lines: readonly Values[]): Promise<Admitted> {
    const own = new Map<string, Part>();
    const batch = new Map<string, Day4>();
    const unknown = new Map<string, Values>();
    const keys = lines.map(keyOf);
    keys.forEach((key, position) => {
      const day = known.get(key);
      if (day) batch.set(key, day);
      else unknown.set(key, lines[position]!);
    });
    let missed = [...unknown.values()];
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      if (missed.length > 0) await load(transaction, missed, own, batch);
      const { bits, folded, wanted, overflows } = sortOut(lines, keys, own, batch);
      missed = await store(transaction, wanted, own);
      if (missed.length > 0) continue;
      await recordOverflows(transaction, overflows);
      makeRoom(batch);
      return {
        bits: folded.length > 0 ? bits : undefined,
        folded,
        committed() {
          for (const { key, dimension, part, values } of own.values()) {
            const day = known.get(key);
            if (!day) continue;
            remembered -= weightOf(day);
            add(day, dimension, part, values);
            remembered += weightOf(day);
            noteFull(key, day);
          }
          for (const { day, dimension } of overflows) day.overflowed[dimension] = true;
        },
      };
    }
    throw new Error('other transactions kept admitting values of the merchant');
  }

  /** Decides from memory which values to admit and which to fold. */
  function sortOut(
    lines: readonly Values[],
    keys: readonly string[],
    own: ReadonlyMap<string, Part>,
    batch: ReadonlyMap<string, Day4>,
  ) {
    const wanted = new Map<string, Part>();
    const overflows = new Map<string, { line: Values; day: Day4; dimension: number }>();
    const folded: FoldedLine[] = [];
    const bits = new Uint8Array(lines.length);
    for (let position = 0; position < lines.length; position++) {
      const [line, key] = [lines[position]!, keys[position]!];
      const day = batch.get(key)!;
      for (let dimension = 0; dimension < DIMENSIONS.length; dimension++) {
        const value = line[DIMENSIONS[dimension]!];
        if (value === undefined || value === '' || day.values[dimension]?.has(value)) continue;
        const name = partOf(key, dimension);
        const part = own.get(name) ?? wanted.get(name);
        if (part?.values.has(value)) continue;
        const size = (day.values[dimension]?.size ?? 0) + (part?.values.size ?? 0);
        if (size < limit && !own.has(name)) {
          if (part) part.values.add(value);
          else {
            const { merchant_id: merchantId, date } = line;
            const next = day.parts[dimension]! + 1;
            wanted.set(name, { key, merchantId, date, dimension, part: next, values: new Set([value]) });
          }
          continue;
        }
        bits[position]! |= 1 << dimension;
        if (!day.overflowed[dimension]) overflows.set(name, { line, day, dimension });
      }
      if (bits[position]) folded.push({ position, dimensions: namesOf(bits[position]!) });
    }
    return { bits, folded, wanted: [...wanted.values()], overflows: [...overflows.values()] };
  }

  /** Stores parts; returns the days of parts that another transaction stored first. */
  async function store(transaction: Executor, parts: readonly Part[], own: Map<string, Part>): Promise<Values[]> {
    if (parts.length === 0) return [];
    const columns = [
      parts.map((part) => part.merchantId),
      parts.map((part) => part.date),
      parts.map((part) => part.dimension),
      parts.map((part) => part.part),
      parts.map((part) => JSON.stringify([...part.values])),
    ];
    const rows = await runSql(transaction, 'admit-values', columns, StoredRow);
    const stored = new Set(rows.map((row) => partOf(keyOf(row), row.dimension)));
    const missed = new Map<string, Values>();
    for (const part of parts) {
      const name = partOf(part.key, part.dimension);
      if (stored.has(name)) own.set(name, part);
      else missed.set(part.key, { merchant_id: part.merchantId, date: part.date });
    }
    return [...missed.values()];
  }

  async function recordOverflows(
    transaction: Executor,
    overflows: readonly { line: Values; dimension: number }[],
  ): Promise<void> {
    if (overflows.length === 0) return;
    await transaction.query(sql('record-overflows'), [
      overflows.map(({ line }) => line.merchant_id),
      overflows.map(({ line }) => line.date),
      overflows.map(({ dimension }) => dimension),
    ]);
  }

  return {
    admit,
    predict(line) {
      const day = full.size === 0 ? undefined : full.get(keyOf(line));
      if (!day) return [];
      return DIMENSIONS.filter((name, dimension) => {
        const [value, set] = [line[name], day.values[dimension]];
        return value !== undefined && value !== '' && set !== undefined && set.size >= limit && !set.has(value);
      });
    },
  };
}

function add(day: Day4, dimension: number, part: number, values: Iterable<string>): void {
  day.values[dimension] ??= new Set();
  for (const value of values) day.values[dimension].add(value);
  day.parts[dimension] = Math.max(day.parts[dimension]!, part);
}

const weightOf = (day: Day4 | undefined): number =>
  day ? day.values.reduce((sum, set) => sum + (set?.size ?? 0), WEIGHT_OF_DAY) : 0;
const keyOf = ({ merchant_id, date }: Values): string => `${merchant_id}\n${date}`;
const partOf = (key: string, dimension: number): string => `${dimension} ${key}`;
const namesOf = (bits: number): DimensionColumn[] => DIMENSIONS.filter((_, bit) => bits & (1 << bit));
