import { parseArgs } from 'node:util';
import { addDays, countDays, dayOf, eachDay, isDay, messageOf } from '@tally/contracts';
import { TRPCClientError } from '@trpc/client';
import { compare, printResult } from './compare.ts';
import type { Comparison, Foreign } from './foreign.ts';
import { lago } from './lago.ts';
import { litellm } from './litellm.ts';
import { openmeter } from './openmeter.ts';
import { createOurs } from './ours.ts';
import { stripe } from './stripe.ts';

export const USAGE = `Usage: npm run parity -- --source openmeter|stripe|lago --meter M [--url U] [options]
       npm run parity -- --source litellm --url U [options]

Compares the sums of another product with Tally's, for each day and customer (LiteLLM: model).

  --url U           the product's API (default: that of its cloud); its key is in the variable PARITY_KEY
  --meter M         the name of the meter in both: OpenMeter's slug, Stripe's event name, Lago's code
  --from D --to D   UTC days, both included, at most 31; default: the last seven whole days
  --by D,...        OpenMeter: further dimensions, such as model or property:region
  --customers C,... Stripe: only these customers; default: all
  --merchants M,... only these merchants of Tally; default: all

Exit code: 0 if all sums agree, 1 if some differ, 2 on errors or if there are no sums.`;

const CLOUDS = {
  openmeter: 'https://openmeter.cloud',
  stripe: 'https://api.stripe.com',
  lago: 'https://api.getlago.com/api/v1',
};
const MAX_DAYS = 31;

/** Runs a comparison from its arguments and prints the result. Returns the exit code. */
export async function parity(
  args: string[],
  env: Record<string, string | undefined>,
  out: { print(text: string): void; complain(text: string): void },
  now = Date.now(),
): Promise<0 | 1 | 2> {
  try {
    if (args.includes('--help')) {
      out.print(USAGE);
      return 0;
    }
    const { foreign, comparison } = read(args, env, now);
    const ours = createOurs(
      {
        analyticsUrl: env.ANALYTICS_API_URL ?? 'http://127.0.0.1:4003',
        ingestUrl: env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001',
        key: env.TALLY_ADMIN_KEY ?? '',
      },
      comparison,
    );
    const result = await compare(foreign, ours, comparison);
    const { equal, rounded, differences } = result;
    if (equal + rounded + differences.length === 0) {
      const { startDate, endDate } = comparison;
      throw new Error(
        `Neither ${foreign.name} nor Tally has sums from ${startDate} to ${endDate}: nothing was compared.`,
      );
    }
    out.print(printResult(foreign, comparison, result));
    return differences.length === 0 ? 0 : 1;
  } catch (error) {
    out.complain(reasonOf(error));
    return 2;
  }
}

/** Names Tally in what its clients throw, since the reason could also be the other product's. */
function reasonOf(error: unknown): string {
  if (!(error instanceof TRPCClientError)) return messageOf(error);
  if (error.data) return `Tally (TALLY_ADMIN_KEY): ${error.message}`;
  // The cause of a failed fetch names the address; that of a name with several addresses has no text.
  const cause = (error.cause?.cause as Error | undefined)?.message || error.message;
  return `Tally does not answer: ${cause}. Start it, or set ANALYTICS_API_URL and USAGE_INGEST_URL.`;
}

function parse(args: string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args,
      options: {
        source: text,
        url: text,
        meter: text,
        from: text,
        to: text,
        by: text,
        customers: text,
        merchants: text,
      },
    });
  } catch (error) {
    throw new Error(`${(error as Error).message}\n\n${USAGE}`);
  }
}

function read(args: string[], env: Record<string, string | undefined>, now: number) {
  const { values } = parse(args);
  const { source, meter } = values;
  if (source !== 'openmeter' && source !== 'litellm' && source !== 'stripe' && source !== 'lago')
    throw new Error(USAGE);
  const url = values.url ?? (source === 'litellm' ? undefined : CLOUDS[source]);
  if (!url) throw new Error(`--url is missing.\n\n${USAGE}`);
  if (source !== 'litellm' && !meter) throw new Error(`--meter is missing.\n\n${USAGE}`);
  if (values.by !== undefined && source !== 'openmeter') throw new Error('--by is only for OpenMeter.');
  if (values.customers !== undefined && source !== 'stripe') throw new Error('--customers is only for Stripe.');
  const key = env.PARITY_KEY;
  if (!key) throw new Error(`Set PARITY_KEY to an API key of ${source}.`);
  const endDate = values.to ?? addDays(dayOf(now), -1);
  const startDate = values.from ?? (isDay(endDate) ? addDays(endDate, -6) : '');
  if (!isDay(startDate) || !isDay(endDate)) throw new Error('--from and --to must be days, such as 2026-11-20.');
  const count = countDays(startDate, endDate);
  if (count < 1) throw new Error('--from must not be after --to.');
  if (count > MAX_DAYS) throw new Error(`Compare at most ${MAX_DAYS} days.`);
  const days = eachDay(startDate, endDate);
  const by = source === 'litellm' ? ['model'] : ['merchant', ...listOf(values.by)];
  const comparison: Comparison = { startDate, endDate, days, by, merchants: listOf(values.merchants) };
  const options = { url, key, meter: meter ?? '', customers: listOf(values.customers) };
  const foreign: Foreign = { openmeter, stripe, lago, litellm }[source](options, comparison);
  return { foreign, comparison };
}

const listOf = (text: string | undefined): string[] => text?.split(',').filter((each) => each !== '') ?? [];
