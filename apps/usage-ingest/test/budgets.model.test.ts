import { formatCost, formatQuantity, MAX_ENTRY_UNITS, MAX_SUM_UNITS, type UsageEntry } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;

beforeAll(async () => {
  ingest = await startIngest();
});
afterAll(() => ingest.close());

const IDS = ['r0', 'r1', 'r2', 'r3', 'r4', 'r5', 'r6', 'r7'] as const;
const USERS = ['ada', 'bob', undefined];
const MEASURES = ['cost', 'tokens', 'requests'] as const;
type Amounts = Record<(typeof MEASURES)[number], bigint>;

/** Amounts of all lengths, up to 18 digits. */
const units = (most: bigint) =>
  fc.tuple(fc.integer({ min: 0, max: 17 }), fc.bigInt(0n, 9n)).map(([power, digit]) => {
    const drawn = digit * 10n ** BigInt(power) + 7n * digit;
    return drawn > most ? most : drawn;
  });
const amountsOf = (most: bigint): fc.Arbitrary<Amounts> =>
  fc.record({ cost: units(most), tokens: units(most), requests: fc.constant(1n) });
const LIMIT = MAX_SUM_UNITS / 10n;
const budget = fc.record({
  measure: fc.constantFrom(...MEASURES),
  limit: units(LIMIT),
  user: fc.constantFrom(undefined, 'ada'),
  enforcement: fc.constantFrom('hard' as const, 'hard' as const, 'soft' as const),
  period: fc.constantFrom('hour' as const, 'day' as const, 'week' as const, 'month' as const, 'total' as const),
  timeZone: fc.constantFrom('UTC', 'Europe/Berlin', 'America/St_Johns', 'Asia/Kathmandu', 'Pacific/Apia'),
});
const call = fc.record({ user: fc.constantFrom(...USERS), wanted: amountsOf(LIMIT), used: amountsOf(MAX_ENTRY_UNITS) });
/** What happens at once: for each reservation one kind of call, perhaps repeated. */
const wave = fc.dictionary(
  fc.constantFrom(...IDS),
  fc.record({
    kind: fc.constantFrom('reserve', 'reserve', 'settle', 'release'),
    times: fc.integer({ min: 1, max: 3 }),
  }),
  { minKeys: 1 },
);

test('budgets agree with a plain model, whatever is reserved, settled, released and repeated at once', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(budget, { minLength: 1, maxLength: 5 }),
      fc.array(call, { minLength: IDS.length, maxLength: IDS.length }),
      fc.array(wave, { minLength: 1, maxLength: 6 }),
      async (drawn, calls, waves) => {
        const merchantId = `modelled-${merchants++}`;
        const budgets = await Promise.all(
          drawn.map(async ({ measure, limit, user, ...more }) => {
            const scope = { merchantId, ...(user && { userId: user }) };
            const made = { scope, measure, limit: formatQuantity(measure, limit), ...more };
            const { id } = await ingest.admin.budgets.create.mutate(made);
            return { id, measure, limit, user, isHard: more.enforcement === 'hard', spent: 0n, reserved: 0n };
          }),
        );
        const [open, known, settled] = [new Set<string>(), new Set<string>(), new Set<string>()];
        const callOf = (id: string) => calls[IDS.indexOf(id as (typeof IDS)[number])]!;
        const matching = (id: string) => budgets.filter(({ user }) => user === undefined || user === callOf(id).user);
        const entryOf = (id: string): UsageEntry => {
          const { user, used } = callOf(id);
          return {
            ...{ id, merchantId, time: '2026-11-22T12:00:00Z', ...(user && { userId: user }) },
            metrics: { cost: formatCost(used.cost), prompt_tokens: `${used.tokens}` },
          };
        };
        const send = async (id: string, kind: string): Promise<boolean | undefined> => {
          const { user, wanted } = callOf(id);
          const reservationId = `${merchantId}/${id}`;
          if (kind === 'settle') await ingest.admin.budgets.settle.mutate({ reservationId, entry: entryOf(id) });
          if (kind === 'release') await ingest.admin.budgets.release.mutate({ reservationId });
          if (kind !== 'reserve') return undefined;
          const amounts = { cost: formatCost(wanted.cost), tokens: `${wanted.tokens}` };
          const intended = { id, merchantId, amounts, ...(user && { userId: user }) };
          return (await ingest.admin.budgets.reserve.mutate(intended)).allowed;
        };
        const compare = async () => {
          const { rows } = await ingest.admin.budgets.status.query({ merchantId });
          for (const { id, measure, limit, spent, reserved } of budgets) {
            const [said, text] = [
              rows.find(({ budgetId }) => budgetId === id),
              (n: bigint) => formatQuantity(measure, n),
            ];
            const remaining = text(limit - spent - reserved);
            expect(said).toMatchObject({ spent: text(spent), reserved: text(reserved), remaining, complete: true });
          }
        };
        for (const together of waves) {
          const ops = Object.entries(together);
          const before = new Map(budgets.map(({ id, spent, reserved }) => [id, spent + reserved]));
          const [most, least] = [new Map(before), new Map(before)];
          const add = (to: Map<string, bigint>, id: string, amount: bigint) => to.set(id, to.get(id)! + amount);
          for (const [id, { kind }] of ops)
            for (const each of matching(id)) {
              if (kind === 'reserve' && !known.has(id)) add(most, each.id, callOf(id).wanted[each.measure]);
              if (kind === 'settle' && !settled.has(id)) add(most, each.id, callOf(id).used[each.measure]);
              if (kind !== 'reserve' && open.has(id)) add(least, each.id, -callOf(id).wanted[each.measure]);
            }
          const answers = await Promise.all(
            ops.map(async ([id, { kind, times }]) => ({
              ...{ id, kind },
              answers: await Promise.all(Array.from({ length: times }, () => send(id, kind))),
            })),
          );
          for (const { id, kind, answers: each } of answers) {
            const own = matching(id);
            const { wanted, used } = callOf(id);
            if (kind === 'reserve' && !known.has(id)) {
              const hard = own.filter(({ isHard }) => isHard);
              const isAllowed = each.includes(true);
              if (isAllowed) {
                for (const { id: of, measure, limit } of hard)
                  expect(least.get(of)! + wanted[measure]).toBeLessThanOrEqual(limit);
                for (const of of own) of.reserved += wanted[of.measure];
                if (own.length > 0) for (const set of [open, known]) set.add(id);
              }
              // No wrong refusal: even none does not fit where the limit is reached.
              if (each.includes(false)) expect(hard.some(({ id: of, limit }) => most.get(of)! >= limit)).toBe(true);
            } else if (kind === 'reserve') expect(each).not.toContain(false);
            if (kind === 'reserve') continue;
            if (open.delete(id)) for (const of of own) of.reserved -= wanted[of.measure];
            if (kind === 'settle' && !settled.has(id)) {
              settled.add(id);
              for (const of of own) of.spent += used[of.measure];
            }
          }
          await compare();
        }
        await ingest.admin.flush.run.mutate({});
        await expect.poll(() => ingest.redis.hlen('budget:{all}:notes')).toBe(0);
        await compare();
      },
    ),
    { numRuns: runsOf({ short: 4, long: 8 }) },
  );
});
