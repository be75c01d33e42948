import {
  type BillClass,
  formatCost,
  type PricedClasses,
  parseQuantity,
  TOKEN_CLASSES,
  type TokenClass,
} from '@tally/contracts';
import type { SummedBillLine } from '@tally/db';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Compared, compare, type OurDay, partsOf, present, sumsOf } from './compare.ts';

const RUNS = Number(process.env.FC_RUNS ?? 60);
const DAY = '2026-11-03';
const NEXT = '2026-11-04';
const usd = (text: string) => parseQuantity('cost', text)!;

const charged = (model: string, name: BillClass, amount: string, quantity: bigint | null = null, date = DAY) =>
  ({ kind: 'cost', date, model, class: name, quantity, amount: usd(amount), rounding: 1n }) as const;
const counted = (model: string, name: BillClass, quantity: bigint, date = DAY) =>
  ({ kind: 'usage', date, model, class: name, quantity, amount: null, rounding: 1n }) as const;

/** Usage of a model at 2.50 USD for a million input tokens and 10 for output, as Tally prices it. */
function ours(model: string, input: number, output: number, date = DAY): { usage: OurDay; classes: PricedClasses } {
  const costs = { input: BigInt(input) * 2_500n, output: BigInt(output) * 10_000n };
  const zero = { cached_input: '0', cache_write: '0' };
  return {
    usage: {
      ...{ date, model, requests: 2n, failedRequests: 0n, cost: costs.input + costs.output },
      ...{ promptTokens: BigInt(input), completionTokens: BigInt(output) },
    },
    classes: {
      ...{ date, provider: 'openai', model, events: '2', requests: '2', unpriced: '0' },
      tokens: { ...zero, input: String(input), output: String(output) },
      cost: formatCost(costs.input + costs.output),
      costs: { ...zero, requests: '0', input: formatCost(costs.input), output: formatCost(costs.output) },
    },
  };
}

function rowsOf(lines: readonly SummedBillLine[], known: ReturnType<typeof ours>[], days: string[] = [DAY]) {
  const covers = (kind: string) => new Set(lines.some((line) => line.kind === kind) ? days : []);
  return compare({
    ...{ withCosts: covers('cost'), withUsage: covers('usage'), lines },
    usage: known.map(({ usage }) => usage),
    classes: known.map(({ classes }) => classes),
  });
}
const reasons = (rows: readonly Compared[]) =>
  Object.fromEntries(rows.map((row) => [`${row.date} ${row.model} ${row.class}`, row.reason]));

test('finds no difference where quantities and amounts are the same', () => {
  const rows = rowsOf(
    [charged('gpt-4o', 'input', '2.5', 1_000_000n), charged('gpt-4o', 'output', '0.1', 10_000n)],
    [ours('gpt-4o', 1_000_000, 10_000)],
  );
  expect(reasons(rows)).toEqual({ [`${DAY} gpt-4o input`]: 'equal', [`${DAY} gpt-4o output`]: 'equal' });
  expect(sumsOf(rows)).toEqual({
    ...{ rows: 2, bill: '2.6', ours: '2.6', difference: '0', unknownOnBill: 0, unknownWithUs: 0 },
  });
});

test('shows both prices where only the price differs, and splits a difference of both', () => {
  const [price, both] = rowsOf(
    [charged('gpt-4o', 'input', '3', 1_000_000n), charged('gpt-4o', 'output', '0.22', 20_000n)],
    [ours('gpt-4o', 1_000_000, 10_000)],
  ).map(present);
  expect(price).toMatchObject({
    ...{ reason: 'price', bill: { unitPrice: '3' }, ours: { unitPrice: '2.5' } },
    difference: { quantity: '0', amount: '0.5', byQuantity: '0', byPrice: '0.5' },
    message: 'The quantity is the same, the price differs. For a million: 3 USD on the bill, 2.5 USD with us.',
  });
  expect(both).toMatchObject({
    reason: 'quantity_and_price',
    difference: { quantity: '10000', amount: '0.12', byQuantity: '0.1', byPrice: '0.02' },
  });
});

test('tells rounding of the bill from another price', () => {
  // The bill writes cents: 0.0025 USD are 0.
  const line = { ...charged('gpt-4o', 'input', '0', 1_000n), rounding: 10_000_000n };
  expect(rowsOf([line], [ours('gpt-4o', 1_000, 0)])[0]!.reason).toBe('rounding');
  expect(rowsOf([{ ...line, rounding: 1n }], [ours('gpt-4o', 1_000, 0)])[0]!.reason).toBe('price');
});

