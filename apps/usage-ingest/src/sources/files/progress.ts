import { Presets, SingleBar } from 'cli-progress';

/**
 * Runs work and shows how far it is: a bar on a terminal, a line every few seconds elsewhere. It ends with the work, at
 * 100 % unless the work throws.
 */
export async function withProgress<T>(
  what: string,
  total: number,
  work: (advance: (by: number) => void) => Promise<T>,
): Promise<T> {
  const bar = new SingleBar(
    {
      format: `{bar} {percentage}% | {value}/{total} ${what} | {duration_formatted}`,
      noTTYOutput: true,
      notTTYSchedule: 5_000,
      hideCursor: true,
    },
    Presets.shades_classic,
  );
  let done = 0;
  bar.start(total, 0);
  try {
    const result = await work((by) => {
      done += by;
      if (done > bar.getTotal()) bar.setTotal(done);
      bar.update(done);
    });
    bar.setTotal(Math.max(done, 1));
    return result;
  } finally {
    bar.update(done);
    // Its timer would keep the process.
    bar.stop();
  }
}
