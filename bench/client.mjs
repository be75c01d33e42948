// The recording client beside the plain ways, in one run: `node bench/client.mjs` after a build.
import { fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTally } from '../packages/client/dist/index.js';
import { createSpool } from '../packages/client/dist/spool/index.js';

const QUARTER_HOUR_MS = 900_000;

/** Answers like Tally and stores nothing: only the producer's side is measured. */
function serve() {
  createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(answerTo(request.url, body)));
    });
  }).listen(0, '127.0.0.1', function () {
    process.send(this.address().port);
  });
}

function answerTo(url, body) {
  const input = JSON.parse(body);
  if (url.includes('usage.track')) return Object.values(input).map(() => ({ result: { data: { total: '1' } } }));
  return { result: { data: { accepted: input.entries.length, duplicates: 0, rejected: [] } } };
}

const answering = async (url, { body }) => Response.json(answerTo(String(url), body));
const open = (options = {}) =>
  createTally({ url: 'http://127.0.0.1:1', key: 'k', hooks: false, fetch: answering, onError: () => {}, ...options });

/** A gateway's calls: 1 model, or 50 models and 200 users. */
function calls(kind, count) {
  const models = kind === 'same' ? 1 : 50;
  const users = kind === 'same' ? 1 : 200;
  return Array.from({ length: count }, (_, at) => ({
    merchantId: 'acme',
    userId: `user-${(at * 7919) % users}`,
    apiKey: 'key-1',
    model: `model-${(at * 31) % models}`,
    provider: 'openai',
    metrics: { prompt_tokens: 300 + (at % 100), completion_tokens: 40 + (at % 10), cost: `0.00${1000 + (at % 9000)}` },
  }));
}

function percentiles(samples) {
  samples.sort();
  const at = (share) => Number((samples[Math.floor(samples.length * share)] * 1000).toFixed(2));
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999) };
}

/** Microseconds of each call, including the clock, with a turn of the event loop after every thousand. */
async function latency(inputs, call) {
  const samples = new Float64Array(inputs.length);
  for (let at = 0; at < inputs.length; at++) {
    const from = performance.now();
    call(inputs[at]);
    samples[at] = performance.now() - from;
    if (at % 1000 === 999) await new Promise(setImmediate);
  }
  return percentiles(samples);
}

/** Records per second: the median of five rounds. */
function rate(inputs, run) {
  const rates = [];
  for (let round = 0; round < 5; round++) {
    const from = performance.now();
    run(inputs);
    rates.push(inputs.length / ((performance.now() - from) / 1000));
  }
  return Math.round(rates.sort((a, b) => a - b)[2]);
}

/** The plain loop: a key from a template, a look-up, additions; floats, and nothing checked. */
function plainLoop(inputs) {
  const sums = new Map();
  for (const { merchantId, userId, apiKey, model, provider, metrics } of inputs) {
    const bucket = Math.floor(Date.now() / QUARTER_HOUR_MS);
    const key = `${bucket}|${merchantId}|${userId}|${apiKey}|${model}|${provider}`;
    let sum = sums.get(key);
    if (!sum) {
      sum = { count: 0, prompt: 0, completion: 0, cost: 0 };
      sums.set(key, sum);
    }
    sum.count++;
    sum.prompt += metrics.prompt_tokens;
    sum.completion += metrics.completion_tokens;
    sum.cost += Number(metrics.cost);
  }
  return sums;
}

/** The same with money that is exact. */
function plainExactLoop(inputs) {
  const sums = new Map();
  for (const { merchantId, userId, apiKey, model, provider, metrics } of inputs) {
    const bucket = Math.floor(Date.now() / QUARTER_HOUR_MS);
    const key = `${bucket}|${merchantId}|${userId}|${apiKey}|${model}|${provider}`;
    let sum = sums.get(key);
    if (!sum) {
      sum = { count: 0, prompt: 0n, completion: 0n, cost: 0n };
      sums.set(key, sum);
    }
    const [whole, fraction = ''] = metrics.cost.split('.');
    sum.count++;
    sum.prompt += BigInt(metrics.prompt_tokens);
    sum.completion += BigInt(metrics.completion_tokens);
    sum.cost += BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'));
  }
  return sums;
}

async function sending(kind, count) {
  const tally = open();
  for (const call of calls(kind, count)) tally.record(call);
  await tally.flush();
  const { requests, bytesSent, sentEntries, sent } = tally.stats();
  await tally.close();
  if (sent !== count) throw new Error(`${sent} of ${count} records were sent`);
  const single = open({ merge: false, maxBatch: 1, concurrency: 64 });
  const some = Math.min(count, 1000);
  for (const call of calls(kind, some)) single.record(call);
  await single.flush();
  const one = single.stats();
  await single.close();
  const singleBytes = Math.round((one.bytesSent / some) * count);
  return { kind, records: count, requests, entries: sentEntries, bytes: bytesSent, singleRequests: count, singleBytes };
}

