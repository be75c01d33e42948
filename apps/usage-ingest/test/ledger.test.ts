import { createRedis, type RedisClient, redisReady } from '@tally/service';
import { type FreshStore, freshRedis, startRelay } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createLedger, type Ledger } from '../src/budgets/ledger.ts';

let store: FreshStore;
let redis: RedisClient;
let ledger: Ledger;

beforeAll(async () => {
  store = await freshRedis();
  redis = createRedis(store.url);
  await redisReady(redis);
  ledger = createLedger(redis);
});
afterAll(async () => {
  redis.disconnect();
  await store.drop();
});

const SLOTS = ['a/1', 'b/1', 'c/1'];
const LARGEST = 9n * 10n ** 17n;
const LONG_MS = 3_600_000;

/** Amounts of every length, and those beside 10^9, 10^15 and 2^53, where parts of a number meet. */
const amounts = fc.oneof(
  fc.bigInt(0n, 100n),
  fc.bigInt(0n, LARGEST),
  fc.nat(18).chain((digits) => fc.bigInt(0n, 9n * 10n ** BigInt(Math.max(digits - 1, 0)))),
  fc.constantFrom(10n ** 9n, 10n ** 15n, 2n ** 53n).chain((at) => fc.bigInt(at - 2n, at + 2n)),
);
const signed = fc.tuple(amounts, fc.boolean()).map(([amount, isNegative]) => (isNegative ? -amount : amount));
const partOf = fc.record({ limit: fc.option(amounts, { nil: undefined }), amount: amounts });
const request = fc.record({
  id: fc.constantFrom('r1', 'r2', 'r3', 'r4', 'r5'),
  lifetimeMs: fc.constantFrom(LONG_MS, LONG_MS, LONG_MS, 0),
  parts: fc.dictionary(fc.constantFrom(...SLOTS), partOf, { minKeys: 1 }),
});
const settlement = fc.record({
  id: fc.option(fc.constantFrom('r1', 'r2', 'r3', 'r4', 'r5'), { nil: undefined }),
  event: fc.option(fc.constantFrom('m\n2026-11-26 e1\n', 'm\n2026-11-26 e2\n', 'm\n2026-11-26 e3\n'), {
    nil: undefined,
  }),
  adds: fc.dictionary(fc.constantFrom(...SLOTS), signed),
});
const step = fc.oneof(
  fc.record({ kind: fc.constant('reserve' as const), items: fc.array(request, { minLength: 1, maxLength: 4 }) }),
  fc.record({ kind: fc.constant('settle' as const), items: fc.array(settlement, { minLength: 1, maxLength: 4 }) }),
  fc.record({ kind: fc.constant('read' as const), spent: fc.tuple(signed, signed, signed), drops: fc.boolean() }),
);

type Sums = { spent: bigint; reserved: bigint; noted: bigint };
type Model = {
  sums: Record<string, Sums>;
  reservations: Map<string, { parts: Record<string, bigint>; digest: string; endedBy?: string }>;
  notes: Map<string, Record<string, bigint>>;
};
const usedOf = ({ spent, reserved, noted }: Sums) => spent + reserved + noted;

/** The same rules with whole numbers of any size. */
function reserveInModel({ sums, reservations }: Model, { id, lifetimeMs, parts }: RequestOf) {
  const digest = digestOf(parts);
  const asked = Object.entries(parts).map(([slot, part]) => ({ slot, ...part }));
  const known = lifetimeMs === 0 ? undefined : reservations.get(id);
  const refusing = asked.filter(({ slot, limit, amount }) => {
    const used = usedOf(sums[slot]!);
    return limit !== undefined && (used + amount > limit || (amount === 0n && used === limit));
  });
  const refuses = (slot: string) => !known && refusing.some((each) => each.slot === slot);
  const verdict = known
    ? known.digest === digest
      ? 'allowed'
      : 'conflict'
    : refusing.length > 0
      ? 'refused'
      : 'allowed';
  if (!known && verdict === 'allowed' && lifetimeMs > 0) {
    for (const { slot, amount } of asked) sums[slot]!.reserved += amount;
    const amountOf = Object.fromEntries(asked.map(({ slot, amount }) => [slot, amount]));
    reservations.set(id, { parts: amountOf, digest });
  }
  return { verdict, parts: asked.map(({ slot }) => ({ used: usedOf(sums[slot]!), refuses: refuses(slot) })) };
}

function settleInModel({ sums, reservations, notes }: Model, { id, event, adds }: SettlementOf) {
  const known = id === undefined ? undefined : reservations.get(id);
  const outcome = !known
    ? 'unknown'
    : known.endedBy === undefined
      ? 'open'
      : event !== undefined && known.endedBy === event
        ? 'repeated'
        : 'unknown';
  if (known && outcome === 'open') {
    for (const [slot, amount] of Object.entries(known.parts)) sums[slot]!.reserved -= amount;
    known.endedBy = event ?? '';
  }
  const isNoted = event !== undefined && Object.keys(adds).length > 0 && (id === undefined || outcome === 'open');
  if (isNoted && !notes.has(event)) {
    notes.set(event, adds);
    for (const [slot, amount] of Object.entries(adds)) sums[slot]!.noted += amount;
  }
  return outcome;
}

type RequestOf = {
  id: string;
  lifetimeMs: number;
  parts: Record<string, { limit: bigint | undefined; amount: bigint }>;
};
type SettlementOf = { id: string | undefined; event: string | undefined; adds: Record<string, bigint> };
const digestOf = (parts: RequestOf['parts']) =>
  Object.entries(parts)
    .map(([slot, { amount }]) => `${slot}:${amount}`)
    .join(' ');

