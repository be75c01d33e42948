import { type Day, HOUR_MS, type Meter, startOfDay } from '@tally/contracts';
import { type Cell, type Comparison, type Decimal, decimal, decimalText, type Foreign } from './foreign.ts';
import type { OurEvent, Ours } from './ours.ts';

export type Difference = {
  measure: string;
  date: Day;
  group: readonly string[];
  theirs: string;
  ours: string;
  /** The reason, if one was found. */
  cause: string;
  /** One line per differing event. */
  events: string[];
};

export type Result = {
  /** Sums that are equal, and those that differ only by rounding. */
  equal: number;
  rounded: number;
  differences: Difference[];
  /** False if Tally had not counted everything yet. */
  complete: boolean;
};

const ZERO: Decimal = { nanos: 0n, text: '0', exact: true };
/** Hours that a zone may be from UTC, the nearest first. */
const OFFSETS = Array.from({ length: 27 }, (_, at) => at - 12).sort((a, b) => Math.abs(a) - Math.abs(b));
const DAY_HOURS = 24;

/** Compares every sum of a product with ours, and looks for the reason of each difference. */
export async function compare(foreign: Foreign, ours: Ours, comparison: Comparison): Promise<Result> {
  const { merchants, by } = comparison;
  const isAsked = ({ group }: Cell) => by[0] !== 'merchant' || merchants.length === 0 || merchants.includes(group[0]!);
  const theirs = (await foreign.sums()).filter(isAsked);
  const result: Result = { equal: 0, rounded: 0, differences: [], complete: true };
  const rejections = await ours.rejections();
  for (const measure of foreign.measures) {
    const meter = await ours.meter(measure);
    const { cells, complete } = await ours.sums(measure);
    if (!complete) result.complete = false;
    const theirCells = new Map(theirs.filter((cell) => cell.measure === measure).map((cell) => [keyOf(cell), cell]));
    const ourCells = new Map(cells.map((cell) => [keyOf(cell), cell]));
    const zones = new Map<string, Promise<string | undefined>>();
    for (const key of [...new Set([...theirCells.keys(), ...ourCells.keys()])].sort()) {
      const [date, group] = JSON.parse(key) as [Day, string[]];
      const [their, our] = [theirCells.get(key), ourCells.get(key)];
      const verdict = verdictOf(their, our, meter.scale);
      if (verdict !== 'different') {
        result[verdict]++;
        continue;
      }
      const name = JSON.stringify(group);
      if (!zones.has(name))
        zones.set(name, zoneOf({ measure, group, theirCells, ours, comparison, scale: meter.scale }));
      const zone = await zones.get(name);
      const found = zone
        ? { cause: `day boundaries: their days are those of ${zone}; by these the sums agree`, events: [] }
        : await causeOf({ foreign, ours, meter, date, group, their, our, rejections });
      const [theirText, ourText] = [their?.value.text ?? '0', our?.value.text ?? '0'];
      result.differences.push({ measure, date, group, theirs: theirText, ours: ourText, ...found });
    }
  }
  return result;
}

const keyOf = ({ date, group }: Cell): string => JSON.stringify([date, group]);

/** Products that add floats differ from exact sums by less than this share. */
const FLOAT_SHARE = 10n ** 12n;

function verdictOf(their: Cell | undefined, our: Cell | undefined, scale: number): 'equal' | 'rounded' | 'different' {
  const { value: theirs, events = 0n } = their ?? { value: ZERO };
  const difference = abs((our?.value ?? ZERO).nanos - theirs.nanos);
  if (difference === 0n && theirs.exact) return 'equal';
  const isFloat = isMorePrecise(theirs, scale);
  // Each amount is rounded separately here, so every event may add half a unit.
  if (2n * difference <= events || (isFloat && difference * FLOAT_SHARE <= abs(theirs.nanos)) || difference === 0n)
    return 'rounded';
  return 'different';
}

const abs = (value: bigint) => (value < 0n ? -value : value);

const isMorePrecise = ({ nanos, exact }: Decimal, scale: number) => !exact || nanos % 10n ** BigInt(9 - scale) !== 0n;

/** Returns the time zone in which our daily sums of a group equal theirs, on all days but the first and the last. */
async function zoneOf(about: {
  measure: string;
  group: string[];
  theirCells: ReadonlyMap<string, Cell>;
  ours: Ours;
  comparison: Comparison;
  scale: number;
}): Promise<string | undefined> {
  const { days } = about.comparison;
  const inner = days.length > 2 ? days.slice(1, -1) : days;
  const theirs = new Map(inner.map((date) => [date, about.theirCells.get(JSON.stringify([date, about.group]))]));
  if ([...theirs.values()].every((cell) => cell === undefined)) return undefined;
  const hours = await about.ours.hours(about.measure, about.group);
  const isZone = (offset: number) =>
    inner.every((date) => {
      let nanos = 0n;
      for (let hour = 0; hour < DAY_HOURS; hour++)
        nanos += hours.get(startOfDay(date) + (hour - offset) * HOUR_MS) ?? 0n;
      const our = { measure: about.measure, date, group: about.group, value: { nanos, text: '', exact: true } };
      return verdictOf(theirs.get(date), our, about.scale) !== 'different';
    });
  // If UTC fits on the inner days, the difference comes from events at the edges, not from days.
  if (isZone(0)) return undefined;
  const offset = OFFSETS.find(isZone);
  if (offset === undefined) return undefined;
  return `UTC${offset < 0 ? '-' : '+'}${String(Math.abs(offset)).padStart(2, '0')}:00`;
}

