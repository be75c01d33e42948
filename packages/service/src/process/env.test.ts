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
