/**
 * Every Redis key of realtime metrics. The braces are literal: the Cluster hash tag that keeps a merchant's keys in one
 * slot. The platform's own metrics have the tag `*`, which no merchant has: `%`, `*`, braces and white space of a
 * merchant id are percent-encoded.
 */
const of = (merchantId: string | null) => `metrics:realtime:{${merchantId === null ? '*' : encode(merchantId)}}`;

const encode = (merchantId: string) =>
  merchantId.replace(/[%*{}\s]/gu, (special) => (special === '*' ? '%2A' : encodeURIComponent(special)));

/** Hash: name → type. */
export const namesKey = (merchantId: string | null) => `${of(merchantId)}:names`;

/** Hash: labels → `{ at, window?, unit? }`. */
export const seriesKey = (merchantId: string | null, name: string) => `${of(merchantId)}:series:${name}`;

/** Hash: the value of a counter or a gauge, or one slice of a window. */
export const valueKey = (merchantId: string | null, name: string, labels: string, slice?: number) =>
  `${of(merchantId)}:value:${name}:${labels}${slice === undefined ? '' : `:${slice}`}`;

/** Sorted set: merchants with realtime metrics ('' is the platform) → when they last registered. */
export const OWNERS = 'metrics:realtime:owners';

/** Hash: `run`, the server process that has lost nothing of the merchant; `epoch`, the number of its newest copy. */
export const markerKey = (merchantId: string | null) => `${of(merchantId)}:kept`;
