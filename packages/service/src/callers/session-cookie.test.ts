import { expect, test } from 'vitest';
import { sessionOf } from './session-cookie.ts';

const cookie = 'theme=dark; __Host-tally_session=abc_-1; other=x';
const host = 'tally.example';
const sent = (headers: Record<string, string>, method = 'POST') =>
  sessionOf({ headers: { cookie, host, ...headers }, method });

test('the session of a page of the same origin is found among other cookies', () => {
  expect(sent({ origin: 'https://tally.example' })).toBe('abc_-1');
  expect(sent({ 'sec-fetch-site': 'same-origin' })).toBe('abc_-1');
  expect(sent({ origin: 'https://tally.example', 'sec-fetch-site': 'same-origin' })).toBe('abc_-1');
});

test('an address that someone typed, or a page that says nothing, may read and change nothing', () => {
  expect(sent({ 'sec-fetch-site': 'none' }, 'GET')).toBe('abc_-1');
  expect(sent({}, 'GET')).toBe('abc_-1');
  expect(sent({ 'sec-fetch-site': 'none' })).toBeUndefined();
  expect(sent({})).toBeUndefined();
});

test.each([
  [{ origin: 'https://evil.example' }],
  [{ origin: 'https://tally.example:8443' }],
  [{ origin: 'null' }],
  [{ origin: 'https://tally.example', 'sec-fetch-site': 'same-site' }],
  [{ origin: 'https://tally.example', 'sec-fetch-site': 'cross-site' }],
])('a session that came with %j is of no use', (headers) => {
  expect(sent(headers as Record<string, string>)).toBeUndefined();
  expect(sent(headers as Record<string, string>, 'GET')).toBeUndefined();
});

test('refuses text that is no secret', () => {
  for (const value of ['tally_session=', 'tally_session=a b', 'tally_session=a%20', 'session=abc', ''])
    expect(sessionOf({ headers: { cookie: value, host, origin: `http://${host}` }, method: 'POST' })).toBeUndefined();
});

test('a session that another host of the domain planted is of no use over HTTPS', () => {
  const planted = 'tally_session=planted';
  const own = '__Host-tally_session=own';
  const [https, http] = [{ origin: `https://${host}` }, { origin: `http://${host}` }];
  expect(sent({ ...http, cookie: planted })).toBe('planted');
  expect(sent({ ...https, cookie: planted })).toBeUndefined();
  expect(sent({ 'x-forwarded-proto': 'https, http', cookie: planted }, 'GET')).toBeUndefined();
  // A GET of a page has no origin, and a proxy may not say what it was asked by.
  for (const both of [`${planted}; ${own}`, `${own}; ${planted}`]) expect(sent({ cookie: both }, 'GET')).toBe('own');
});
