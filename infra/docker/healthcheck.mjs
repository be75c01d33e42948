import { readFileSync } from 'node:fs';

// Exits with 0 while the program of this container (process 1) answers `/livez`, or if that is a job without a port.
const PORTS = { console: 4000, 'usage-ingest': 4001, 'metrics-engine': 4002, 'analytics-api': 4003 };

const command = readFileSync('/proc/1/cmdline', 'utf8');
const service = Object.keys(PORTS).find((name) => command.includes(`apps/${name}/dist/main.js`));
if (service) {
  const port = process.env.PORT ?? PORTS[service];
  const { ok } = await fetch(`http://127.0.0.1:${port}/livez`).catch(() => ({ ok: false }));
  process.exit(ok ? 0 : 1);
}
