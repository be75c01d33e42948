import { expect, test } from 'vitest';
import { z } from 'zod';
import { parseEnv, SettingsError, serviceEnv, whole } from './env.ts';

const Schema = z.object({ ...serviceEnv, PORT: whole(4001, 0, 65_535) });
const STORES = { DATABASE_URL: 'postgres://here/tally', REDIS_URL: 'redis://here' };
const KEY = 'a-key-of-16-characters-or-more';

test.each(['TALLY_ADMIN_KEY', 'TALLY_SERVICE_KEY'])('a service starts with %s alone', (name) => {
  expect(parseEnv(Schema, { ...STORES, [name]: KEY })).toMatchObject({ [name]: KEY, PORT: 4001 });
});

test('a service without any key refuses its settings, says what to set, and lists every other problem', () => {
  for (const env of [{}, { TALLY_ADMIN_KEY: '', TALLY_SERVICE_KEY: '' }]) {
    const parse = () => parseEnv(Schema, { ...STORES, PORT: 'eighty', ...env });
    expect(parse).toThrow(SettingsError);
    expect(parse).toThrow(/PORT: [\s\S]*TALLY_ADMIN_KEY and TALLY_SERVICE_KEY are not set: set at least one/);
  }
});

test('settings without keys of their own need none', () => {
  expect(parseEnv(z.object({ PORT: whole(1, 0, 9) }), {})).toEqual({ PORT: 1 });
});

test.each([
  ['PORT', 'eighty', 'Expected a whole number from 0 to 65535'],
  ['PORT', '70000', 'Expected a whole number from 0 to 65535'],
  ['POSTGRES_POOL_SIZE', '5.5', 'Expected a whole number from 1 to 1000'],
  ['OTEL_EXPORTER_OTLP_ENDPOINT', 'collector:4318', 'Expected http://… or https://…'],
  ['DATABASE_URL', 'postgres://tally:a#b@db/tally', 'Percent-encode special characters of the password'],
  ['DATABASE_URL', 'postgres://tally:a/b@db/tally', 'Percent-encode special characters of the password'],
  ['DATABASE_URL', 'postgres://db:99999/tally', 'Expected postgres://user:password@host:port/database'],
  ['REDIS_URL', 'redis://:a#b@redis:6379', 'Percent-encode special characters of the password'],
])('refuses %s=%s with one line that says what is expected, without the value', (name, value, expected) => {
  const parse = () => parseEnv(Schema, { ...STORES, TALLY_ADMIN_KEY: KEY, [name]: value });
  expect(parse).toThrow(expected);
  expect(parse).not.toThrow(value);
  expect(parse).not.toThrow(/\n.*\n/);
});

test.each([
  'postgres://tally:a%23b@db:5432/tally?sslmode=verify-full',
  'postgresql://tally@/tally?host=/run/postgresql',
  'postgres:///tally',
  'postgres://[::1]:5432/tally',
])('takes the address %s', (url) => {
  expect(parseEnv(Schema, { ...STORES, TALLY_ADMIN_KEY: KEY, DATABASE_URL: url })).toMatchObject({ DATABASE_URL: url });
});