test('names usage that is only on the bill, only with us, or not of tokens', () => {
  const rows = rowsOf(
    [charged('o1', 'input', '1', 5n), charged('web search tool calls', 'other', '0.3')],
    [ours('gpt-4o', 1_000, 0)],
  );
  expect(reasons(rows)).toEqual({
    [`${DAY} gpt-4o input`]: 'only_with_us',
    [`${DAY} o1 input`]: 'only_on_bill',
    [`${DAY} web search tool calls other`]: 'only_on_bill',
  });
});

test('answers null, not 0, for what is unknown: our usage without a price, a bill without quantities', () => {
  const known = ours('gpt-4o', 1_000, 0);
  known.usage.cost = 0n;
  const zero = { input: '0', cached_input: '0', cache_write: '0', output: '0', requests: '0' };
  known.classes = { ...known.classes, cost: '0', costs: zero, unpriced: '2' };
  const [row] = rowsOf([charged('gpt-4o', 'input', '1')], [known]).map(present);
  expect(row).toMatchObject({
    ...{ reason: 'unpriced', bill: { quantity: null, amount: '1' }, ours: { quantity: '1000', amount: null } },
    difference: { quantity: null, amount: null, byQuantity: null, byPrice: null },
  });
  const [usage] = rowsOf([counted('gpt-4o', 'input', 1_000n)], [ours('gpt-4o', 1_000, 0)]).map(present);
  expect(usage).toMatchObject({ reason: 'equal', bill: { amount: null }, difference: { quantity: '0', amount: null } });
  const [amount] = rowsOf([charged('gpt-4o', 'input', '1')], [ours('gpt-4o', 1_000, 0)]).map(present);
  expect(amount).toMatchObject({ reason: 'amount', bill: { quantity: null }, difference: { amount: '0.9975' } });
});

test('takes quantities from the export of usage, where there is one, and amounts from that of costs', () => {
  const rows = rowsOf(
    [charged('gpt-4o', 'input', '0.0025'), counted('gpt-4o', 'input', 1_000n), counted('gpt-4o', 'requests', 3n)],
    [ours('gpt-4o', 1_000, 0)],
  );
  expect(rows.map(present)).toMatchObject([
    { class: 'input', reason: 'equal', bill: { quantity: '1000', amount: '0.0025' } },
    { class: 'requests', reason: 'quantity', bill: { quantity: '3', amount: null }, ours: { quantity: '2' } },
  ]);
});

test('finds usage that the bill counts on the neighbouring day', () => {
  const rows = rowsOf(
    [
      charged('gpt-4o', 'input', '0.0025', 1_000n),
      charged('gpt-4o', 'input', '0.0075', 3_000n, NEXT),
      charged('o1', 'input', '1', 5n, NEXT),
    ],
    [ours('gpt-4o', 2_000, 0), ours('gpt-4o', 2_000, 0, NEXT), ours('o1', 4, 0, NEXT)],
    [DAY, NEXT],
  );
  expect(reasons(rows)).toEqual({
    [`${DAY} gpt-4o input`]: 'day_boundary',
    [`${NEXT} gpt-4o input`]: 'day_boundary',
    [`${NEXT} o1 input`]: 'quantity_and_price',
  });
});

test('sums the classes of a model where our cost is not known by class, and all models of a day without models', () => {
  const brought = ours('gpt-4o', 1_000, 10);
  brought.usage.cost = usd('7');
  const lines = [charged('gpt-4o', 'input', '2', 1_000n), charged('gpt-4o', 'output', '4', 10n)];
  expect(rowsOf(lines, [brought]).map(present)).toMatchObject([
    {
      ...{ class: 'all', bill: { quantity: '1010', amount: '6' }, ours: { quantity: '1010', amount: '7' } },
      ...{ reason: 'price', message: expect.stringContaining('not known by class') },
    },
  ]);
  expect(rowsOf([charged('', 'all', '5')], [brought, ours('o1', 1_000, 0)]).map(present)).toMatchObject([
    { model: '', class: 'all', ourModels: ['gpt-4o', 'o1'], bill: { amount: '5' }, ours: { amount: '7.0025' } },
  ]);
});

test('a charge beside tokens says nothing about the tokens of its model', () => {
  const rows = rowsOf([charged('gpt-4o', 'other', '0.3')], [ours('gpt-4o', 1_000, 0)]);
  expect(rows.map(present)).toMatchObject([
    { class: 'input', reason: 'only_with_us', bill: { quantity: '0', amount: '0' }, billModels: [] },
    { class: 'other', reason: 'only_on_bill', bill: { quantity: null, amount: '0.3' }, ourModels: [] },
  ]);
  const both = rowsOf([charged('gpt-4o', 'other', '0.3'), counted('gpt-4o', 'input', 5n)], []);
  expect(both.map(present)).toMatchObject([{ bill: { quantity: '5' } }, { bill: { quantity: null, amount: '0.3' } }]);
});

