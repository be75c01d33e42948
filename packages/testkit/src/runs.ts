/**
 * Returns how often a random test runs whose runs take long: `short` times in `npm test`, `long` times in
 * `npm run matrix`, which sets `FC_LONG`. `FC_RUNS` sets any number.
 */
export function runsOf({ short, long }: { short: number; long: number }): number {
  return Number(process.env.FC_RUNS ?? (process.env.FC_LONG ? long : short));
}