async function oneCallPerRecord() {
  const child = fork(new URL(import.meta.url), ['server']);
  const port = await new Promise((resolve) => child.once('message', resolve));
  const inputs = calls('mixed', 3000);
  const samples = new Float64Array(inputs.length);
  const from = performance.now();
  let next = 0;
  const lane = async () => {
    while (next < inputs.length) {
      const at = next++;
      const begun = performance.now();
      const body = JSON.stringify({ entries: [{ id: `id-${at}`, time: new Date().toISOString(), ...inputs[at] }] });
      const response = await fetch(`http://127.0.0.1:${port}/trpc/usage.record`, { method: 'POST', body });
      await response.json();
      samples[at] = performance.now() - begun;
    }
  };
  await Promise.all(Array.from({ length: 16 }, lane));
  const perSecond = Math.round(inputs.length / ((performance.now() - from) / 1000));
  child.kill();
  return { microseconds: percentiles(samples), perSecond };
}

/** Five million records while no server answers: the memory of the client (with --expose-gc). */
async function whileAway(inputs) {
  const heap = async () => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    globalThis.gc?.();
    return process.memoryUsage().heapUsed / 2 ** 20;
  };
  let away = open({ fetch: () => Promise.reject(new Error('away')), onRejected: () => {} });
  for (let round = 0; round < 10; round++) {
    for (const call of inputs) away.record(call);
    await new Promise(setImmediate);
  }
  const held = await heap();
  const { recorded, queued } = away.stats();
  await away.close({ deadlineMs: 0 });
  away = undefined;
  return { records: recorded, queued, heldMiB: Number((held - (await heap())).toFixed(1)) };
}

async function main() {
  const inputs = { same: calls('same', 500_000), mixed: calls('mixed', 500_000) };
  const counters = Array.from({ length: 500_000 }, (_, at) => ({ merchantId: `m${at % 100}`, metricType: 'queries' }));
  const result = { node: process.version, cpu: cpus()[0].model, cores: cpus().length, loadBefore: loadavg()[0] };

  const array = [];
  const tally = open();
  for (const call of inputs.mixed.slice(0, 100_000)) tally.record(call);
  result.latency = {
    'array push': await latency(inputs.mixed, (call) => array.push(call)),
    'record(), same': await latency(inputs.same, tally.record),
    'record(), mixed': await latency(inputs.mixed, tally.record),
    'track()': await latency(counters, tally.track),
  };
  array.length = 0;
  await tally.close();
  const directory = mkdtempSync(join(tmpdir(), 'tally-bench-'));
  for (const promise of ['overflow', 'batch', 'record']) {
    const spooled = open({ spool: createSpool({ directory: join(directory, promise), promise }) });
    const some = inputs.mixed.slice(0, 100_000);
    result.latency[`record(), mixed, spool: ${promise}`] = await latency(some, spooled.record);
    await spooled.close();
  }
  rmSync(directory, { recursive: true });

  const busy = open();
  const recordAll = (all) => {
    for (const call of all) busy.record(call);
  };
  result.perSecond = {};
  for (const kind of ['same', 'mixed']) {
    const plain = rate(inputs[kind], plainLoop);
    const exact = rate(inputs[kind], plainExactLoop);
    const record = rate(inputs[kind], recordAll);
    result.perSecond[kind] = { plain, exact, record, overPlain: record / plain, overExact: record / exact };
    await busy.flush();
  }
  result.perSecond.track = rate(counters, (all) => {
    for (const call of all) busy.track(call);
  });
  result.perSecond.arrayPush = rate(inputs.mixed, (all) => {
    const copy = [];
    for (const call of all) copy.push(call);
  });
  await busy.close();

  result.away = await whileAway(inputs.mixed);
  result.oneCallPerRecord = await oneCallPerRecord();
  result.sending = [];
  for (const count of [20, 100, 100_000]) {
    for (const kind of ['same', 'mixed']) result.sending.push(await sending(kind, count));
  }
  result.loadAfter = loadavg()[0];

  console.table(result.latency);
  console.table(result.perSecond);
  console.table(result.sending);
  console.log(result.away, result.oneCallPerRecord);
  mkdirSync(new URL('results/', import.meta.url), { recursive: true });
  writeFileSync(new URL('results/client.json', import.meta.url), `${JSON.stringify(result, null, 2)}\n`);
}

if (process.argv[2] === 'server') serve();
else await main();
