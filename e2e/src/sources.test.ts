import { OpenMeter } from '@openmeter/sdk';
import { dayOf, startOfDay } from '@tally/contracts';
import { type AnalyticsClient, createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { Client } from 'lago-javascript-client';
import Stripe from 'stripe';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Services, startServices } from './services.ts';

/** Clients of other products that send usage and ask for its sums at one address, with one key. */
const KEY = 'the-admin-key-of-the-sources';
const HOUR = 3_600_000;
let services: Services;
let url: string;
let questions: AnalyticsClient;
let member: string;
let bound: string;
/** Noon of yesterday: many hours before and after it are on its day, however late the test runs. */
const noon = startOfDay(dayOf(Date.now())) - 12 * HOUR;
const at = (hours: number) => new Date(noon + hours * HOUR).toISOString();
const seconds = (hours: number) => (noon + hours * HOUR) / 1000;

beforeAll(async () => {
  services = await startServices({ TALLY_ADMIN_KEY: KEY });
  ({ url } = services.ingest);
  questions = createAnalyticsClient({ url: services.analytics.url, key: KEY });
  const { create } = createIngestClient({ url, key: KEY }).keys;
  ({ key: member } = await create.mutate({ name: 'member', role: 'member' }));
  ({ key: bound } = await create.mutate({ name: 'bound', role: 'member', merchantId: 'globex' }));
});
afterAll(() => services?.stop());

