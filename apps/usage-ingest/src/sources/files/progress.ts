import { Presets, SingleBar } from 'cli-progress';

export type Progress = { advance(by: number): void; stop(): void };

/** A bar on a terminal; a line every few seconds elsewhere. */
export function progressBar(what: string, total: number): Progress {
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
  return {
    advance(by) {
      done += by;
      if (done > bar.getTotal()) bar.setTotal(done);
      bar.update(done);
    },
    stop() {
      bar.setTotal(Math.max(done, 1));
      bar.update(done);
      bar.stop();
    },
  };
}
