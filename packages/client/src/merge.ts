import {
  checkCounter,
  checkMetricType,
  checkNames,
  MAX_METRICS,
  MAX_UNITS,
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
import { counterGroupOf, counterKeyOf, type Group, groupOf, isOf, isOfCounter, type Kind, keyOf } from './group.ts';

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
const GOLDEN = 0x9e37_79b1;
const NOT_AN_OBJECT = refusal('INVALID_ENTRY', 'Expected an object');
const NOT_A_TIME = refusal('INVALID_ENTRY', 'time: Expected ISO 8601 with its zone, or milliseconds since 1970');

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

  /** Opens a group for its first record, unless there is no room for it. `logged`: there always is. */
  function open(group: Group, input: RecordInput | TrackInput, logged: boolean): Refusal | undefined {
    const ownId = group.key === '' ? group.id : undefined;
    const refused = logged ? undefined : (admit(group.bytes) ?? log?.(group.kind, input, group.time, ownId));
    if (refused) return refused;
    opened.push(group);
    bytes += group.bytes;
    if (group.key !== '') groups.set(group.key, group);
    return undefined;
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
    if (typeof entry !== 'object' || entry === null) return NOT_AN_OBJECT;
    const time = entry.time === undefined ? arrival : timeOf(entry.time);
    if (Number.isNaN(time)) return NOT_A_TIME;
    const calls = entry.count === undefined ? 1 : entry.count;
    if (!Number.isInteger(calls) || calls < 1 || calls > MAX_UNITS) {
      return refusal('INVALID_ENTRY', 'count: Expected a whole number from 1 to 10^15');
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

    let refused: Refusal | undefined;
    if (group === undefined) {
      group = groupOf(entry, { time, bucket }, entry.id ?? newId(), key);
      refused = open(group, entry, logged);
    } else if (log !== undefined && !logged) refused = log('record', entry, time, undefined);
    if (refused) return refused;
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
    if (typeof call !== 'object' || call === null) return NOT_AN_OBJECT;
    const time = call.time === undefined ? arrival : timeOf(call.time);
    if (Number.isNaN(time)) return NOT_A_TIME;
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
      if (group !== undefined && !isOfCounter(group, call, bucket)) group = undefined;
    }
    let key = '';
    if (group === undefined) {
      const bad = checkCounter(call);
      if (bad) return bad;
      if (mergeable) {
        key = counterKeyOf(call, bucket);
        group = groups.get(key);
      }
    }
    if (amount === 0) return undefined;
    if (group !== undefined && group.sums[0]! + amount > MAX_UNITS) {
      key = group.key;
      group = undefined;
    }
    let refused: Refusal | undefined;
    if (group === undefined) {
      group = counterGroupOf(call, { time, bucket }, call.id ?? newId(), key, scale);
      refused = open(group, call, logged);
    } else if (log !== undefined && !logged) refused = log('track', call, time, undefined);
    if (refused) return refused;
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
