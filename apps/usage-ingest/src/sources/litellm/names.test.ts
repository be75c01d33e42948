import { expect, test } from 'vitest';
import { LitellmWorld } from '../../../test/litellm-world.ts';

const world = new LitellmWorld();

const written = (ids: string[]) =>
  world.running.sql(
    `select kind, id, merchant_id, name, email, team from directory_entries where id = any($1) order by kind, id`,
    [ids],
  );
const of = (user: string, key: string, more: object) => ({
  ...{ user, api_key: key },
  metadata: { user_api_key_alias: `alias of ${key}`, user_api_key_user_email: `${user}@example.com`, ...more },
});

test('pulled calls name users, keys and teams; an older report does not replace a newer one', async () => {
  world.litellm.rows = [
    world.row('n1', of('u1', 'k1', { user_api_key_team_id: 't1' })),
    world.row('n2', { user: 'u2', api_key: 'k2', metadata: {} }),
  ];
  await world.pull();
  const names = [
    { kind: 'apiKey', id: 'k1', merchant_id: 'litellm', name: 'alias of k1', email: null, team: 't1' },
    { kind: 'user', id: 'u1', merchant_id: 'litellm', name: 'u1@example.com', email: 'u1@example.com', team: null },
  ];
  expect(await written(['u1', 'k1', 'u2', 'k2'])).toEqual(names);

  const later = '2999-01-01T00:00:00Z';
  await world.running.sql(`update directory_entries set name = 'newer', learned_at = $1 where id = 'k1'`, [later]);
  world.litellm.rows = [world.row('n3', of('u1', 'k1', { user_api_key_alias: 'older' }))];
  await world.pull();
  expect(await written(['k1'])).toMatchObject([{ name: 'newer' }]);
});

test('an erased user is not named again', async () => {
  await world.running.client.users.erase.mutate({ merchantId: 'litellm', userId: 'gone' });
  world.litellm.rows = [world.row('e1', of('gone', 'k3', {}))];
  await world.pull();
  expect(await written(['gone', 'k3'])).toMatchObject([{ id: 'k3' }]);
});

test('daily sums name the keys and users that they are of', async () => {
  const sums = { spend: '0.1', prompt_tokens: 1, completion_tokens: 1, api_requests: 1, failed_requests: 0 };
  const metadata = { key_alias: 'daily alias', team_id: 't9', user_id: 'u9', user_email: 'u9@example.com' };
  world.litellm.daily = [{ date: world.day, model: 'gpt-4o', api_key: 'k9', ...sums, metadata }];
  await world.pull();
  expect(await written(['u9', 'k9'])).toMatchObject([
    { kind: 'apiKey', id: 'k9', name: 'daily alias', team: 't9' },
    { kind: 'user', id: 'u9', name: 'u9@example.com', email: 'u9@example.com' },
  ]);
});
