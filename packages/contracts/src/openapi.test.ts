import { describe, expect, test } from 'vitest';
import { UsageEntry } from './entry.ts';
import { openApi } from './openapi.ts';
import { proceduresOf, SERVICES } from './services.ts';

const document = openApi();
const procedures = Object.values(SERVICES).flatMap(({ contract }) => proceduresOf(contract));
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);
type Content = { content: Record<string, { example?: unknown }> };
const exampleIn = (part: unknown) => Object.values((part as Content | undefined)?.content ?? {})[0]?.example;

describe('the OpenAPI document', () => {
  test('has every procedure and every REST path, each with a name of its own', () => {
    const names = operations.map(({ operation }) => operation.operationId);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toEqual(expect.arrayContaining(procedures.map(([name]) => name)));
    const paths = procedures.flatMap(([, { rest = [] }]) => rest.map(({ path }) => path));
    expect(Object.keys(document.paths)).toEqual(expect.arrayContaining(paths));
    expect(paths.length).toBeGreaterThan(5);
  });

  test.each(procedures)('%s has a summary', (_, { summary }) => {
    expect(summary).toMatch(/^[A-Z].{10,}\.$/);
  });

  test.each(procedures)('%s has an example that is valid input, and one that is a valid answer', (name, procedure) => {
    const { post, get } = document.paths[`/trpc/${name}`]!;
    const { requestBody, responses } = (post ?? get)!;
    const input = exampleIn(requestBody);
    if (post) expect(procedure.input.safeParse(input).error?.issues ?? []).toEqual([]);
    const answer = exampleIn(responses[200]);
    const data = post ? (answer as { result: { data: unknown } }).result.data : answer;
    expect(procedure.output.safeParse(data).error?.issues ?? []).toEqual([]);
  });

  test('gives an event that is valid as the example of a batch', () => {
    const { entries } = exampleIn(document.paths['/trpc/usage.record']!.post!.requestBody) as { entries: unknown[] };
    expect(UsageEntry.safeParse(entries[0]).success).toBe(true);
    expect(entries[0]).toHaveProperty('metrics.cost');
  });

  test('refers only to schemas that it has', () => {
    const refs = JSON.stringify(document).matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g);
    for (const [, kind, name] of refs)
      expect(document.components[kind as 'schemas'], `${kind} ${name}`).toHaveProperty(name!);
  });

  test('takes lists and plain values only from the query of a REST path', () => {
    for (const { path, operation } of operations.filter(
      ({ path, method }) => method === 'get' && !path.startsWith('/trpc/'),
    ))
      for (const { name, schema } of operation.parameters as { name: string; schema: { type?: string } }[])
        expect([path, name, schema.type === 'object']).toEqual([path, name, false]);
  });

  test('of one service has the operations of this service only', () => {
    const { paths } = openApi('metrics-engine');
    expect(paths).toHaveProperty(['/trpc/custom.create']);
    expect(paths).not.toHaveProperty(['/trpc/usage.record']);
  });
});
