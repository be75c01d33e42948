import {
  type Coverage,
  type Day,
  dayOf,
  formatCost,
  type GroupBy,
  isPricedMeasure,
  type MeterWindow,
  type PlanPart,
  type PricedMeasure,
  TallyError,
} from '@tally/contracts';
import { type Db, PRICED_COLUMNS, type PricedColumn, type Sums } from '@tally/db';
import { type Documents, type Imported, kindsOf } from './documents.ts';
import { type KnownOn, laterThan } from './known-on.ts';
import { add, NOTHING, tokensOf, unknownOf } from './measures.ts';
import { bounded, knownRows, needsOf, planOf, planSeries, typicalRows } from './plan.ts';
import type { Period } from './zone.ts';

export type MeasureQuestion = {
  merchantIds: string[] | undefined;
  range: { startDate: Day; endDate: Day };
  windows: readonly Period[];
  window: MeterWindow;
  /** True if every window consists of whole UTC days. */
  isUtc: boolean;
  groupBy: readonly GroupBy[];
  /** The wanted values per dimension; `''` is an event without it. */
  filters: Readonly<Record<string, readonly string[]>>;
} & KnownOn;

export type ReadMeasure = (
  key: string,
  question: MeasureQuestion,
) => Promise<{
  rows: { window: number; group: string[]; value: string }[];
  imported: Imported;
  /** Measures that some events do not report. */
  unknown: NonNullable<Coverage['unknown']>;
}>;

const MAX_ROWS = 100_000;

/** How each built-in meter is computed from sums of the measures. */
const MEASURE: Record<string, (sums: Sums) => bigint> = {
  requests: (sums) => sums.requests,
  failed_requests: (sums) => sums.failed_requests,
  prompt_tokens: (sums) => sums.prompt_tokens,
  completion_tokens: (sums) => sums.completion_tokens,
  total_tokens: tokensOf,
  cost: (sums) => sums.cost,
};

/** The columns of what Tally priced. */
const COLUMN = {
  merchant: 'merchant_id',
  user: 'user_id',
  apiKey: 'api_key',
  model: 'model',
  provider: 'provider',
} as const satisfies Record<GroupBy, PricedColumn>;

function assertRows(rows: number): void {
  if (rows > MAX_ROWS)
    throw new TallyError('TOO_MANY_POINTS', `The answer has more than ${MAX_ROWS} rows.`, {
      details: { maxRows: MAX_ROWS },
    });
}

/** The filters of a query about a measure, by their names elsewhere. */
export function measureFilters({
  range,
  merchantIds,
  filters,
}: Pick<MeasureQuestion, 'range' | 'merchantIds' | 'filters'>) {
  const named = (name: string) => filters[name] && [...filters[name]];
  return {
    ...range,
    merchantIds,
    userIds: named('user'),
    apiKeys: named('apiKey'),
    models: named('model'),
    providers: named('provider'),
  };
}

/** Answers queries about the built-in meters from the rollups of the measures. */
export function createReadMeasure({
  db,
  documents,
  maxRows,
}: {
  db: Pick<Db, 'usage' | 'prices'>;
  documents: Documents;
  maxRows: number;
}): ReadMeasure {
  /** What Tally priced is kept by whole UTC days. Days of another system have none of it. */
  async function readPriced(measure: PricedMeasure, question: MeasureQuestion): ReturnType<ReadMeasure> {
    const { windows, isUtc, groupBy, merchantIds, filters, asKnownOn } = question;
    if (asKnownOn !== undefined)
      throw new TallyError('INVALID_INPUT', `asKnownOn: ${measure} has no earlier state; ask for cost or tokens.`);
    if (!isUtc)
      throw new TallyError('GRAIN_NOT_KEPT', `${measure} is kept by whole UTC days only.`, {
        details: { ask: ['windows of whole UTC days'] },
      });
    const valuesOf = (by: GroupBy) => (by === 'merchant' ? merchantIds : filters[by]);
    const found = await db.prices.pricedWindows({
      measure,
      starts: windows.map(({ from }) => dayOf(from)),
      end: dayOf(windows.at(-1)!.to),
      by: groupBy.map((by) => COLUMN[by]),
      filters: Object.fromEntries(
        Object.entries(COLUMN).map(([by, column]) => {
          const values = valuesOf(by as GroupBy);
          return [column, values?.length ? values : undefined];
        }),
      ),
      limit: MAX_ROWS + 1,
    });
    assertRows(found.length);
    const stored = PRICED_COLUMNS.filter((column) => groupBy.some((by) => COLUMN[by] === column));
    return {
      rows: found.map(({ slot, keys, units }) => ({
        window: slot,
        group: groupBy.map((by) => keys[stored.indexOf(COLUMN[by])]!),
        value: measure === 'priced_cost' ? formatCost(units) : units.toString(),
      })),
      imported: { parts: [], complete: true },
      unknown: [],
    };
  }

  return async (key, question) => {
    if (isPricedMeasure(key)) return readPriced(key, question);
    const { range, windows, window, isUtc, groupBy } = question;
    const asked = measureFilters(question);
    const needs = { ...needsOf(asked, ...groupBy), days: false };
    const [starts, end] = [windows.map(({ from }) => from), windows.at(-1)!.to];

    /** Whole months and years inside windows; each window by itself. */
    async function plan(): Promise<PlanPart[]> {
      if (!isUtc) return planSeries({ starts, end }, needs);
      const ranges = windows.map(({ from, to }) => ({ startDate: dayOf(from), endDate: dayOf(to - 1) }));
      const rowsOf = needs.entities ? knownRows(await db.usage.rows({ ...asked, ranges })) : typicalRows();
      const parts =
        window === 'hour' || window === 'day'
          ? planSeries({ starts, end }, { ...needs, days: true })
          : ranges.flatMap((range) => planOf(range, needs, rowsOf));
      return bounded(parts, rowsOf, maxRows);
    }

    if (!isUtc && needs.entities) await assertEntries();
    const imported = await documents.within(range, isUtc ? kindsOf(asked, ...groupBy) : undefined);
    const parts = [...(await plan()), ...imported.parts, ...laterThan(question, range)];
    const found = await db.usage.windows({
      ...asked,
      asKnownOn: question.asKnownOn,
      parts,
      starts,
      end,
      by: groupBy,
      limit: MAX_ROWS + 1,
    });
    assertRows(found.length);
    return {
      rows: found.flatMap(({ slot, keys, ...sums }) => {
        const units = MEASURE[key]!(sums);
        // The measures of a row are stored together: a row without this measure does not count.
        return units === 0n
          ? []
          : [{ window: slot, group: keys, value: key === 'cost' ? formatCost(units) : units.toString() }];
      }),
      imported,
      unknown: unknownOf(found.reduce(add, NOTHING)),
    };

    /** Throws GRAIN_NOT_KEPT if a window cuts days by user or API key whose events were dropped. */
    async function assertEntries(): Promise<void> {
      const gap = await db.usage.daysWithoutEntries(asked);
      if (!gap) return;
      throw new TallyError(
        'GRAIN_NOT_KEPT',
        `Users and API keys of ${gap.first} to ${gap.last} are kept by whole UTC days only.`,
        {
          details: {
            ...{ firstDay: gap.first, lastDay: gap.last },
            ask: ['windows of whole UTC days', 'a meter of its own, by these dimensions'],
          },
        },
      );
    }
  };
}
