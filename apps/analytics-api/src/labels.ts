import type { DirectoryKind, Grouping } from '@tally/contracts';
import type { Db } from '@tally/db';

type Labelled = { label: string; details: Record<string, unknown> };

export type Labels = {
  /**
   * What people call the keys of a grouping, in one look-up for all of them. What nobody named is shown as it is; a user
   * who is nobody is the "Unknown User".
   */
  of(
    by: Grouping,
    keys: readonly string[],
    merchantIds: readonly string[] | undefined,
  ): Promise<(key: string) => Labelled>;
};

const UNKNOWN_USER = { username: 'Unknown User', email: null, role: null };
const KIND: Partial<Record<Grouping, DirectoryKind>> = { user: 'user', apiKey: 'apiKey', merchant: 'merchant' };

export function createLabels(directory: Db['directory']): Labels {
  return {
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
  };
}
