import {
  checkCounter,
  checkMetricType,
  checkNames,
  MAX_METRICS,
  MAX_UNITS,
  printUnits,
  QUARTER_HOUR_MS,
  type RecordInput,
  type Refusal,
  refusal,
  refuseAmount,
  type TrackInput,
  timeOf,
  unitsOf,
  unitsOfOne,
} from './entry.ts';

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

export type MergerOptions = {
  merge: boolean;
  /** Returns the decimals of a metric type. */
  scaleOf(metricType: string): number;
  newId(): string;
  /** Called before a group is opened; a refusal refuses the record. */
  admit(bytes: number): Refusal | undefined;
  /** Called with each record before it is counted; a refusal refuses it. */
  log?:
    | ((kind: Kind, input: RecordInput | TrackInput, time: number, id: string | undefined) => Refusal | undefined)
    | undefined;
};

export type Merger = {
  /** Adds an entry to its group, or refuses it whole. `logged`: it is in the log already, so it always fits. */
  record(entry: RecordInput, arrival: number, logged?: boolean): Refusal | undefined;
  track(call: TrackInput, arrival: number, logged?: boolean): Refusal | undefined;
  /** Takes the oldest groups, by default all: they are closed and never change again. */
  take(most?: number): Group[];
  readonly size: number;
  readonly bytes: number;
};

const SLOTS = 4096;
const GROUP_BYTES = 400;
const GOLDEN = 0x9e37_79b1;

/**
 * Sums entries that share merchant, 15-minute bucket, status and dimensions. A group that would exceed the limit of one
 * entry stays unchanged and a new one begins, so sums need no more than a double's whole numbers.
 */
