/** Stacks series: adds to each the sum of those before it with its sign, so that what was taken back stands below zero. */
export function pile(series: readonly (readonly (number | null)[])[]): number[][] {
  const [above, below]: [number[], number[]] = [[], []];
  return series.map((values) =>
    values.map((value, index) => {
      const sums = (value ?? 0) < 0 ? below : above;
      sums[index] = (sums[index] ?? 0) + (value ?? 0);
      return sums[index];
    }),
  );
}
