import { type Coverage, dayOf, formatQuantity, monthOf } from '@tally/contracts';
import type { Db } from '@tally/db';
import { merchantsFor, type RateLimit, type Route } from '@tally/service';
import type { Freshness } from './fresh.ts';

export type GaugesOptions = {
  db: { usage: Pick<Db['usage'], 'gauges'> };
  freshness: Freshness;
  rates: RateLimit;
  now: () => number;
};

/** The limit of merchants in an answer; a key bound to one merchant gets only that one. */
const MAX_MERCHANTS = 1_000;
const MAX_ROWS = 20_000;

/**
 * GET /metrics/usage: the usage of today and of this month, per merchant and metric, in Prometheus's text format. With
 * more than 1,000 merchants: those that counted most often this month, and `tally_usage_truncated` is 1.
 */
export function gaugesRoute({ db, freshness, rates, now }: GaugesOptions): Route {
  return {
    method: 'GET',
    path: '/metrics/usage',
    access: 'read',
    async answer(c, { caller }) {
      await rates.take('analytics', caller.id);
      const day = dayOf(now());
      const month = monthOf(day).startDate;
      const merchantIds = merchantsFor(caller, undefined);
      const coverage = await freshness.cover({ startDate: month, endDate: day, merchantIds });
      const rows = await db.usage.gauges({
        ...{ month, day, merchantIds },
        merchants: MAX_MERCHANTS + 1,
        limit: MAX_ROWS + 1,
      });
      const merchants = [...new Set(rows.map(({ merchantId }) => merchantId))];
      const isTruncated = merchants.length > MAX_MERCHANTS || rows.length > MAX_ROWS;
      const shown = new Set(merchants.slice(0, MAX_MERCHANTS));
      const listed = rows.slice(0, MAX_ROWS).filter(({ merchantId }) => shown.has(merchantId));
      return c.body(textOf(listed, coverage, isTruncated), 200, {
        'content-type': 'text/plain; version=0.0.4; charset=utf-8',
        'cache-control': 'no-store',
      });
    },
  };
}

function textOf(
  rows: Awaited<ReturnType<GaugesOptions['db']['usage']['gauges']>>,
  { asOf, complete }: Coverage,
  isTruncated: boolean,
): string {
  const series = rows.flatMap(({ merchantId, metricType, today, month }) =>
    (
      [
        ['day', today],
        ['month', month],
      ] as const
    ).map(
      ([period, units]) =>
        `tally_usage{merchant="${escaped(merchantId)}",metric="${metricType}",period="${period}"} ${formatQuantity(metricType, units)}`,
    ),
  );
  return [
    '# HELP tally_usage Usage of today and of this month (UTC), by merchant and metric; cost is in USD.',
    '# TYPE tally_usage gauge',
    ...series,
    '# HELP tally_usage_complete 1 where everything acknowledged is in these numbers.',
    '# TYPE tally_usage_complete gauge',
    `tally_usage_complete ${complete ? 1 : 0}`,
    '# HELP tally_usage_as_of_seconds The moment up to which usage is in these numbers.',
    '# TYPE tally_usage_as_of_seconds gauge',
    ...(asOf === null ? [] : [`tally_usage_as_of_seconds ${Date.parse(asOf) / 1000}`]),
    '# HELP tally_usage_truncated 1 where there are more merchants or metrics than these.',
    '# TYPE tally_usage_truncated gauge',
    `tally_usage_truncated ${isTruncated ? 1 : 0}`,
    '',
  ].join('\n');
}

/** Escapes a label value as the format requires. */
const escaped = (text: string) => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
