import { type Day, MEASURES, TallyError } from '@tally/contracts';
import type { DaySums } from '@tally/db';
import { fromDailySums, nanoUsd, type Rules, whole } from './call.ts';
import type { ActivityMetrics, LitellmClient } from './client.ts';

export type Sums = Record<keyof DaySums, bigint>;

const NAMES = MEASURES.map((name) => (name === 'failed_requests' ? 'failed' : name));

/** LiteLLM's daily sums of a day. */
export type DailySums = {
  total: Sums;
  /** The day by model and key, which add up to the total. Usage without a model or key is a part without one. */
  parts: {
    model: string;
    apiKey: string;
    team?: string | null | undefined;
    alias?: string | null | undefined;
    user?: string | null | undefined;
    email?: string | null | undefined;
    sums: Sums;
  }[];
};

const MAX_PAGES = 10_000;
const MAX_PARTS = 100_000;

/**
 * Reads a day of /user/daily/activity. Its pages contain rows, not days: each has a part of the day, with totals of
 * that page only, so the parts are added up here.
 */
export async function readDailySums(client: LitellmClient, date: Day, signal: AbortSignal): Promise<DailySums> {
  const total = zero();
  const parts = new Map<string, DailySums['parts'][number]>();
  const part = (
    model: string,
    apiKey: string,
    key: Pick<DailySums['parts'][number], 'team' | 'alias' | 'user' | 'email'>,
  ) => {
    const name = `${model}\n${apiKey}`;
    let found = parts.get(name);
    if (!found) {
      if (parts.size >= MAX_PARTS)
        throw new TallyError('SOURCE_UNREADABLE', `LiteLLM shows over ${MAX_PARTS} models and keys of ${date}.`);
      found = { model, apiKey, ...key, sums: zero() };
      parts.set(name, found);
    }
    return found.sums;
  };
  for (let page = 1; page <= MAX_PAGES; page++) {
    const { results, metadata } = await client.dailyActivity({ date, page }, signal);
    for (const result of results) {
      if (result.date.slice(0, 10) !== date) continue;
      const all = sumsOf(result.metrics);
      add(total, all);
      let rest = all;
      for (const [model, { metrics, api_key_breakdown }] of Object.entries(result.breakdown?.models ?? {})) {
        const ofModel = sumsOf(metrics);
        rest = less(rest, ofModel);
        let keyless = ofModel;
        for (const [apiKey, key] of Object.entries(api_key_breakdown ?? {})) {
          const ofKey = sumsOf(key.metrics);
          keyless = less(keyless, ofKey);
          const { team_id: team, key_alias: alias, user_id: user, user_email: email } = key.metadata ?? {};
          add(part(model, apiKey, { team, alias, user, email }), ofKey);
        }
        add(part(model, '', {}), keyless);
      }
      add(part('', '', {}), rest);
    }
    const more = metadata?.has_more ?? page < Number(metadata?.total_pages ?? 1);
    if (!more) return { total, parts: [...parts.values()] };
  }
  throw new TallyError('SOURCE_UNREADABLE', `LiteLLM shows over ${MAX_PAGES} pages of ${date}.`);
}

/** Returns the events that stand for a day. Their ids are made of day, model and key, so repeating it adds nothing. */
export function entriesOf(date: Day, { parts }: DailySums, rules: Rules) {
  return parts.flatMap(({ sums: { requests, failed, ...metrics }, ...part }) =>
    fromDailySums({ date, ...part, requests, failed, metrics }, rules),
  );
}

/**
 * Returns true if calls do not add up to LiteLLM's own sums. LiteLLM adds money in floats; we round it to a nano-dollar
 * once per call. So a nano-dollar per request and a millionth of a dollar are no difference.
 */
export function differ(seen: DaySums, reported: DaySums): boolean {
  const cost = BigInt(seen.cost) - BigInt(reported.cost);
  const slack = BigInt(reported.requests) + 1_000n;
  return NAMES.some((name) => (name === 'cost' ? cost > slack || -cost > slack : seen[name] !== reported[name]));
}

export const zero = (): Sums => Object.fromEntries(NAMES.map((name) => [name, 0n])) as Sums;

export function add(to: Sums, more: Sums): void {
  for (const name of NAMES) to[name] += more[name];
}

export const textOf = (sums: Sums): DaySums =>
  Object.fromEntries(NAMES.map((name) => [name, String(sums[name])])) as DaySums;

export const readSums = (sums: DaySums): Sums =>
  Object.fromEntries(NAMES.map((name) => [name, BigInt(sums[name])])) as Sums;

/** Subtracts sums; never below 0, in case LiteLLM's parts exceed its total. */
function less(whole: Sums, part: Sums): Sums {
  const left = zero();
  for (const name of NAMES) left[name] = whole[name] > part[name] ? whole[name] - part[name] : 0n;
  return left;
}

const sumsOf = (metrics: ActivityMetrics): Sums => ({
  requests: needed('api_requests', whole('api_requests', metrics.api_requests)),
  failed: needed('failed_requests', whole('failed_requests', metrics.failed_requests)),
  prompt_tokens: needed('prompt_tokens', whole('prompt_tokens', metrics.prompt_tokens)),
  completion_tokens: needed('completion_tokens', whole('completion_tokens', metrics.completion_tokens)),
  cost: needed('spend', nanoUsd(metrics.spend)),
});

/** A missing sum is not 0: otherwise the day would look complete. */
function needed(name: string, value: bigint | undefined): bigint {
  if (value === undefined) throw new TallyError('SOURCE_UNREADABLE', `LiteLLM's daily sums have no ${name}.`);
  return value;
}
