import { appendFileSync, readFileSync } from 'node:fs';

// Loaded into a service (`node --import`): writes a line `<time> <ms>` to STALL_FILE for each time the main thread
// blocked its event loop for long. Counts time on a core, not on the clock, so other processes on the same cores do not
// count.
const TICK_MS = 5;
const STALL_MS = 10;
const file = process.env.STALL_FILE;

const onCore = () => Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'latin1').split(' ')[0]) / 1e6;

let last = onCore();
setInterval(() => {
  const now = onCore();
  if (now - last > STALL_MS) appendFileSync(file, `${Date.now()} ${Math.round(now - last)}\n`);
  last = now;
}, TICK_MS).unref();
