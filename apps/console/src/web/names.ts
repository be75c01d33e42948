import { keepPreviousData, useQueries } from '@tanstack/react-query';
import { api } from './api.ts';

/** The directory has at most two entries for an id of a merchant: its own and the general one. */
const IDS_AT_ONCE = 500;
const NAMES_FRESH_MS = 300_000;

/** Returns a name for ids of a merchant's users or API keys, as breakdowns show it: its own name before the general one. */
export function useNames(
  kind: 'user' | 'apiKey',
  ids: readonly (string | null)[],
  merchantId: string | undefined,
): (id: string) => string {
  const wanted = [...new Set(ids)].filter((id) => id !== null).sort();
  const parts = Array.from({ length: Math.ceil(wanted.length / IDS_AT_ONCE) }, (_, part) =>
    wanted.slice(part * IDS_AT_ONCE, (part + 1) * IDS_AT_ONCE),
  );
  const found = useQueries({
    queries: parts.map((part) =>
      api.directory.list.queryOptions(
        { kind, merchantId, ids: part, limit: 2 * IDS_AT_ONCE },
        { enabled: merchantId !== undefined, staleTime: NAMES_FRESH_MS, placeholderData: keepPreviousData },
      ),
    ),
  });
  const rows = found.flatMap(({ data }) => data?.rows ?? []);
  // The general entry of an id is before the one of a merchant.
  const names = new Map(rows.map(({ id, name }) => [id, name]));
  return (id) => names.get(id) ?? id;
}
