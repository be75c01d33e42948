import type { Filters, GroupBy, PlanPart } from '@tally/contracts';
import type { Db, ExportRow } from '@tally/db';
import type { Labels } from '../labels.ts';
import { measuresOf } from '../measures.ts';
import { needsEntities, planOf } from '../plan.ts';

/** A cell: text, or a quantity, which is never taken for text nor passes a float. */
export type Cell = { text: string } | { quantity: string } | null;

/** A table that is read as it is written; `rows` may be left at any time. */
export type Table = { columns: string[]; rows: AsyncIterable<Cell[][]> };

export type ExportQuestion = Filters & { by?: GroupBy | undefined };

const QUANTITIES = [
  'requests',
  'failedRequests',
  'promptTokens',
  'completionTokens',
  'totalTokens',
  'cost',
  'successRate',
] as const;
const DIMENSIONS = ['date', 'merchantId', 'userId', 'apiKey', 'model', 'provider'];

/**
 * Usage as a table: with `by` a row for each key, as a breakdown has it; without, the rows of each day with all
 * dimensions. Read through a cursor, so that a million rows take no more memory than a thousand.
 */
export function tableOf(
  { by, ...filters }: ExportQuestion,
  { db, labels, imported }: { db: Db; labels: Labels; imported: PlanPart[] },
): Table {
  // Without `by` every dimension and every day is told apart.
  const needs = by ? { entities: needsEntities(filters, by), days: false } : { entities: true, days: true };
  const pieces = db.usage.scan({ ...filters, by, parts: [...planOf(filters, needs), ...imported] });
  const names = by === 'user' ? ['username', 'email', 'role'] : by ? ['label'] : ['username'];

  async function* rows(): AsyncGenerator<Cell[][]> {
    for await (const piece of pieces) {
      const keyOf = (row: ExportRow) => row.dimensions[by ? 'key' : 'userId']!;
      const label = await labels.of(by ?? 'user', piece.map(keyOf), filters.merchantIds);
      yield piece.map((row) => {
        const found = label(keyOf(row));
        const named = names.map((name) => text(name === 'label' ? found.label : found.details[name]));
        const measures = measuresOf(row);
        return [
          ...(by ? ['key'] : DIMENSIONS).map((name) => text(row.dimensions[name])),
          ...named,
          ...QUANTITIES.map((name): Cell => (measures[name] === null ? null : { quantity: String(measures[name]) })),
        ];
      });
    }
  }
  return { columns: [...(by ? ['key'] : DIMENSIONS), ...names, ...QUANTITIES], rows: rows() };
}

const text = (value: unknown): Cell => (typeof value === 'string' ? { text: value } : null);