test('decides and counts like whole numbers of any size', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
      await redis.flushdb();
      const model: Model = {
        sums: Object.fromEntries(SLOTS.map((slot) => [slot, { spent: 0n, reserved: 0n, noted: 0n }])),
        ...{ reservations: new Map(), notes: new Map() },
      };
      const zeros = SLOTS.map((slot) => ({ slot, amount: '0' }));
      expect(await ledger.set(await ledger.begin(), zeros, [])).toBe(true);
      for (const each of steps) {
        if (each.kind === 'reserve') {
          const decided = await ledger.reserve(
            each.items.map(({ id, lifetimeMs, parts }) => ({
              ...{ id: lifetimeMs === 0 ? '' : id, lifetimeMs, digest: digestOf(parts) },
              parts: Object.entries(parts).map(([slot, { limit, amount }]) => ({
                ...{ slot, limit: limit?.toString(), amount: amount.toString() },
              })),
            })),
          );
          expect(decided.map(({ verdict, parts }) => ({ verdict, parts }))).toEqual(
            each.items.map((item) => reserveInModel(model, item)),
          );
        } else if (each.kind === 'settle') {
          const { ended } = ledger.settle(
            each.items.map(({ id, event, adds }) => {
              const amounts = Object.entries(adds).map(([slot, amount]) => ({ slot, amount: amount.toString() }));
              return { ...(id && { id }), ...(event && { event: { identity: event, amounts } }) };
            }),
          );
          expect(await ended).toEqual(each.items.map((item) => settleInModel(model, item)));
        } else {
          const begun = await ledger.begin();
          const counted = each.drops ? await ledger.notes() : [];
          const spent = SLOTS.map((slot, at) => ({ slot, amount: each.spent[at]!.toString() }));
          expect(await ledger.set(begun, spent, counted)).toBe(true);
          for (const [at, slot] of SLOTS.entries()) {
            model.sums[slot]!.spent = each.spent[at]!;
            if (each.drops) model.sums[slot]!.noted = 0n;
          }
          if (each.drops) model.notes.clear();
        }
        const sums = SLOTS.map((slot) => model.sums[slot]!);
        expect(await ledger.read(SLOTS)).toEqual(sums.map((sum) => ({ used: usedOf(sum), reserved: sum.reserved })));
      }
    }),
    { numRuns: 60 },
  );
});

test('decides a request with more budgets than one command of Redis takes', async () => {
  await redis.flushdb();
  const slots = Array.from({ length: 700 }, (_, at) => `many-${at}/1`);
  await ledger.set(
    await ledger.begin(),
    slots.map((slot) => ({ slot, amount: '1' })),
    [],
  );
  const parts = slots.map((slot) => ({ slot, limit: '10', amount: '2' }));
  const [decided] = await ledger.reserve([{ id: 'r', lifetimeMs: LONG_MS, digest: 'd', parts }]);
  expect(decided).toMatchObject({ verdict: 'allowed', parts: slots.map(() => ({ used: 3n, refuses: false })) });
  const amounts = slots.map((slot) => ({ slot, amount: '5' }));
  expect(await ledger.settle([{ id: 'r', event: { identity: 'm\n2026-11-26 e\n', amounts } }]).ended).toEqual(['open']);
  expect(await ledger.read(slots)).toEqual(slots.map(() => ({ used: 6n, reserved: 0n })));
});

test('keeps few sums in a hash table, whose fields are found without a search', async () => {
  await redis.flushdb();
  await ledger.set(await ledger.begin(), [{ slot: 'a/1', amount: '1' }], []);
  expect(await redis.object('ENCODING', 'budget:{all}:sums')).toBe('hashtable');
});

test('counts a step once whose answer was lost, so that it was sent again', async () => {
  await redis.flushdb();
  const address = new URL(store.url);
  const relay = await startRelay({ host: address.hostname, port: Number(address.port) });
  address.host = `127.0.0.1:${relay.port}`;
  const through = createRedis(address.toString());
  try {
    await redisReady(through);
    const own = createLedger(through);
    const slot = SLOTS[0]!;
    const spent = (amount: string) => [{ slot, amount }];
    const noted = (id: string) => ({ identity: `m\n2026-11-26 ${id}\n`, amounts: spent('60') });
    const request = (id: string) => ({
      ...{ id, lifetimeMs: LONG_MS, digest: id },
      parts: [{ slot, limit: '1000', amount: '100' }],
    });
    // Every script is loaded.
    await own.set(await own.begin(), spent('500'), []);
    await own.reserve([request('r1'), request('r2')]);
    await own.settle([{ id: 'r1', event: noted('e1') }]).ended;
    await own.takeBack([noted('e0')]);

    const losing = [relay.loseAnswer(':expiries')];
    await own.settle([{ id: 'r2', event: noted('e2') }, { event: noted('e3') }]).ended;
    losing.push(relay.loseAnswer(':expiries'));
    await own.reserve([request('r4')]);
    losing.push(relay.loseAnswer(':expiries'));
    await own.takeBack([noted('e3')]);
    expect(await own.read([slot])).toEqual([{ used: 720n, reserved: 100n }]);

    const begun = await own.begin();
    const notes = await own.notes();
    losing.push(relay.loseAnswer(':expiries'));
    // The reading was set, and says that it was not: another one finds that nothing has changed.
    if (!(await own.set(begun, spent('620'), notes))) await own.set(await own.begin(), spent('620'), []);
    await Promise.all(losing);
    expect(await own.notes()).toEqual([]);
    expect(await own.read([slot])).toEqual([{ used: 720n, reserved: 100n }]);
  } finally {
    through.disconnect();
    relay.close();
  }
});
