/** Days are UTC days as text, `YYYY-MM-DD`; they compare as text. */
export type Range = { startDate: string; endDate: string };

const DAY_MS = 86_400_000;

export const today = (): string => new Date().toISOString().slice(0, 10);
export const startOf = (day: string): number => Date.parse(`${day}T00:00:00Z`);
export const addDays = (day: string, count: number): string =>
  new Date(startOf(day) + count * DAY_MS).toISOString().slice(0, 10);
export const countDays = ({ startDate, endDate }: Range): number =>
  Math.round((startOf(endDate) - startOf(startDate)) / DAY_MS) + 1;
export const isDay = (text: unknown): text is string =>
  typeof text === 'string' && /^[1-9]\d{3}-\d{2}-\d{2}$/.test(text) && new Date(text).toString() !== 'Invalid Date';

/** A month is `YYYY-MM`. */
export const monthOf = (day: string): string => day.slice(0, 7);
export const isMonth = (text: unknown): text is string =>
  typeof text === 'string' && /^[1-9]\d{3}-(0[1-9]|1[0-2])$/.test(text);
export function addMonths(month: string, count: number): string {
  const index = Number(month.slice(0, 4)) * 12 + Number(month.slice(5)) - 1 + count;
  return `${Math.floor(index / 12)}-${String((index % 12) + 1).padStart(2, '0')}`;
}
export const daysOfMonth = (month: string): Range => {
  const next = addMonths(month, 1);
  return { startDate: `${month}-01`, endDate: addDays(`${next}-01`, -1) };
};

/** Returns the same number of days just before. */
export function before(range: Range): Range {
  const days = countDays(range);
  return { startDate: addDays(range.startDate, -days), endDate: addDays(range.startDate, -1) };
}

export type Preset = { id: string; label: string; range: () => Range };

const last = (days: number): Range => ({ startDate: addDays(today(), 1 - days), endDate: today() });

export const PRESETS: readonly Preset[] = [
  { id: '7d', label: 'Last 7 days', range: () => last(7) },
  { id: '30d', label: 'Last 30 days', range: () => last(30) },
  { id: '90d', label: 'Last 90 days', range: () => last(90) },
  { id: 'month', label: 'This month', range: () => ({ startDate: `${monthOf(today())}-01`, endDate: today() }) },
  { id: 'last-month', label: 'Last month', range: () => daysOfMonth(addMonths(monthOf(today()), -1)) },
  { id: 'year', label: 'This year', range: () => ({ startDate: `${today().slice(0, 4)}-01-01`, endDate: today() }) },
  { id: '365d', label: 'Last 365 days', range: () => last(365) },
];

const formats = new Map<string, Intl.DateTimeFormat>();
function formatter(options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = JSON.stringify(options);
  let known = formats.get(key);
  if (!known) {
    known = new Intl.DateTimeFormat('en-GB', options);
    formats.set(key, known);
  }
  return known;
}

/** `25 Nov 2026`. */
export const dayText = (day: string, { year = true, weekday = false } = {}): string => {
  const options = { day: 'numeric', month: 'short', timeZone: 'UTC' } as const;
  const text = formatter({ ...options, ...(year && { year: 'numeric' }) }).format(startOf(day));
  return weekday ? `${formatter({ weekday: 'short', timeZone: 'UTC' }).format(startOf(day))}, ${text}` : text;
};

export const monthText = (month: string): string =>
  formatter({ month: 'long', year: 'numeric', timeZone: 'UTC' }).format(startOf(`${month}-01`));

export function rangeText({ startDate, endDate }: Range): string {
  if (startDate === endDate) return dayText(startDate);
  const year = startDate.slice(0, 4) !== endDate.slice(0, 4);
  return `${dayText(startDate, { year })} – ${dayText(endDate)}`;
}

/** A moment in the viewer's zone. */
export const timeText = (time: string, zone?: string): string =>
  formatter({ dateStyle: 'medium', timeStyle: 'medium', ...(zone && { timeZone: zone }) }).format(new Date(time));

export const clockText = (time: string): string => formatter({ timeStyle: 'medium' }).format(new Date(time));

/** `14:03:59`, with the day unless it is today. */
export function recentText(time: string): string {
  const at = new Date(time);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clockText(time) : `${formatter({ day: 'numeric', month: 'short' }).format(at)}, ${clockText(time)}`;
}

/** The start of a chart's period, as short as its interval allows. */
export function periodText(start: string, interval: string, timeZone: string): string {
  const at = new Date(start);
  if (interval === 'month') return formatter({ month: 'short', year: 'numeric', timeZone }).format(at);
  if (interval === 'day' || interval === 'week')
    return formatter({ weekday: 'short', day: 'numeric', month: 'short', timeZone }).format(at);
  return formatter({
    day: 'numeric',
    month: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hour12: false,
    timeZone,
  }).format(at);
}

/** Made once: making one takes longer than rendering a row. */
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** `3 min ago`. */
export function agoText(time: string, now = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - Date.parse(time)) / 1000));
  if (seconds < 60) return relative.format(-seconds, 'second');
  if (seconds < 3600) return relative.format(-Math.floor(seconds / 60), 'minute');
  if (seconds < 86_400) return relative.format(-Math.floor(seconds / 3600), 'hour');
  return relative.format(-Math.floor(seconds / 86_400), 'day');
}

export const viewerZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
