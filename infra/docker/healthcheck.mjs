import { readFileSync } from 'node:fs';

// Exits with 0 while the program of this container (process 1) answers `/livez`, or if that is a job without a port.
const PORTS = {
  'console/dist/main.js': 4000,
  'usage-ingest/dist/main.js': 4001,
  'metrics-engine/dist/main.js': 4002,
  'analytics-api/dist/main.js': 4003,
  'usage-ingest/dist/flusher.js': 4004,
};

const command = readFileSync('/proc/1/cmdline', 'utf8');
const program = Object.keys(PORTS).find((path) => command.includes(`apps/${path}`));
if (program) {
  const port = process.env.PORT ?? PORTS[program];
  const { ok } = await fetch(`http://127.0.0.1:${port}/livez`).catch(() => ({ ok: false }));
  process.exit(ok ? 0 : 1);
}