const models = fc.constantFrom('gpt-4o', 'gpt-4o-2024-08-06', 'o1', 'unknown');
const tokens = fc.integer({ min: 0, max: 5_000 });
const cents = fc.bigInt({ min: -(10n ** 9n), max: 10n ** 12n });
const dates = fc.constantFrom(DAY, NEXT, '2026-11-06');
const classNames = fc.constantFrom<BillClass>('input', 'cached_input', 'cache_write', 'output', 'other', 'all');

const billLines = fc.uniqueArray(
  fc
    .record({
      ...{ kind: fc.constantFrom('cost' as const, 'usage' as const), date: dates, class: classNames },
      ...{ model: fc.oneof({ weight: 9, arbitrary: models }, fc.constant('')), amount: cents },
      ...{ quantity: fc.option(fc.bigInt(0n, 9_000n)), rounding: fc.bigInt(1n, 10n ** 7n) },
    })
    .map((line): SummedBillLine => {
      // Exports of usage have tokens and requests.
      if (line.kind === 'usage')
        return {
          ...line,
          class: line.class === 'other' ? 'requests' : line.class,
          amount: null,
          quantity: line.quantity ?? 0n,
        };
      return line.class === 'other' ? { ...line, model: line.model || 'search', quantity: null } : line;
    }),
  { selector: ({ kind, date, model, class: name }) => [kind, date, model, name].join(), maxLength: 12 },
);

const usage = fc.uniqueArray(
  fc
    .record({
      ...{ date: dates, model: models, parts: fc.array(tokens, { minLength: 4, maxLength: 4 }) },
      ...{
        perRequest: cents.map((cost) => cost * cost),
        state: fc.constantFrom('priced', 'unpriced', 'partly', 'brought'),
      },
    })
    .map(({ date, model, parts, perRequest, state }) => {
      const of = Object.fromEntries(TOKEN_CLASSES.map((name, index) => [name, BigInt(parts[index]!)])) as Record<
        TokenClass,
        bigint
      >;
      const amounts = Object.fromEntries(
        TOKEN_CLASSES.map((name) => [name, state === 'unpriced' ? 0n : of[name] * 12_345n]),
      ) as Record<TokenClass, bigint>;
      const requests = state === 'unpriced' ? 0n : perRequest % 1_000n;
      const cost = Object.values(amounts).reduce((all, each) => all + each, requests);
      const text = (all: Record<TokenClass, bigint>, write: (units: bigint) => string) =>
        Object.fromEntries(TOKEN_CLASSES.map((name) => [name, write(all[name])])) as Record<TokenClass, string>;
      const ourDay: OurDay = {
        ...{ date, model, requests: 5n, failedRequests: 1n, cost: state === 'brought' ? cost + 77n : cost },
        promptTokens: of.input + of.cached_input + of.cache_write,
        completionTokens: of.output,
      };
      const classes: PricedClasses = {
        ...{ date, provider: 'openai', model, events: '5', requests: '4', cost: formatCost(cost) },
        tokens: text(of, String),
        costs: { ...text(amounts, formatCost), requests: formatCost(requests) },
        unpriced: state === 'unpriced' ? '5' : state === 'partly' ? '2' : '0',
      };
      return { ourDay, classes };
    }),
  { selector: ({ ourDay: { date, model } }) => `${date} ${model}`, maxLength: 8 },
);

/** Compares lines with usage; a day with a line of a kind has a bill of it. */
function comparedOf(lines: readonly SummedBillLine[], known: readonly { ourDay: OurDay; classes: PricedClasses }[]) {
  const days = (kind: string) => new Set(lines.filter((line) => line.kind === kind).map(({ date }) => date));
  const [withCosts, withUsage] = [days('cost'), days('usage')];
  const rows = compare({
    ...{ withCosts, withUsage, lines },
    usage: known.map(({ ourDay }) => ourDay),
    classes: known.map(({ classes }) => classes),
  });
  return { rows, withCosts, withUsage };
}