async function causeOf(about: {
  foreign: Foreign;
  ours: Ours;
  meter: Meter;
  date: Day;
  group: readonly string[];
  their: Cell | undefined;
  our: Cell | undefined;
  rejections: ReadonlyMap<string, string>;
}): Promise<{ cause: string; events: string[] }> {
  const { foreign, ours, meter, date, group, their, our, rejections } = about;
  if (foreign.events) {
    const [listed, known] = await Promise.all([
      foreign.events(group, date, meter.key),
      ours.events(meter, group, date),
    ]);
    const events = differingEvents(listed, known, { date, group, rejections });
    if (events.length > 0)
      return { cause: `${events.length} ${events.length === 1 ? 'event differs' : 'events differ'}`, events };
    const cause = `late events: both have the same ${listed.length} events; ${foreign.name}'s sum may not have all of them yet`;
    return { cause, events: [] };
  }
  if (their && isMorePrecise(their.value, meter.scale))
    return { cause: `scale: ${foreign.name} has decimals beyond the ${meter.scale} of our meter`, events: [] };
  const silent = `${foreign.name} lists no events, so it is not known which; see sources.rejections`;
  if (!our) return { cause: `missing here: ${silent}`, events: [] };
  if (!their) return { cause: `missing there, or late there: ${silent}`, events: [] };
  return { cause: `not known: ${silent}`, events: [] };
}

/** Returns one line per event that only one side has, or has on another day or with another amount. */
function differingEvents(
  listed: readonly { ids: readonly string[]; at: number; arrived?: number; value: string }[],
  known: readonly OurEvent[],
  { date, group, rejections }: { date: Day; group: readonly string[]; rejections: ReadonlyMap<string, string> },
): string[] {
  const lines: string[] = [];
  const byId = new Map(known.map((event) => [event.id, event]));
  const seen = new Set<string>();
  for (const { ids, at, arrived, value } of listed) {
    for (const id of ids) seen.add(id);
    const our = ids.map((id) => byId.get(id)).find((event) => event !== undefined);
    const name = `${ids[0]} at ${new Date(at).toISOString()}, ${value}`;
    if (our === undefined) {
      const rejected = ids.map((id) => rejections.get(id)).find((reason) => reason !== undefined);
      const days = arrived === undefined ? 0 : Math.floor((arrived - at) / (DAY_HOURS * HOUR_MS));
      const late = days > 0 ? `; late: it came ${days} days after its time` : '';
      lines.push(`missing here: ${name}${rejected ? `; rejected: ${rejected}` : late}`);
    } else if (our.date !== date) lines.push(`counted here on ${our.date}: ${name}`);
    else if (our.group.join('\n') !== group.join('\n')) lines.push(`counted here for ${our.group.join(', ')}: ${name}`);
    else if (!isSame(our.value, value)) lines.push(`amounts differ: ${name} there, ${our.value ?? 'none'} here`);
  }
  for (const { id, date: day, group: of, value } of known)
    if (day === date && value !== undefined && !seen.has(id) && of.join('\n') === group.join('\n'))
      lines.push(`missing there: ${id}, ${value}`);
  return lines;
}

const isSame = (ours: string | undefined, theirs: string): boolean =>
  decimal(ours ?? '0').nanos === decimal(theirs).nanos;

const SHOWN = 20;

/** Prints a result for people. */
export function printResult(foreign: Foreign, comparison: Comparison, result: Result): string {
  const { equal, rounded, differences, complete } = result;
  const lines = [
    `${foreign.name} and Tally, ${comparison.startDate} to ${comparison.endDate}, by day and ${comparison.by.join(', ')}`,
    `${equal + rounded} of ${equal + rounded + differences.length} sums agree${rounded > 0 ? `, ${rounded} of them within rounding` : ''}.`,
  ];
  if (!complete) lines.push('Tally had not counted everything when it answered; run this again.');
  for (const { measure, date, group, theirs, ours, cause, events } of differences) {
    const more = decimalText(decimal(ours).nanos - decimal(theirs).nanos);
    lines.push('', `${date}  ${measure}  ${group.join(', ')}: theirs ${theirs}, ours ${ours} (${more})`, `  ${cause}`);
    for (const event of events.slice(0, SHOWN)) lines.push(`  ${event}`);
    if (events.length > SHOWN) lines.push(`  and ${events.length - SHOWN} more`);
  }
  return lines.join('\n');
}
