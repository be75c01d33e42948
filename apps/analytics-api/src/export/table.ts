import {
  type BreakdownBy,
  type BreakdownRow,
  COST_DECIMALS,
  type Filters,
  formatQuantity,
  isMeasure,
  MEASURES,
  type Measures,
  type MeterQuery,
  type PlanPart,
  type ScaleOf,
} from '@tally/contracts';
import type { Db, ExportRow, JournalLine } from '@tally/db';
import type { Labels } from '../labels.ts';
import { measuresOf } from '../measures.ts';
import type { MeterAnswer } from '../meter.ts';
import { needsOf, planOf } from '../plan.ts';
import type { SeriesAnswer, SeriesQuestion } from '../read.ts';

/** An event as `usage.record` received it, plus what Tally derived. */
type EventRow = ReturnType<typeof eventOf>;

/** A cell: text, or a quantity, which is never treated as text and never passes a float. */
export type Cell = { text: string } | { quantity: string } | null;

/** A row in JSON: with a grouping the breakdown's row, else the dimensions of a day with their measures. */
export type Row = BreakdownRow | DayRow | EventRow | SeriesRow | MeterRow;
type SeriesRow = Measures & { start: string; from: string; to: string; period: string; key?: string; label?: string };
type MeterRow = MeterAnswer['rows'][number] & { period: string };
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

/** The most decimals that a meter has. */
const METER_DECIMALS = 9;
/** Items of an answer that become rows at a time. */
const PIECE = 500;

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
  const own: Column[] =
    by === undefined
      ? [...DIMENSIONS, 'username'].map((name) => ({
          name,
          ...(name === 'date' && { type: 'date' }),
          cell: (row) => text((row as Record<string, unknown>)[name]),
        }))
      : typeof by === 'string'
        ? [
            // The label of a user is a name or a key, which are there already.
            ...texts(by === 'user' ? ['key'] : ['key', 'label']),
            ...(by === 'user' ? DETAILS : []).map((name) => ({
              name,
              cell: (row: Row) => text((row as BreakdownRow).details[name]),
            })),
          ]
        : by.flatMap((grouping, place) => [
            { name: grouping, cell: (row: Row) => text((row as BreakdownRow).keys?.[place]) },
            { name: `${grouping}Label`, cell: (row: Row) => text((row as BreakdownRow).labels?.[place]) },
          ]);
  return [...own, ...MEASURE_COLUMNS];
}

const texts = (names: readonly string[]): Column[] =>
  names.map((name) => ({ name, cell: (row) => text((row as Record<string, unknown>)[name]) }));

const MEASURE_COLUMNS = QUANTITIES.map(
  (name): Column => ({
    name,
    type: { scale: SCALES[name] ?? 0 },
    cell: (row) => {
      const value = (row as Measures)[name];
      return value === null ? null : { quantity: String(value) };
    },
  }),
);

/**
 * Returns a time series as a table: a row for each period, or with `groupBy` one for each period and key with usage.
 * `period` is the local time of its start: the day, or the day and the minute.
 */
export async function seriesOf(
  points: SeriesAnswer['points'],
  { groupBy, interval, timeZone, merchantIds }: SeriesQuestion,
  labels: Labels,
): Promise<Table> {
  const local = localTime(timeZone, interval === '15m' || interval === 'hour');
  const keys = new Set(points.flatMap(({ groups = [] }) => groups.map(({ key }) => key)));
  const label = groupBy && (await labels.of(groupBy, [...keys], merchantIds));
  const rowsOf = ({ groups = [], start, from, to, ...measures }: SeriesAnswer['points'][number]): SeriesRow[] => {
    const period = { period: local(start), start, from, to };
    if (!label) return [{ ...period, ...measures }];
    return groups.map((group) => ({ ...period, ...group, label: label(group.key).label }));
  };
  return {
    columns: [...texts(['period', 'start', ...(groupBy ? ['key', 'label'] : [])]), ...MEASURE_COLUMNS],
    rows: inPieces(points, rowsOf),
  };
}

/** Returns a meter as a table: a row for each window and group, with a column for each dimension. */
export function meterOf(rows: MeterAnswer['rows'], { groupBy = [], window, timeZone }: MeterQuery): Table {
  const local = localTime(timeZone, window === 'hour');
  return {
    columns: [
      ...texts(['period', 'start', 'end']),
      ...groupBy.map((name) => ({ name, cell: (row: Row) => text((row as MeterRow).group[name]) })),
      {
        name: 'value',
        type: { scale: METER_DECIMALS },
        cell: (row) => ({ quantity: (row as MeterRow).value }),
      },
    ],
    rows: inPieces(rows, (row) => [{ period: local(row.start), ...row }]),
  };
}

/** Returns a function that formats a moment in a time zone: the day, or the day and the minute. */
function localTime(timeZone: string, withMinute: boolean): (time: string) => string {
  const format = new Intl.DateTimeFormat('sv-SE', {
    timeZone,
    ...{ year: 'numeric', month: '2-digit', day: '2-digit' },
    ...(withMinute && { hour: '2-digit', minute: '2-digit' }),
  } as const);
  return (time) => format.format(new Date(time));
}

async function* inPieces<T>(items: readonly T[], rowsOf: (item: T) => Row[]): AsyncGenerator<Row[]> {
  for (let from = 0; from < items.length; from += PIECE) yield items.slice(from, from + PIECE).flatMap(rowsOf);
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