test("OpenMeter's client asks for what it sent, by windows, subjects and groups", async () => {
  const baseUrl = `${url}/sources/openmeter`;
  const admin = new OpenMeter({ baseUrl, apiKey: KEY });
  const { events, meters, subjects } = new OpenMeter({ baseUrl, apiKey: member });
  const groupBy = { model: '$.model', region: '$.region' };
  const meter = { eventType: 'prompt', valueProperty: '$.tokens', groupBy };
  await admin.meters.create({ ...meter, slug: 'om_tokens', aggregation: 'SUM' });
  await admin.meters.create({ eventType: 'prompt', groupBy, slug: 'om_calls', aggregation: 'COUNT' });
  const eventOf = (id: number, subject: string, hour: number, data: object) => ({
    ...{ id: String(id), source: 'app', type: 'prompt', subject, time: new Date(at(hour)), data: { ...data } },
  });
  const batch = [
    eventOf(1, 'acme', 0, { tokens: 5, model: 'gpt-4o', region: 'eu' }),
    eventOf(2, 'acme', 0.5, { tokens: '0.25', model: 'gpt-4o-mini' }),
    eventOf(3, 'acme', 2, { tokens: 7, model: 'gpt-4o', region: 'us' }),
    eventOf(4, 'globex', 0, { tokens: 100, model: 'gpt-4o' }),
    { ...eventOf(5, 'acme', 0, { tokens: 1000 }), type: 'other' },
  ];
  await events.ingest(batch);
  await events.ingest(batch[1]!);
  const day = { from: new Date(at(-12)), to: new Date(at(12)) };

  expect(await meters.query('om_tokens', day)).toMatchObject({ data: [{ value: 112.25, subject: null, groupBy: {} }] });
  const hours = await meters.query('om_tokens', { ...day, windowSize: 'HOUR', subject: ['acme'] });
  expect(hours?.data).toEqual([
    { value: 5.25, windowStart: new Date(at(0)), windowEnd: new Date(at(1)), subject: 'acme', groupBy: {} },
    { value: 7, windowStart: new Date(at(2)), windowEnd: new Date(at(3)), subject: 'acme', groupBy: {} },
  ]);
  const days = { ...day, windowSize: 'DAY' as const, windowTimeZone: 'UTC' };
  const models = await meters.query('om_tokens', {
    ...days,
    groupBy: ['model', 'subject'],
    filterGroupBy: { model: 'gpt-4o' },
  });
  expect(models?.data.map(({ value, subject, groupBy: by }) => [value, subject, by]).sort()).toEqual([
    [100, 'globex', { model: 'gpt-4o' }],
    [12, 'acme', { model: 'gpt-4o' }],
  ]);
  // A range may begin and end within a window, which then has only the events of the range.
  const partOf = async (from: number, to: number | undefined, more: object) => {
    const range = { from: new Date(at(from)), ...(to !== undefined && { to: new Date(at(to)) }) };
    const found = await meters.query('om_tokens', { ...range, subject: ['acme'], ...more });
    return found?.data.map(({ value, windowStart, windowEnd }) => [value, windowStart, windowEnd]);
  };
  const date = (hours: number) => new Date(at(hours));
  expect(await partOf(0.5, 2.01, { windowSize: 'DAY' })).toEqual([[7.25, date(-12), date(12)]]);
  expect(await partOf(0.25, undefined, { windowSize: 'DAY' })).toEqual([[7.25, date(-12), date(12)]]);
  expect(await partOf(-30, 2, { windowSize: 'DAY' })).toEqual([[5.25, date(-12), date(12)]]);
  expect(await partOf(0.01, 2.5, { windowSize: 'HOUR' })).toEqual([
    [0.25, date(0), date(1)],
    [7, date(2), date(3)],
  ]);
  // 05:30 in Kolkata is the middle of its day, which began at 18:30 of UTC.
  const kolkata = { windowSize: 'DAY', windowTimeZone: 'Asia/Kolkata' };
  expect(await partOf(-12, 12, kolkata)).toEqual([[12.25, date(-17.5), date(6.5)]]);
  expect(await partOf(-12, 0.5, { windowSize: 'MONTH' })).toEqual([[5, expect.any(Date), expect.any(Date)]]);
  await expect(partOf(1, 1, { windowSize: 'DAY' })).rejects.toMatchObject({ status: 400 });
  const posted = (await meters.queryPost('om_calls', {
    ...day,
    ...{ subject: ['acme'], groupBy: ['region'], filterGroupBy: { region: ['eu', 'us'] } },
  })) as typeof models;
  expect(posted?.data.map(({ value, groupBy: by }) => [value, by.region]).sort()).toEqual([
    [1, 'eu'],
    [1, 'us'],
  ]);
  // Three groups of one subject, by each way of naming it.
  const three = { groupBy: { ...groupBy, tokens: '$.tokens' }, eventType: 'prompt' };
  await admin.meters.create({ ...three, slug: 'om_three', aggregation: 'COUNT' });
  for (const more of [[], ['subject']]) {
    const asked = { ...day, subject: ['acme'], groupBy: ['model', 'region', 'tokens', ...more] };
    const found = await meters.query('om_three', asked);
    expect(found?.data.map(({ subject, groupBy: by }) => [subject, by.tokens]).sort()).toEqual([
      ['acme', '0.25'],
      ['acme', '5'],
      ['acme', '7'],
    ]);
  }
  const tooMany = { ...day, subject: ['acme', 'globex'], groupBy: ['model', 'region', 'tokens'] };
  await expect(meters.query('om_three', tooMany)).rejects.toMatchObject({ status: 400 });
  expect((await meters.listGroupByValues('om_tokens', 'region'))?.sort()).toEqual(['eu', 'us']);
  expect((await subjects.list())?.map(({ key }) => key)).toEqual(expect.arrayContaining(['acme', 'globex']));
  expect(await meters.listGroupByValues('om_tokens', 'region', { from: day.from, ...{ search: 'u' } })).toEqual(
    expect.arrayContaining(['eu', 'us']),
  );
  expect(await meters.listGroupByValues('om_tokens', 'region', { from: day.from, ...{ search: 'eu' } })).toEqual([
    'eu',
  ]);
  const listed = await events.list({ limit: 3 });
  expect(listed?.map(({ event }) => event.id)).toEqual(['3', '2', expect.stringMatching(/^[145]$/)]);
  expect(listed?.[0]?.event).toEqual({ specversion: '1.0', ...batch[2] });
  expect(await admin.subjects.upsert([{ key: 'acme', displayName: 'Acme Inc' }])).toMatchObject([{ key: 'acme' }]);
  expect(await subjects.get('acme')).toMatchObject({ key: 'acme', displayName: 'Acme Inc' });
  expect(await admin.subjects.delete('acme')).toBeUndefined();
  expect(await subjects.get('acme')).toMatchObject({ key: 'acme', displayName: 'acme' });

  const refused = (status: number) => expect.objectContaining({ status });
  await expect(meters.query('om_tokens', { ...day, windowSize: 'MINUTE' })).rejects.toEqual(refused(400));
  await expect(meters.query('om_tokens', { ...day, groupBy: ['nothing'] })).rejects.toEqual(refused(400));
  await expect(meters.query('none', day)).rejects.toEqual(refused(404));
  await expect(subjects.get('none')).rejects.toEqual(refused(404));
  const own = new OpenMeter({ baseUrl, apiKey: bound });
  expect((await own.meters.query('om_tokens', day))?.data).toMatchObject([{ value: 100 }]);
  await expect(own.meters.query('om_tokens', { ...day, subject: ['acme'] })).rejects.toEqual(refused(403));
});

