import { SERVICES } from '@tally/contracts';
import { UNSTORABLE_TEXTS } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';
import { SOUND_BODIES } from './sound-bodies.ts';

/** The values put into every place of a valid body. */
const HOSTILE: readonly unknown[] = [
  ...UNSTORABLE_TEXTS,
  ...['', '\u00015', '__proto__', 'constructor', '%', '9'.repeat(40), '1e400', '-0', '(other)', 'é'],
  ...[null, true, -1, 1e21, 0.1, {}, [null], JSON.parse('{"__proto__":{"a":1}}')],
];
/** Values that a path or a form can have. */
const TEXTS = HOSTILE.filter((each) => typeof each === 'string').filter(
  (text) => text.length < 5_000 && isWellFormed(text),
);
const RAW = [
  '',
  'null',
  '7',
  '[]',
  '[null]',
  '{}',
  '{"a":',
  '\u0000',
  '[{"__proto__":null}]',
  '%',
  '=&=',
  'a[b][c]=d&a=b',
];
const TYPES = [
  'application/json',
  'application/cloudevents+json',
  'application/x-www-form-urlencoded',
  'application/x-protobuf',
  'text/plain',
  '',
];

const sourceEndpoints = SERVICES['usage-ingest'].endpoints;

let ingest: Fixture;
beforeAll(async () => {
  // Queries of sources call a service that does not answer: 503.
  ingest = await startIngest({ ANALYTICS_API_URL: 'http://127.0.0.1:1' });
});
afterAll(() => ingest.close());

type Sent = [method: string, path: string, body: string | undefined, type: string];

/** Yields every fourth: all values appear somewhere, each place has some, and the test stays quick. */
function* someOf(all: Iterable<Sent>): Generator<Sent> {
  let index = 0;
  for (const each of all) if (index++ % 4 === 0) yield each;
}

/** Sends requests, some at a time. */
async function expectAnswers(all: Iterable<Sent>): Promise<void> {
  const sent = someOf(all);
  const sender = async () => {
    for (let next = sent.next(); !next.done; next = sent.next()) await expectAnswer(next.value);
  };
  await Promise.all(Array.from({ length: 16 }, sender));
}

async function expectAnswer([method, path, body, type]: Sent): Promise<void> {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, ...(type && { 'content-type': type }) };
  const response = await ingest.app.request(path, { method, headers, ...(body !== undefined && { body }) });
  const text = await response.text();
  const shown = `${method} ${path.slice(0, 200)} ${type} ${body?.slice(0, 300)} → ${response.status} ${text.slice(0, 300)}`;
  expect(response.status < 500 || response.status === 503, shown).toBe(true);
}

/** Yields `value` once for each place in it, with `hostile` in that place; also as the name of a field. */
function* withHostile(value: unknown, hostile: unknown): Generator<unknown> {
  yield hostile;
  if (Array.isArray(value)) for (const each of withHostile(value[0], hostile)) yield [each];
  else if (typeof value === 'object' && value !== null) {
    if (typeof hostile === 'string') yield { ...value, ...Object.fromEntries([[hostile, 1]]) };
    for (const [name, own] of Object.entries(value))
      for (const each of withHostile(own, hostile)) yield { ...value, [name]: each };
  }
}

function isWellFormed(text: string): boolean {
  try {
    return encodeURIComponent(text) !== '';
  } catch {
    return false;
  }
}

const pathOf = (path: string, value: string) => path.replace(/\{\w+\}/g, encodeURIComponent(value));
const posts = sourceEndpoints.filter(({ method }) => method === 'POST').map(({ path }) => path);
const gets = sourceEndpoints.filter(({ method }) => method === 'GET').map(({ path }) => path as string);

function* hostilePosts(path: string): Generator<Sent> {
  const sound = SOUND_BODIES[path];
  if (sound === undefined) throw new Error(`Add a sound body of ${path} to SOUND_BODIES`);
  const to = pathOf(path, 'tokens');
  const [json, , form] = TYPES as [string, string, string];
  if (typeof sound === 'string') {
    const pairs = sound.split('&').map((pair) => pair.split('='));
    yield ['POST', to, sound, form];
    for (const hostile of TEXTS) {
      for (const index of pairs.keys()) {
        for (const place of [0, 1]) {
          const given = pairs.map((pair, at) =>
            (at === index ? pair.with(place, encodeURIComponent(hostile)) : pair).join('='),
          );
          yield ['POST', to, given.join('&'), form];
        }
      }
    }
  } else {
    yield ['POST', to, JSON.stringify(sound), json];
    for (const hostile of HOSTILE)
      for (const body of withHostile(sound, hostile)) yield ['POST', to, JSON.stringify(body), json];
  }
  for (const [index, raw] of RAW.entries())
    for (const type of [TYPES[index % TYPES.length]!, json]) yield ['POST', to, raw, type];
  if (path.includes('{')) for (const text of TEXTS) if (text) yield ['POST', pathOf(path, text), '{}', json];
}

test.each(posts)('%s answers or refuses whatever it is sent', (path) => expectAnswers(hostilePosts(path)));

function* hostileGets(): Generator<Sent> {
  const names = ['from', 'to', 'windowSize', 'groupBy', 'subject', 'filterGroupBy[model]', 'customer', 'start_time'];
  for (const path of gets) {
    for (const text of TEXTS) {
      if (text && path.includes('{')) yield ['GET', pathOf(path, text), undefined, ''];
      for (const name of names)
        yield ['GET', `${pathOf(path, 'tokens')}?${name}=${encodeURIComponent(text)}`, undefined, ''];
    }
  }
}

test('queries of sources answer or refuse whatever they are asked', () => expectAnswers(hostileGets()));
