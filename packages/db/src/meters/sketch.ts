/**
 * DDSketch: values fall into buckets whose bounds grow by a constant factor, so that a quantile is within
 * RELATIVE_ERROR of the value at its rank, and sketches merge by adding their counts.
 */
export const RELATIVE_ERROR = 0.01;

const GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR);
export const LOG_GAMMA = Math.log(GAMMA);

/** Returns the bucket of a value: `z` for 0, `p…` above, `m…` below. */
export function bucketOf(value: number): string {
  if (value === 0) return 'z';
  return `${value > 0 ? 'p' : 'm'}${Math.ceil(Math.log(Math.abs(value)) / LOG_GAMMA)}`;
}

/** Returns the representative value of a bucket; undefined for a name that is no bucket. */
export function middleOf(bucket: string): number | undefined {
  if (bucket === 'z') return 0;
  if (!/^[pm]-?\d+$/.test(bucket)) return undefined;
  const size = (2 * GAMMA ** Number(bucket.slice(1))) / (GAMMA + 1);
  return bucket[0] === 'p' ? size : -size;
}

/** Returns the values at quantiles (0 to 1) of merged buckets; the rank is floor(q · (n − 1)), from 0. */
export function quantilesOf(buckets: ReadonlyMap<string, bigint>, quantiles: readonly number[]): number[] {
  const sorted = [...buckets]
    .flatMap(([bucket, count]) => {
      const value = middleOf(bucket);
      return value === undefined ? [] : [{ value, count }];
    })
    .sort((a, b) => a.value - b.value);
  const total = sorted.reduce((sum, { count }) => sum + count, 0n);
  return quantiles.map((quantile) => {
    // Per mille of whole numbers: counts may exceed what a double holds.
    const rank = (BigInt(Math.round(quantile * 1000)) * (total - 1n)) / 1000n;
    let below = 0n;
    for (const { value, count } of sorted) {
      below += count;
      if (below > rank) return value;
    }
    return 0;
  });
}
