import {
  type Coverage,
  type Day,
  dayOf,
  formatCost,
  type GroupBy,
  type MeterWindow,
  type PlanPart,
  TallyError,
} from '@tally/contracts';
import type { Db, Sums } from '@tally/db';
import { type Documents, type Imported, kindsOf } from './documents.ts';
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
};

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
  db: Pick<Db, 'usage'>;
  documents: Documents;
  maxRows: number;
}): ReadMeasure {
  return async (key, question) => {
    const { range, windows, window, isUtc, groupBy } = question;
    const asked = measureFilters(question);
    const needs = { ...needsOf(asked, ...groupBy), days: false };
    const [starts, end] = [windows.map(({ from }) => from), windows.at(-1)!.to];

    /** Whole months and years inside windows; each window by itself. */
    async function plan(): Promise<PlanPart[]> {
      if (!isUtc) return planSeries({ starts, end }, needs);
      if (window === 'hour' || window === 'day') return planSeries({ starts, end }, { ...needs, days: true });
      const rowsOf = needs.entities ? knownRows(await db.usage.rows({ ...asked, everyDay: false })) : typicalRows();
      const parts = windows.flatMap(({ from, to }) =>
        planOf({ startDate: dayOf(from), endDate: dayOf(to - 1) }, needs, rowsOf),
      );
      return bounded(parts, rowsOf, maxRows);
    }

    if (!isUtc && needs.entities) await assertEntries();
    const imported = await documents.within(range, isUtc ? kindsOf(asked, ...groupBy) : undefined);
    const parts = [...(await plan()), ...imported.parts];
    const found = await db.usage.windows({ ...asked, parts, starts, end, by: groupBy, limit: MAX_ROWS + 1 });
    if (found.length > MAX_ROWS)
      throw new TallyError('TOO_MANY_POINTS', `The answer has more than ${MAX_ROWS} rows.`, {
        details: { maxRows: MAX_ROWS },
      });
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