export function createMerger({ merge, scaleOf, newId, admit, log }: MergerOptions): Merger {
  // The map is exact; the slots before it avoid building its key for recently used groups.
  const groups = new Map<string, Group>();
  const slots: (Group | undefined)[] = new Array(SLOTS).fill(undefined);
  const counterSlots: (Group | undefined)[] = new Array(SLOTS).fill(undefined);
  let opened: Group[] = [];
  let bytes = 0;
  const units: number[] = new Array(MAX_METRICS).fill(0);
  const places: number[] = new Array(MAX_METRICS).fill(0);
  const newTypes: string[] = [];

  function open(group: Group): Group {
    opened.push(group);
    bytes += group.bytes;
    if (group.key !== '') groups.set(group.key, group);
    return group;
  }

  /** Parses amounts into `units` and `places`. Returns their number, -1 if they exceed a limit, or a refusal. */
  function readAmounts(metrics: RecordInput['metrics'], group: Group | undefined, calls: number): number | Refusal {
    let read = 0;
    let fits = group === undefined || group.calls + calls <= MAX_UNITS;
    if (newTypes.length > 0) newTypes.length = 0;
    for (const type in metrics) {
      const value = metrics[type];
      if (value === undefined) continue;
      if (read === MAX_METRICS)
        return refusal('INVALID_ENTRY', `metrics: Expected at most ${MAX_METRICS} metric types`);
      let place = read;
      if (group === undefined || group.types[place] !== type) {
        place = group === undefined ? -1 : group.types.indexOf(type);
        if (place < 0) {
          const bad = checkMetricType(type);
          if (bad) return bad;
          place = (group?.types.length ?? 0) + newTypes.length;
          newTypes.push(type);
        }
      }
      const scale = group?.scales[place] ?? scaleOf(type);
      const amount = unitsOf(type, value, scale);
      if (amount < 0) return refuseAmount(`metrics.${type}`, type, value, scale);
      if (group !== undefined && place < group.sums.length && group.sums[place]! + amount > MAX_UNITS) fits = false;
      units[read] = amount;
      places[read] = place;
      read++;
    }
    if (group !== undefined && group.types.length + newTypes.length > MAX_METRICS) fits = false;
    return fits ? read : -1;
  }

  function record(entry: RecordInput, arrival: number, logged = false): Refusal | undefined {
    if (typeof entry !== 'object' || entry === null) return refusal('INVALID_ENTRY', 'Expected an object');
    let time = arrival;
    if (entry.time !== undefined) {
      time = timeOf(entry.time);
      if (Number.isNaN(time)) {
        return refusal('INVALID_ENTRY', 'time: Expected ISO 8601 with its zone, or milliseconds since 1970');
      }
    }
    let calls = 1;
    if (entry.count !== undefined) {
      calls = entry.count;
      if (!Number.isInteger(calls) || calls < 1 || calls > MAX_UNITS) {
        return refusal('INVALID_ENTRY', 'count: Expected a whole number from 1 to 10^15');
      }
    }
    const failed = entry.status === 'failure';
    if (!failed && entry.status !== undefined && entry.status !== 'success') {
      return refusal('INVALID_ENTRY', 'status: Expected success or failure');
    }
    const bucket = Math.floor(time / QUARTER_HOUR_MS);
    const mergeable = merge && entry.id === undefined;
    let slot = -1;
    let group: Group | undefined;
    if (mergeable && entry.properties === undefined) {
      slot = slotOf(entry.merchantId, entry.userId, entry.apiKey, entry.model);
      group = slots[slot];
      if (group !== undefined && !isOf(group, entry, bucket, failed)) group = undefined;
    }
    let key = '';
    if (group === undefined) {
      const bad = checkNames(entry);
      if (bad) return bad;
      if (mergeable) {
        key = keyOf(entry, bucket, failed);
        group = groups.get(key);
      }
    } else if (typeof entry.metrics !== 'object' || entry.metrics === null) {
      return refusal('INVALID_ENTRY', 'metrics: Expected an object of amounts by metric type');
    }
    let read = readAmounts(entry.metrics, group, calls);
    if (read === -1) {
      key = group!.key;
      group = undefined;
      read = readAmounts(entry.metrics, undefined, calls);
    }
    if (typeof read !== 'number') return read;

    if (group === undefined) {
      const id = entry.id ?? newId();
      const size = sizeOf(entry);
      const refused = logged ? undefined : (admit(size) ?? log?.('record', entry, time, mergeable ? undefined : id));
      if (refused) return refused;
      group = open({
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
        failed,
        properties: entry.properties === undefined ? undefined : { ...entry.properties },
        bytes: size,
        types: [],
        scales: [],
        sums: [],
        calls: 0,
        records: 0,
        open: true,
      });
    } else if (log !== undefined && !logged) {
      const refused = log('record', entry, time, undefined);
      if (refused) return refused;
    }
    if (slot >= 0) slots[slot] = group;
    for (let at = 0; at < newTypes.length; at++) {
      group.types.push(newTypes[at]!);
      group.scales.push(scaleOf(newTypes[at]!));
      group.sums.push(0);
    }
    for (let at = 0; at < read; at++) group.sums[places[at]!]! += units[at]!;
    group.calls += calls;
    group.records++;
    return undefined;
  }

  function track(call: TrackInput, arrival: number, logged = false): Refusal | undefined {
    if (typeof call !== 'object' || call === null) return refusal('INVALID_ENTRY', 'Expected an object');
    let time = arrival;
    if (call.time !== undefined) {
      time = timeOf(call.time);
      if (Number.isNaN(time)) {
        return refusal('INVALID_ENTRY', 'time: Expected ISO 8601 with its zone, or milliseconds since 1970');
      }
    }
    const scale = scaleOf(call.metricType);
    const amount = call.by === undefined ? unitsOfOne(scale) : unitsOf(call.metricType, call.by, scale);
    if (amount < 0) return refuseAmount('by', call.metricType, call.by, scale);
    const bucket = Math.floor(time / QUARTER_HOUR_MS);
    const mergeable = merge && call.id === undefined;
    let slot = -1;
    let group: Group | undefined;
    if (mergeable) {
      slot = slotOf(call.merchantId, call.metricType, undefined, undefined);
      group = counterSlots[slot];
      if (
        group !== undefined &&
        !(
          group.open &&
          group.bucket === bucket &&
          group.types[0] === call.metricType &&
          group.merchantId === call.merchantId
        )
      ) {
        group = undefined;
      }
    }
    let key = '';
    if (group === undefined) {
      const bad = checkCounter(call);
      if (bad) return bad;
      if (mergeable) {
        key = `#${bucket} ${call.merchantId} ${call.metricType}`;
        group = groups.get(key);
      }
    }
    if (amount === 0) return undefined;
    if (group !== undefined && group.sums[0]! + amount > MAX_UNITS) {
      key = group.key;
      group = undefined;
    }
    if (group === undefined) {
      const id = call.id ?? newId();
      const refused = logged
        ? undefined
        : (admit(GROUP_BYTES) ?? log?.('track', call, time, mergeable ? undefined : id));
      if (refused) return refused;
      group = open({
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
      });
    } else if (log !== undefined && !logged) {
      const refused = log('track', call, time, undefined);
      if (refused) return refused;
    }
    if (slot >= 0) counterSlots[slot] = group;
    group.sums[0]! += amount;
    group.calls++;
    group.records++;
    return undefined;
  }

  return {
    record,
    track,
    take(most = opened.length) {
      const taken = most >= opened.length ? opened : opened.slice(0, most);
      opened = taken === opened ? [] : opened.slice(most);
      if (opened.length === 0) groups.clear();
      for (const group of taken) {
        group.open = false;
        bytes -= group.bytes;
        if (opened.length > 0 && groups.get(group.key) === group) groups.delete(group.key);
      }
      return taken;
    },
    get size() {
      return opened.length;
    },
    get bytes() {
      return bytes;
    },
  };
}

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

function isOf(group: Group, entry: RecordInput, bucket: number, failed: boolean): boolean {
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

/** Unambiguous for any names, since each is preceded by its length. */
function keyOf(entry: RecordInput, bucket: number, failed: boolean): string {
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

/** Tally treats absent, empty and `unknown` alike. */
const known = (dimension: string | undefined): string =>
  dimension === undefined || dimension === 'unknown' ? '' : dimension;

function slotOf(a: string, b: string | undefined, c: string | undefined, d: string | undefined): number {
  let hash = mix(0, a);
  if (b !== undefined) hash = mix(hash, b);
  if (c !== undefined) hash = mix(hash, c);
  if (d !== undefined) hash = mix(hash, d);
  return (hash ^ (hash >>> 15)) & (SLOTS - 1);
}

/** Names mostly differ at their ends; collisions here only take the longer path. */
function mix(hash: number, text: string): number {
  const end = text.length - 1;
  if (end < 2) return end < 0 ? hash : Math.imul(hash ^ (text.charCodeAt(0) + (text.charCodeAt(end) << 8)), GOLDEN) | 0;
  const sample =
    text.charCodeAt(end) + (text.charCodeAt(end - 1) << 7) + (text.charCodeAt(end - 2) << 14) + (end << 21);
  return Math.imul(hash ^ sample, GOLDEN) | 0;
}

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
