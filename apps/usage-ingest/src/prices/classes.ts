import {
  type Day,
  formatCost,
  type ingest,
  type PricedPart,
  TallyError,
  TOKEN_CLASSES,
  type TokenClass,
  type Units,
} from '@tally/contracts';
import type { Db, PricedCell } from '@tally/db';
import type { z } from 'zod';
import { readCellRates } from './cell-rates.ts';
import { lcm } from './price-list.ts';
import type { PriceRegistry } from './registry.ts';

type Contract = (typeof ingest.prices)['classes'];
type Row = z.input<Contract['output']>['rows'][number];

/** Sums what Tally priced by class of tokens; see the contract. Throws TOO_MANY_ROWS. */
export type PricedByClass = (scope: z.output<Contract['input']>) => Promise<z.input<Contract['output']>>;

/** Cells of one call: a merchant's day, model and provider has one for each size of its calls. */
const MAX_CELLS = 60_000;

/** The class that each part belongs to. Providers bill reasoning as output. */
const CLASS_OF: Record<PricedPart, TokenClass | 'requests'> = {
  priced_requests: 'requests',
  priced_input_tokens: 'input',
  priced_cached_tokens: 'cached_input',
  priced_cache_write_tokens: 'cache_write',
  priced_output_tokens: 'output',
  priced_reasoning_tokens: 'output',
};
const PARTS = Object.entries(CLASS_OF) as [PricedPart, TokenClass | 'requests'][];
const COSTED = [...TOKEN_CLASSES, 'requests'] as const;
type Costed = (typeof COSTED)[number];

/** `exact`: nano-USD by class, times `per`; undefined where rates do not make the cost. */
type Group = {
  events: Units;
  requests: Units;
  tokens: Record<TokenClass, Units>;
  cost: Units;
  exact: { amounts: Record<Costed, bigint>; per: bigint } | undefined;
  unpriced: Units;
};

export function createPricedByClass({
  store,
  registry,
}: {
  store: Pick<Db['prices'], 'pricedSums' | 'metricDays'>;
  registry: Pick<PriceRegistry, 'current' | 'refresh'>;
}): PricedByClass {
  return async ({ providers, ...scope }) => {
    await registry.refresh();
    const list = registry.current()!;
    const cells = await store.pricedSums({ ...scope, providers, limit: MAX_CELLS + 1 });
    if (cells.length > MAX_CELLS)
      throw new TallyError(
        'TOO_MANY_ROWS',
        `More than ${MAX_CELLS} sums of merchant, day, model and provider; name fewer days or some merchants.`,
      );
    const ratesOf = await readCellRates(store, scope, list);
    const groups = new Map<string, Group>();
    for (const cell of cells) {
      const group = groupOf(groups, cell);
      const rates = ratesOf(cell);
      group.events += cell.priced_events;
      group.requests += cell.priced_requests;
      group.cost += cell.priced_cost;
      for (const [part, name] of PARTS) if (name !== 'requests') group.tokens[name] += cell[part];
      if (rates === 'unknown') {
        group.unpriced += cell.priced_events;
        // Its price was removed since.
        if (cell.priced_cost !== 0n) group.exact = undefined;
      } else if (rates === 'unclear') group.exact = undefined;
      else if (group.exact) addExactly(group.exact, cell, rates);
    }
    return { rows: [...groups].map(([key, group]) => present(key, group)) };
  };
}

const zeros = <Name extends string>(names: readonly Name[]) =>
  Object.fromEntries(names.map((name) => [name, 0n])) as Record<Name, bigint>;

function groupOf(groups: Map<string, Group>, { date, provider, model }: PricedCell): Group {
  const key = JSON.stringify([date, provider, model]);
  const known = groups.get(key);
  if (known) return known;
  const group: Group = {
    ...{ events: 0n, requests: 0n, cost: 0n, unpriced: 0n },
    tokens: zeros(TOKEN_CLASSES),
    exact: { amounts: zeros(COSTED), per: 1n },
  };
  groups.set(key, group);
  return group;
}

/** Adds the cost of a cell by class, exactly: over one divisor, the least one. */
function addExactly(
  exact: NonNullable<Group['exact']>,
  cell: PricedCell,
  rates: { amounts: Record<PricedPart, bigint>; per: bigint },
): void {
  const per = lcm(exact.per, rates.per);
  const [before, added] = [per / exact.per, per / rates.per];
  for (const name of COSTED) exact.amounts[name] *= before;
  for (const [part, name] of PARTS) exact.amounts[name] += cell[part] * rates.amounts[part] * added;
  exact.per = per;
}

function present(key: string, { events, requests, tokens, cost, exact, unpriced }: Group): Row {
  const [date, provider, model] = JSON.parse(key) as [Day, string, string];
  const costs = exact && split(exact, cost, events);
  return {
    ...{ date, provider, model, events: events.toString(), requests: requests.toString() },
    tokens: texts(tokens, String),
    cost: formatCost(cost),
    costs: costs ? texts(costs, formatCost) : null,
    unpriced: unpriced.toString(),
  };
}

const texts = <Name extends string>(amounts: Record<Name, bigint>, write: (amount: bigint) => string) =>
  Object.fromEntries(Object.entries<bigint>(amounts).map(([name, amount]) => [name, write(amount)])) as Record<
    Name,
    string
  >;

/**
 * Rounds the cost of each class so that together they are the recorded cost: the greatest takes what rounding leaves.
 * Undefined if they differ by more than the rounding of events.
 */
export function split(
  { amounts, per }: NonNullable<Group['exact']>,
  cost: Units,
  events: Units,
): Record<Costed, Units> | undefined {
  const total = COSTED.reduce((sum, name) => sum + amounts[name], 0n);
  const apart = total - cost * per;
  // Each event was rounded by at most half a nano-USD.
  if ((apart < 0n ? -apart : apart) * 2n > events * per) return undefined;
  const rounded = zeros(COSTED);
  for (const name of COSTED) rounded[name] = (2n * amounts[name] + per) / (2n * per);
  const greatest = COSTED.reduce((most, name) => (amounts[name] > amounts[most] ? name : most));
  rounded[greatest] += cost - COSTED.reduce((sum, name) => sum + rounded[name], 0n);
  return rounded;
}
