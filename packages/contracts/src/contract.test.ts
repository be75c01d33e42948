import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Access } from './access.ts';
import { analytics } from './analytics.ts';
import { type Contract, isProcedure, type Procedure } from './contract.ts';
import { engine } from './engine.ts';
import { ERRORS } from './errors.ts';
import { ingest } from './ingest.ts';

const procedures = Object.entries({ ingest, analytics, engine }).flatMap(([service, contract]) =>
  flatten(contract, service),
);

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
