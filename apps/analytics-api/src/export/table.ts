import {
  type BreakdownBy,
  type BreakdownRow,
  COST_DECIMALS,
  type Filters,
  formatQuantity,
  isMeasure,
  MEASURES,
  type Measures,
  type PlanPart,
  type ScaleOf,
} from '@tally/contracts';
import type { Db, ExportRow, JournalLine } from '@tally/db';
import type { Labels } from '../labels.ts';
import { measuresOf } from '../measures.ts';
import { needsOf, planOf } from '../plan.ts';

/** An event as `usage.record` received it, plus what Tally derived. */
type EventRow = ReturnType<typeof eventOf>;

/** A cell: text, or a quantity, which is never treated as text and never passes a float. */
export type Cell = { text: string } | { quantity: string } | null;

/** A row in JSON: with a grouping the breakdown's row, else the dimensions of a day with their measures. */
export type Row = BreakdownRow | DayRow | EventRow;
type DayRow = Measures & Dimensions & { username: string };
type Dimensions = { [dimension in (typeof DIMENSIONS)[number]]: string };

/** `type` is set unless the column is text: a day, or a quantity with a number of decimals. */
export type Column = { name: string; type?: 'date' | { scale: number }; cell(row: Row): Cell };

/** A table that is read while it is written, with the columns of its sheet; readers of `rows` may stop at any time. */
export type Table = { columns: readonly Column[]; rows: AsyncIterable<Row[]> };

export type ExportQuestion = Filters & { by?: BreakdownBy | undefined };

const DIMENSIONS = ['date', 'merchantId', 'userId', 'apiKey', 'model', 'provider'] as const;
const DETAILS = ['username', 'email', 'role'];
const QUANTITIES = [
  'requests',
  'failedRequests',
  'promptTokens',
  'completionTokens',
  'totalTokens',
  'cost',
  'successRate',
] as const;

/** Decimals of quantities that are not whole. */
const SCALES: Partial<Record<(typeof QUANTITIES)[number], number>> = { cost: COST_DECIMALS, successRate: 2 };

/**
 * Returns usage as a table: with `by` a row per key or pair of keys, like a breakdown; otherwise the rows of each day
 * with all dimensions. Reads through a cursor, so that a million rows take no more memory than a thousand.
 */
export function tableOf(
  { by, ...filters }: ExportQuestion,
  { db, labels, imported }: { db: Db; labels: Labels; imported: PlanPart[] },
): Table {
  // Without `by`, every dimension and every day stays separate.
  const needs = by ? { ...needsOf(filters, ...[by].flat()), days: false } : { entities: true, days: true };
  const pieces = db.usage.scan({ ...filters, by, parts: [...planOf(filters, needs), ...imported] });

  async function* rows(): AsyncGenerator<Row[]> {
    for await (const piece of pieces)
      yield by ? await labels.rows(by, piece.map(keyed), filters.merchantIds) : await daysOf(piece);
  }
  async function daysOf(piece: readonly ExportRow[]): Promise<Row[]> {
    const users = piece.map(({ dimensions }) => dimensions.userId!);
    const label = await labels.of('user', users, filters.merchantIds);
    // Assigned, because spreading both into a new object takes most of the time of an export.
    return piece.map((row) =>
      Object.assign(
        row.dimensions as Dimensions,
        { username: String(label(row.dimensions.userId!).details.username) },
        measuresOf(row),
      ),
    );
  }
  return { columns: columnsOf(by), rows: rows() };
}

const keyed = ({ dimensions: { key_1, key_2 }, ...row }: ExportRow) => ({
  ...row,
  keys: key_2 === undefined ? [key_1!] : [key_1!, key_2],
});

/** With two groupings, each has a key and a label; with one, details of a user have columns of their own. */
function columnsOf(by: BreakdownBy | undefined): Column[] {
  const texts: Column[] =
    by === undefined
      ? [...DIMENSIONS, 'username'].map((name) => ({
          name,
          ...(name === 'date' && { type: 'date' }),
          cell: (row) => text((row as Record<string, unknown>)[name]),
        }))
      : typeof by === 'string'
        ? [
            // The label of a user is a name or a key, which are there already.
            ...(by === 'user' ? ['key'] : ['key', 'label']).map((name) => ({
              name,
              cell: (row: Row) => text((row as Record<string, unknown>)[name]),
            })),
            ...(by === 'user' ? DETAILS : []).map((name) => ({
              name,
              cell: (row: Row) => text((row as BreakdownRow).details[name]),
            })),
          ]
        : by.flatMap((grouping, place) => [
            { name: grouping, cell: (row: Row) => text((row as BreakdownRow).keys?.[place]) },
            { name: `${grouping}Label`, cell: (row: Row) => text((row as BreakdownRow).labels?.[place]) },
          ]);
  return [
    ...texts,
    ...QUANTITIES.map((name) => ({
      name,
      type: { scale: SCALES[name] ?? 0 },
      cell: (row: Row): Cell => {
        const value = (row as Measures)[name];
        return value === null ? null : { quantity: String(value) };
      },
    })),
  ];
}

const EVENT_TEXTS = ['time', 'date', 'id', 'merchantId', 'userId', 'apiKey', 'model', 'provider', 'status'] as const;

/**
 * Returns the events of a range as a table, as far as the journal has them. In sheets, other metrics and properties are
 * JSON.
 */
export function eventsOf(filters: Filters, db: Pick<Db, 'usage' | 'metricTypes'>): Table {
  async function* rows(): AsyncGenerator<Row[]> {
    for await (const piece of db.usage.scanEvents(filters)) yield await presented(piece);
  }
  async function presented(piece: readonly JournalLine[]) {
    const types = new Set(piece.flatMap(({ metrics }) => Object.keys(metrics ?? {})));
    const scaleOf = await db.metricTypes.scales(types);
    return piece.map((line) => eventOf(line, scaleOf));
  }
  const column = (name: string, cell: (event: EventRow) => Cell): Column => ({
    name,
    cell: (row) => cell(row as EventRow),
  });
  const others = ({ metrics }: EventRow) => Object.entries(metrics).filter(([type]) => !isMeasure(type));
  return {
    columns: [
      ...EVENT_TEXTS.map((name) => column(name, (event) => text(event[name]))),
      column('count', ({ count }) => ({ quantity: count })),
      ...MEASURES.map((name) => column(name, ({ metrics }) => ({ quantity: metrics[name] ?? '0' }))),
      column('metrics', (event) => text(JSON.stringify(Object.fromEntries(others(event))))),
      column('properties', ({ properties }) => text(JSON.stringify(properties))),
    ],
    rows: rows(),
  };
}

function eventOf(line: JournalLine, scaleOf: ScaleOf) {
  const amounts = [
    ...MEASURES.flatMap((name) => (line[name] === undefined ? [] : [[name, line[name]] as const])),
    ...Object.entries(line.metrics ?? {}),
  ];
  return {
    id: line.id,
    merchantId: line.merchant_id,
    time: new Date(line.time).toISOString(),
    date: line.date,
    userId: line.user_id ?? null,
    apiKey: line.api_key ?? null,
    model: line.model ?? null,
    provider: line.provider ?? null,
    status: line.failed ? 'failure' : 'success',
    count: line.calls ?? '1',
    metrics: Object.fromEntries(amounts.map(([type, units]) => [type, formatQuantity(type, BigInt(units), scaleOf)])),
    properties: line.properties ?? {},
  };
}

const text = (value: unknown): Cell => (typeof value === 'string' ? { text: value } : null);