test("Stripe's client asks for the sums of a customer by hour and day", async () => {
  const { hostname, port } = new URL(url);
  const of = (key: string) => new Stripe(key, { host: hostname, port, protocol: 'http' });
  const stripe = of(member);
  await of(KEY).billing.meters.create({
    ...{ display_name: 'Tokens', event_name: 'stripe_tokens', default_aggregation: { formula: 'sum' } },
  });
  const send = (identifier: string, hour: number, value: string, customer = 'cus_1') =>
    stripe.billing.meterEvents.create({
      ...{ event_name: 'stripe_tokens', identifier, timestamp: seconds(hour) },
      payload: { stripe_customer_id: customer, value },
    });
  await send('1', 0, '25');
  await send('1', 0, '25');
  await send('2', 0.5, '5');
  await send('3', 2, '7');
  await send('4', 0, '1000', 'cus_2');
  const range = { customer: 'cus_1', start_time: seconds(-12), end_time: seconds(12) };
  const summaries = async (more: object = {}) =>
    (await stripe.billing.meters.listEventSummaries('stripe_tokens', { ...range, ...more })).data.map((each) => [
      each.start_time,
      each.end_time,
      each.aggregated_value,
    ]);
  expect(await summaries()).toEqual([[seconds(-12), seconds(12), 37]]);
  expect(await summaries({ value_grouping_window: 'day' })).toEqual([[seconds(-12), seconds(12), 37]]);
  expect(await summaries({ value_grouping_window: 'hour' })).toEqual([
    [seconds(2), seconds(3), 7],
    [seconds(0), seconds(1), 30],
  ]);
  // Minutes that are no quarter hours: from the event at noon to the one at half past, excluded, and a minute more.
  const minutes = { start_time: seconds(0) - 60, end_time: seconds(0.5) };
  expect(await summaries(minutes)).toEqual([[minutes.start_time, minutes.end_time, 25]]);
  expect(await summaries({ ...minutes, end_time: seconds(0.5) + 60 })).toEqual([
    [minutes.start_time, seconds(0.5) + 60, 30],
  ]);
  expect(await summaries({ ...minutes, start_time: seconds(0) + 60 })).toEqual([]);
  const refusal = (param: string | undefined, code: string) =>
    expect.objectContaining({ type: 'StripeInvalidRequestError', statusCode: 400, code, param });
  await expect(summaries({ start_time: seconds(0) - 59 })).rejects.toEqual(refusal('start_time', 'invalid_input'));
  await expect(summaries({ ...minutes, value_grouping_window: 'hour' })).rejects.toEqual(
    refusal(undefined, 'invalid_input'),
  );
  await expect(of(bound).billing.meters.listEventSummaries('stripe_tokens', range)).rejects.toMatchObject({
    type: 'StripePermissionError',
  });
});

