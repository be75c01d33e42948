import { messageOf } from '@tally/contracts';

// `npm run health`: checks both stores, as the services see them.
const services = {
  'usage-ingest': process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001',
  'metrics-engine': process.env.METRICS_ENGINE_URL ?? 'http://127.0.0.1:4002',
  'analytics-api': process.env.ANALYTICS_API_URL ?? 'http://127.0.0.1:4003',
};

for (const [name, url] of Object.entries(services)) {
  try {
    const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(5_000) });
    console.log(`${name.padEnd(15)} ${response.ok ? 'ready' : 'not ready'}  ${await response.text()}`);
    if (!response.ok) process.exitCode = 1;
  } catch (error) {
    console.log(`${name.padEnd(15)} unavailable  ${messageOf(error)}`);
    process.exitCode = 1;
  }
}
