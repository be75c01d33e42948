import type { Item } from './attempt.ts';
import { type Group, type Kind, printGroup } from './group.ts';
import type { Ref } from './spool/spool.ts';

/** Entries that are sent and settled together: held in memory, or read from the spool when they are next. */
export type Batch = { kind: Kind; entries: number; bytes: number; source: { groups: Group[] } | { ref: Ref } };

/** The limits of a batch: entries, bytes, and calls of counters. */
export type BatchLimits = { entries: number; bytes: number; calls: number };

/** A batch of counters is one call per counter; the default limit of concurrent calls of a service. */
export const MAX_CALLS = 20;

/** Cuts groups into batches of one kind each, within the limits. */
export function batchesOf(groups: readonly Group[], limits: BatchLimits): Batch[] {
  const batches: Batch[] = [];
  for (const kind of ['record', 'track'] as const) {
    const most = kind === 'track' ? Math.min(limits.calls, limits.entries) : limits.entries;
    let some: Group[] = [];
    let bytes = 0;
    const close = () => {
      if (some.length > 0) batches.push({ kind, entries: some.length, bytes, source: { groups: some } });
      some = [];
      bytes = 0;
    };
    for (const group of groups) {
      if (group.kind !== kind) continue;
      if (some.length === most || bytes + group.bytes > limits.bytes) close();
      some.push(group);
      bytes += group.bytes;
    }
    close();
  }
  return batches;
}

export const itemsOf = (groups: readonly Group[]): Item[] =>
  groups.map((group) => ({ json: printGroup(group), records: group.records }));

export const recordsIn = (items: readonly Item[]): number => items.reduce((sum, { records }) => sum + records, 0);

/** A batch in the spool: a line with its kind and the records per item, then one line of JSON per item. */
export function printBatch(kind: Kind, items: readonly Item[]): string {
  return [JSON.stringify([kind, ...items.map(({ records }) => records)]), ...items.map(({ json }) => json)].join('\n');
}

export function parseBatch(text: string): { kind: Kind; items: Item[] } {
  const [head, ...lines] = text.split('\n');
  const [kind, ...records] = JSON.parse(head!) as [Kind, ...number[]];
  return { kind, items: lines.map((json, at) => ({ json, records: records[at]! })) };
}
