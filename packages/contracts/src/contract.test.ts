import { inputsWith, stringSchemas, UNSTORABLE_TEXTS } from '@tally/testkit';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Access } from './access.ts';
import { analytics } from './analytics.ts';
import { type Contract, isProcedure, merchantFieldOf, type Procedure } from './contract.ts';
import { engine } from './engine.ts';
import { UsageEntry } from './entry.ts';
import { ERRORS } from './errors.ts';
import { ingest } from './ingest.ts';

const procedures = Object.entries({ ingest, analytics, engine }).flatMap(([service, contract]) =>
  flatten(contract, service),
);

/** Procedures that take any event, so that a bad one rejects only itself. */
const OF_ENTRIES = ['ingest.usage.record', 'ingest.budgets.settleMany'];
/** The inputs of all other procedures, and an event. */
const checked: [string, z.ZodType][] = [
  ...procedures
    .filter(([path]) => !OF_ENTRIES.includes(path))
    .map(([path, { input }]): [string, z.ZodType] => [path, input]),
  ['an entry', UsageEntry],
];

describe('contracts', () => {
  test.each(procedures)('%s states its kind, its access, its input and its output', (_, procedure) => {
    expect(['query', 'mutation', 'subscription']).toContain(procedure.kind);
    expect(Access.options).toContain(procedure.access);
    expect(procedure.input).toBeInstanceOf(z.ZodType);
    expect(procedure.output).toBeInstanceOf(z.ZodType);
  });

  test.each(procedures)('%s refuses input that it does not know', (_, procedure) => {
    expect(procedure.input.safeParse({ unheardOf: 1 }).success).toBe(false);
  });

  test.each(procedures)('%s needs no input where it needs no field of it', (_, { input }) => {
    const [without, empty] = [input.safeParse(undefined), input.safeParse({})];
    expect(without.success).toBe(empty.success);
    expect(without.data).toEqual(empty.data);
  });

  test.each(checked)('%s takes no string without a bound, and none that cannot be stored', (_, input) => {
    for (const sent of inputsWith(input, UNSTORABLE_TEXTS)) {
      expect(input.safeParse(sent).success, JSON.stringify(sent).slice(0, 200)).toBe(false);
    }
  });

  test.each(procedures)('%s answers with every string that may be stored', (_, { output }) => {
    for (const string of stringSchemas(output)) {
      const takes = (value: string) => string.safeParse(value).success;
      const isQuantity = takes('1.5') && takes('-20');
      const isId = string instanceof z.ZodUUID;
      const isDay = takes('2026-03-01') && takes('0999-12-31');
      const isTime = takes('2026-03-01T10:00:00.000Z') && takes('0999-12-31T10:00:00.000Z');
      expect(isQuantity || isId || isDay || isTime || takes('a\u0001\u200b'.repeat(10_000))).toBe(true);
    }
  });

  test('every error says what its caller may do', () => {
    for (const { status, action } of Object.values(ERRORS)) {
      expect(status).toBeGreaterThanOrEqual(400);
      expect(action).toMatch(/\w+.*\./);
    }
  });
});

function flatten(contract: Contract, path: string): [string, Procedure][] {
  return Object.entries(contract).flatMap(([name, node]): [string, Procedure][] =>
    isProcedure(node) ? [[`${path}.${name}`, node]] : flatten(node, `${path}.${name}`),
  );
}

test.each(procedures)('%s says which merchants a bound key may use it for', (_, procedure) => {
  const said = [procedure.platform ? 'platform' : merchantFieldOf(procedure), procedure.merchants];
  expect(said.filter((each) => each !== undefined)).toHaveLength(1);
});