test("Lago's client asks for the current usage of a subscription", async () => {
  const of = (key: string) => Client(key, { baseUrl: `${url}/sources/lago/api/v1` });
  const { events, customers } = of(member);
  await of(KEY).billableMetrics.createBillableMetric({
    billable_metric: {
      name: 'Tokens',
      code: 'lago_tokens',
      aggregation_type: 'sum_agg',
      field_name: 'units',
      recurring: false,
    },
  });
  await of(KEY).billableMetrics.createBillableMetric({
    billable_metric: { name: 'Calls', code: 'lago_calls', aggregation_type: 'count_agg', recurring: false },
  });
  const eventOf = (id: string, code: string, units: number) => ({
    ...{ transaction_id: id, external_subscription_id: 'sub_1', code, properties: { units: String(units) } },
  });
  const codes = Array.from({ length: 50 }, (_, n) => `lago_${n}`);
  for (const code of codes)
    await of(KEY).billableMetrics.createBillableMetric({
      billable_metric: { name: code, code, aggregation_type: 'count_agg', recurring: false },
    });
  const batch = [eventOf('1', 'lago_tokens', 3), eventOf('2', 'lago_tokens', 4), eventOf('3', 'lago_calls', 1)];
  batch.push(...codes.map((code) => eventOf(code, code, 1)));
  await events.createBatchEvents({ events: batch });
  await events.createBatchEvents({ events: batch });
  const { data } = await customers.findCustomerCurrentUsage('acme', { external_subscription_id: 'sub_1' });
  const units = data.customer_usage.charges_usage.map((charge) => [charge.billable_metric.code, charge.units]);
  expect(units).toEqual(
    expect.arrayContaining([['lago_tokens', '7'], ['lago_calls', '1'], ...codes.map((code) => [code, '1'])]),
  );
});

test('names that LiteLLM reports are shown and grouped by, and what an admin wrote stays', async () => {
  let calls = 0;
  const call = async (alias: string, team: string) => {
    const metadata = {
      ...{ user_api_key_hash: 'hash-1', user_api_key_alias: alias, user_api_key_user_id: 'u-1' },
      ...{ user_api_key_user_email: 'ada@example.com', user_api_key_team_id: 'team-1', user_api_key_team_alias: team },
    };
    const body = { id: `named-${calls++}`, startTime: Date.parse(at(calls / 60)) / 1000, model: 'gpt-4o', metadata };
    const init = { method: 'POST', headers: { authorization: `Bearer ${KEY}` }, body: JSON.stringify(body) };
    expect(await (await fetch(`${url}/sources/litellm/logs`, init)).json()).toMatchObject({ accepted: 1 });
  };
  const date = dayOf(noon);
  const rows = async (by: 'user' | 'apiKey' | 'team') => {
    const query = { startDate: date, endDate: date, merchantIds: ['litellm'], by };
    return (await questions.analytics.breakdown.query(query)).rows.map(({ key, label, requests }) => [
      key,
      label,
      requests,
    ]);
  };
  await call('Ada’s key', 'Research');
  expect(await rows('user')).toEqual([['u-1', 'ada@example.com', '1']]);
  expect(await rows('apiKey')).toEqual([['hash-1', 'Ada’s key', '1']]);
  expect(await rows('team')).toEqual([['Research', 'Research', '1']]);
  await call('The key', 'Applied');
  expect([...(await rows('apiKey')), ...(await rows('team'))]).toEqual([
    ['hash-1', 'The key', '2'],
    ['Applied', 'Applied', '2'],
  ]);
  const { upsert } = questions.directory;
  await upsert.mutate({ entries: [{ kind: 'user', id: 'u-1', merchantId: 'litellm', name: 'Ada' }] });
  await upsert.mutate({ entries: [{ kind: 'apiKey', id: 'hash-1', name: 'For all merchants' }] });
  await call('Another name', 'Another team');
  expect([...(await rows('user')), ...(await rows('apiKey')), ...(await rows('team'))]).toEqual([
    ['u-1', 'Ada', '3'],
    ['hash-1', 'For all merchants', '3'],
    ['Applied', 'Applied', '3'],
  ]);
});
