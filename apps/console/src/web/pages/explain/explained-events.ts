import { useInfiniteQuery } from '@tanstack/react-query';
import { client } from '../../api.ts';
import { apiFilters, type FilterSearch } from '../../measures.ts';
import type { Range } from '../../time.ts';

const EVENTS = 50;

/** Queries the events behind a number of a merchant, page by page. Events have no teams. */
export function useExplained({
  merchantId,
  range,
  metric,
  filters,
  enabled = true,
}: {
  merchantId: string;
  range: Range;
  metric: string;
  filters: FilterSearch;
  enabled?: boolean;
}) {
  const { merchants: _merchants, teams: _teams, ...narrow } = filters;
  // For one day the answer has its flushes, too.
  const days = range.startDate === range.endDate ? { date: range.startDate } : range;
  return useInfiniteQuery({
    queryKey: ['explain', merchantId, days, metric, narrow],
    queryFn: ({ pageParam, signal }) =>
      client.usage.explain.query(
        {
          merchantId,
          ...days,
          metricType: metric,
          ...apiFilters(narrow),
          limit: EVENTS,
          ...(pageParam ? { cursor: pageParam } : {}),
        },
        { signal },
      ),
    initialPageParam: '',
    getNextPageParam: ({ nextCursor }) => nextCursor,
    enabled,
  });
}