test('the rows of any bill and any usage add up to both exactly, and reasons to the rows', () => {
  fc.assert(
    fc.property(billLines, usage, (lines, known) => {
      const { rows, withCosts, withUsage } = comparedOf(lines, known);
      const covered = ({ date }: { date: string }) => withCosts.has(date) || withUsage.has(date);
      const total = (amounts: (bigint | null)[]) => amounts.reduce<bigint>((all, amount) => all + (amount ?? 0n), 0n);
      expect(total(rows.map(({ bill }) => bill.amount))).toBe(total(lines.map(({ amount }) => amount)));
      const ourDays = known.map(({ ourDay }) => ourDay).filter(covered);
      expect(total(rows.map((row) => row.ours.amount))).toBe(total(ourDays.map(({ cost }) => cost)));
      const counts = (row: Compared) => row.class !== 'requests' && row.class !== 'other';
      expect(total(rows.filter(counts).map((row) => row.ours.quantity))).toBe(
        total(ourDays.map((day) => day.promptTokens + day.completionTokens)),
      );
      const whole = sumsOf(rows);
      const reasonsOf = [...new Set(rows.map(({ reason }) => reason))];
      const parts = reasonsOf.map((reason) => sumsOf(rows.filter((row) => row.reason === reason)));
      for (const name of ['bill', 'ours', 'difference'] as const)
        expect(formatCost(total(parts.map((part) => signed(part[name]))))).toBe(whole[name]);
      expect(signed(whole.bill) - signed(whole.ours)).toBe(signed(whole.difference));
      const keys = rows.map(({ date, model, class: name }) => [date, model, name].join());
      expect(new Set(keys).size).toBe(rows.length);
      for (const row of rows) {
        const split = partsOf(row);
        if (split) expect(split.byQuantity + split.byPrice).toBe(row.bill.amount! - row.ours.amount!);
        expect(present(row).message).toMatch(/^[A-Z].*\.$/);
      }
    }),
    { numRuns: RUNS },
  );
});

/** What a row must have: the lines and the usage of its names on its day, added up one by one. */
function plainly(
  { date, class: name, billModels, ourModels, model }: Compared,
  {
    lines,
    known,
    isWhole,
    covered,
  }: {
    lines: readonly SummedBillLine[];
    known: readonly { ourDay: OurDay; classes: PricedClasses }[];
    isWhole: boolean;
    covered: { costs: boolean; usage: boolean };
  },
) {
  const names: readonly BillClass[] = name === 'all' ? [...TOKEN_CLASSES, 'all'] : [name];
  const add = (all: (bigint | null)[]) =>
    all.reduce((one, other) => (one === null || other === null ? null : one + other), 0n);
  const onDay = lines.filter((line) => line.date === date && (line.kind === 'cost' ? covered.costs : covered.usage));
  const theirs = onDay.filter((line) => {
    if (line.class === 'other') return name === 'other' && billModels.includes(line.model);
    return name !== 'other' && (isWhole ? model === '' : billModels.includes(line.model));
  });
  const costs = theirs.filter((line) => line.kind === 'cost');
  const usage = theirs.filter((line) => line.kind === 'usage');
  const of = (all: typeof theirs) => all.filter((line) => names.includes(line.class));
  const ours = known.filter(
    ({ ourDay }) =>
      name !== 'other' && ourDay.date === date && (isWhole ? model === '' : ourModels.includes(ourDay.model)),
  );
  const quantities = of(usage.length > 0 ? usage : costs);
  return {
    amount: covered.costs ? add(of(costs).map(({ amount }) => amount)) : null,
    quantity:
      theirs.length === 0
        ? 0n
        : quantities.length === 0 && usage.length === 0 && costs.every(({ quantity }) => quantity === null)
          ? null
          : add(quantities.map(({ quantity }) => quantity)),
    tokens: add(
      ours.map(({ ourDay, classes }) =>
        name === 'all' ? ourDay.promptTokens + ourDay.completionTokens : BigInt(classes.tokens[name as TokenClass]),
      ),
    ),
    cost: add(
      ours.map(({ ourDay, classes }) => (name === 'all' ? ourDay.cost : signed(classes.costs![name as TokenClass]))),
    ),
  };
}

test('each row has what its names have on its day and nothing else, added up one by one', () => {
  fc.assert(
    fc.property(billLines, usage, (lines, known) => {
      const { rows, withCosts, withUsage } = comparedOf(lines, known);
      for (const row of rows.filter((each) => each.class !== 'requests')) {
        const covered = { costs: withCosts.has(row.date), usage: withUsage.has(row.date) };
        const isWhole = lines.some((line) => line.date === row.date && line.model === '' && line.class !== 'other');
        const { amount, quantity, tokens, cost } = plainly(row, { lines, known, isWhole, covered });
        expect(row.bill).toEqual({ amount, quantity });
        if (row.class === 'other') continue;
        expect(row.ours.quantity).toBe(tokens);
        if (row.ours.amount !== null) expect(row.ours.amount).toBe(cost);
      }
    }),
    { numRuns: RUNS },
  );
});

const signed = (text: string) => usd(text.replace('-', '')) * (text.startsWith('-') ? -1n : 1n);
