import { printUnits, type RecordInput, type TrackInput } from './entry.ts';

/** Entries summed into one, to be sent under one id. `''` stands for an unknown dimension. */
export type Group = {
  readonly id: string;
  readonly kind: Kind;
  readonly key: string;
  readonly merchantId: string;
  readonly time: number;
  readonly bucket: number;
  readonly userId: string;
  readonly apiKey: string;
  readonly model: string;
  readonly provider: string;
  readonly failed: boolean;
  readonly properties: RecordInput['properties'];
  /** Its approximate size in memory. */
  readonly bytes: number;
  readonly types: string[];
  /** The scale of each type: the decimals of a unit. */
  readonly scales: number[];
  /** Units; whole numbers of at most 10^15, so that adding two of them is exact in a double. */
  readonly sums: number[];
  /** Calls that the sum stands for. */
  calls: number;
  /** The number of `record` and `track` calls in it. */
  records: number;
  open: boolean;
};

export type Kind = 'record' | 'track';

const GROUP_BYTES = 400;

/** Where a record belongs in time: its moment, and its 15-minute bucket. */
export type Moment = { readonly time: number; readonly bucket: number };

/** A group without calls for entries like this one; with a key, others may join it. */
export function groupOf(entry: RecordInput, { time, bucket }: Moment, id: string, key: string): Group {
  return {
    id,
    kind: 'record',
    key,
    merchantId: entry.merchantId,
    time,
    bucket,
    userId: known(entry.userId),
    apiKey: known(entry.apiKey),
    model: known(entry.model),
    provider: known(entry.provider),
    failed: entry.status === 'failure',
    properties: entry.properties === undefined ? undefined : { ...entry.properties },
    bytes: sizeOf(entry),
    types: [],
    scales: [],
    sums: [],
    calls: 0,
    records: 0,
    open: true,
  };
}

/** The same for a counter. */
export function counterGroupOf(
  call: TrackInput,
  { time, bucket }: Moment,
  id: string,
  key: string,
  scale: number,
): Group {
  return {
    id,
    kind: 'track',
    key,
    merchantId: call.merchantId,
    time,
    bucket,
    userId: '',
    apiKey: '',
    model: '',
    provider: '',
    failed: false,
    properties: undefined,
    bytes: GROUP_BYTES,
    types: [call.metricType],
    scales: [scale],
    sums: [0],
    calls: 0,
    records: 0,
    open: true,
  };
}

/** Returns whether an entry without id and properties belongs to an open group. */
export function isOf(group: Group, entry: RecordInput, bucket: number, failed: boolean): boolean {
  return (
    group.open &&
    group.bucket === bucket &&
    group.failed === failed &&
    group.properties === undefined &&
    group.merchantId === entry.merchantId &&
    group.model === (entry.model ?? '') &&
    group.userId === (entry.userId ?? '') &&
    group.apiKey === (entry.apiKey ?? '') &&
    group.provider === (entry.provider ?? '')
  );
}

/** The same for a counter. */
export function isOfCounter(group: Group, call: TrackInput, bucket: number): boolean {
  return (
    group.open && group.bucket === bucket && group.types[0] === call.metricType && group.merchantId === call.merchantId
  );
}

/** The key of the group of an entry. Unambiguous for any names, since each is preceded by its length. */
export function keyOf(entry: RecordInput, bucket: number, failed: boolean): string {
  const userId = known(entry.userId);
  const apiKey = known(entry.apiKey);
  const model = known(entry.model);
  const provider = known(entry.provider);
  const lengths = `${userId.length},${apiKey.length},${model.length},${provider.length}`;
  const key = `${bucket}${failed ? '-' : '+'}${entry.merchantId} ${lengths} ${userId}${apiKey}${model}${provider}`;
  if (entry.properties === undefined) return key;
  const names = Object.keys(entry.properties).sort();
  return names.length === 0 ? key : key + JSON.stringify(names.map((name) => [name, entry.properties![name]]));
}

/** The same for a counter; no key of an entry begins with `#`. */
export const counterKeyOf = ({ merchantId, metricType }: TrackInput, bucket: number): string =>
  `#${bucket} ${merchantId} ${metricType}`;

/** Prints a group as the contract's input of `usage.record` or `usage.track`, in JSON. */
export function printGroup(group: Group): string {
  const time = new Date(group.time).toISOString();
  if (group.kind === 'track') {
    const metricType = group.types[0]!;
    const by = printUnits(group.sums[0]!, group.scales[0]!);
    return JSON.stringify({ id: group.id, merchantId: group.merchantId, metricType, by, time });
  }
  const metrics: Record<string, string> = {};
  for (let at = 0; at < group.types.length; at++)
    metrics[group.types[at]!] = printUnits(group.sums[at]!, group.scales[at]!);
  return JSON.stringify({
    id: group.id,
    merchantId: group.merchantId,
    time,
    metrics,
    userId: group.userId || undefined,
    apiKey: group.apiKey || undefined,
    model: group.model || undefined,
    provider: group.provider || undefined,
    status: group.failed ? 'failure' : undefined,
    count: group.calls === 1 ? undefined : group.calls,
    properties: group.properties,
  });
}

/** Tally treats absent, empty and `unknown` alike. */
const known = (dimension: string | undefined): string =>
  dimension === undefined || dimension === 'unknown' ? '' : dimension;

function sizeOf(entry: RecordInput): number {
  const names =
    entry.merchantId.length +
    (entry.userId?.length ?? 0) +
    (entry.apiKey?.length ?? 0) +
    (entry.model?.length ?? 0) +
    (entry.provider?.length ?? 0);
  const properties = entry.properties === undefined ? 0 : 2 * JSON.stringify(entry.properties).length;
  return GROUP_BYTES + 4 * names + properties;
}
