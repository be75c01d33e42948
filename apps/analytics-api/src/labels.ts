import type { BreakdownBy, BreakdownRow, DirectoryKind, Grouping } from '@tally/contracts';
import type { Db, Sums } from '@tally/db';
import { measuresOf } from './measures.ts';

type Labelled = { label: string; details: Record<string, unknown> };

/** The sums of a key, or of a pair of keys. */
type Keyed = Sums & { keys: readonly string[]; providers?: string[] | undefined };

export type Labels = {
  /**
   * Finds the names of all keys of a grouping, in one lookup. A key without a name is shown as it is; usage without a
   * user as "Unknown User".
   */
  of(
    by: Grouping,
    keys: readonly string[],
    merchantIds: readonly string[] | undefined,
  ): Promise<(key: string) => Labelled>;
  /** Presents rows of one or two groupings, like a breakdown, with their names. */
  rows(by: BreakdownBy, rows: readonly Keyed[], merchantIds: readonly string[] | undefined): Promise<BreakdownRow[]>;
};

const UNKNOWN_USER = { username: 'Unknown User', email: null, role: null };
const KIND: Partial<Record<Grouping, DirectoryKind>> = { user: 'user', apiKey: 'apiKey', merchant: 'merchant' };

export function createLabels(directory: Db['directory']): Labels {
  const labels: Labels = {
    async of(by, keys, merchantIds) {
      const kind = KIND[by];
      if (!kind) return (key) => ({ label: key, details: {} });
      const known = await directory.find({ kind, ids: [...new Set(keys)], merchantIds });
      return (key) => {
        const entry = known.get(key);
        if (by !== 'user') return { label: entry?.name ?? key, details: entry ? { name: entry.name } : {} };
        if (entry) {
          return { label: entry.name, details: { username: entry.name, email: entry.email, role: entry.role } };
        }
        return { label: key === 'unknown' ? UNKNOWN_USER.username : key, details: { ...UNKNOWN_USER } };
      };
    },
    async rows(by, rows, merchantIds) {
      const groupings = [by].flat();
      const namers = await Promise.all(
        groupings.map((grouping, place) =>
          labels.of(
            grouping,
            rows.map(({ keys }) => keys[place]!),
            merchantIds,
          ),
        ),
      );
      return rows.map(({ keys, providers, ...sums }) => {
        const found = namers.map((label, place) => label(keys[place]!));
        const [first, second] = found;
        if (!second)
          return {
            key: keys[0]!,
            ...measuresOf(sums),
            label: first!.label,
            details: { ...(providers && { providers }), ...first!.details },
          };
        const pair: [string, string] = [keys[0]!, keys[1]!];
        const names: [string, string] = [first!.label, second.label];
        return {
          ...{ key: JSON.stringify(pair), label: names.join(' · '), keys: pair, labels: names },
          ...measuresOf(sums),
          details: { [groupings[0]!]: first!.details, [groupings[1]!]: second.details },
        };
      });
    },
  };
  return labels;
}
