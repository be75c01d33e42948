import { addDays, type Day, dayOf, formatCost } from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type App, createLog, createReleasers } from '@tally/service';
import { freshDatabase, freshRedis } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { readEnv } from '../src/env.ts';
import { createIngestService } from '../src/service.ts';
import { type FakeLitellm, type Row, startFakeLitellm } from './fake-litellm.ts';

export const KEY = 'the-admin-key-of-the-tests';

export const LITELLM_KEY = 'sk-the-master-key';
export const LOGS = '/sources/litellm/logs';
export const EVENTS = '/sources/litellm/api/v1/events';

type Service = { app: App; client: IngestClient; end(): Promise<void> };

export type Running = Service & {
  /** Another usage-ingest on the same stores, until its `end` or the end of all. */
  another(env?: Record<string, string>, now?: () => number): Promise<Service>;
  /** The settings of a usage-ingest in its own process. */
  serviceEnv(): Record<string, string>;
  /** Flushes, and returns the counted usage of days, of one merchant or of all. */
  counted(startDate: Day, endDate: Day, merchantId?: string): Promise<Counted>;
  /** Runs a statement in the database of the service. */
  sql(text: string, values: unknown[]): Promise<Record<string, unknown>[]>;
};

type Counted = {
  requests: string;
  failedRequests: string;
  promptTokens: string;
  completionTokens: string;
  cost: string;
  merchants: string[];
};

/** usage-ingest in this process; it flushes only on demand. */
export async function startBesideLitellm(env: Record<string, string>): Promise<Running> {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const common = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, ENABLE_FLUSH: 'false' };
  const releasers = createReleasers();
  const postgres = new pg.Client({ connectionString: database.url });
  await postgres.connect();
  const serviceEnv = () => ({ ...common, POSTGRES_POOL_SIZE: '4', ...env });
  const another: Running['another'] = async (more = {}, now = Date.now) => {
    const own = createReleasers();
    releasers.push('usage-ingest', () => own.releaseAll());
    const log = createLog('test', 'silent');
    const { app } = await createIngestService(readEnv({ ...serviceEnv(), ...more }), { log, releasers: own, now });
    const fetch = async (input: unknown, init: unknown) => app.request(input as string, init as RequestInit);
    return { app, client: createIngestClient({ url: 'http://ingest', key: KEY, fetch }), end: () => own.releaseAll() };
  };
  const first = await another();
  return {
    ...first,
    another,
    serviceEnv,
    sql: async (text, values) => (await postgres.query(text, values)).rows,
    async counted(startDate, endDate, merchantId) {
      await first.client.flush.drain.mutate({});
      const { rows } = await postgres.query(
        `select coalesce(sum(requests), 0)::text as requests, coalesce(sum(failed_requests), 0)::text as "failedRequests",
           coalesce(sum(prompt_tokens), 0)::text as "promptTokens",
           coalesce(sum(completion_tokens), 0)::text as "completionTokens", coalesce(sum(cost), 0)::text as cost,
           array_agg(distinct merchant_id) as merchants
         from usage_daily where date between $1 and $2 and ($3::text is null or merchant_id = $3)`,
        [startDate, endDate, merchantId ?? null],
      );
      return { ...rows[0], cost: formatCost(BigInt(rows[0].cost)) };
    },
    async end() {
      await releasers.releaseAll();
      await postgres.end();
      await Promise.all([database.drop(), redis.drop()]);
    },
  };
}

/** A LiteLLM and a usage-ingest beside it, for one test file. Each test has days of its own: `day` and the next one. */
export class LitellmWorld {
  readonly #env: Record<string, string>;
  litellm!: FakeLitellm;
  running!: Running;
  /** How a day is counted never changes once decided, so no test may use the day of another. */
  day = addDays(dayOf(Date.now()), -3);

  /** Starts both before the tests of a file, and ends them after. */
  constructor(env: Record<string, string> = {}) {
    this.#env = env;
    beforeAll(() => this.#start());
    afterAll(async () => {
      await this.running?.end();
      await this.litellm?.stop();
    });
    beforeEach(() => {
      this.day = addDays(this.day, -3);
      this.litellm.reset();
    });
  }

  async #start(): Promise<void> {
    this.litellm = await startFakeLitellm(LITELLM_KEY);
    this.running = await startBesideLitellm({
      LITELLM_URL: this.litellm.url,
      LITELLM_KEY,
      LITELLM_PULL_INTERVAL_MS: '0',
      LITELLM_MAX_BODY_BYTES: '1000000',
      ...this.#env,
    });
  }

  pull(startDate = this.day, endDate = startDate) {
    return this.running.client.litellm.pull.mutate({ startDate, endDate });
  }

  totals(startDate: Day = this.day, endDate: Day = startDate) {
    return this.running.counted(startDate, endDate);
  }

  row(id: string, more: Partial<Row> = {}): Row {
    const { day } = this;
    return {
      request_id: id,
      call_type: 'acompletion',
      api_key: 'a'.repeat(64),
      spend: '0.00012',
      total_tokens: 30,
      prompt_tokens: 20,
      completion_tokens: 10,
      startTime: `${day}T10:00:00.123000Z`,
      endTime: `${day}T10:00:02.000000Z`,
      model: 'openai/gpt-4o',
      model_group: 'gpt-4o',
      custom_llm_provider: 'openai',
      user: 'ada',
      metadata: {},
      cache_hit: 'False',
      request_tags: [],
      messages: {},
      response: {},
      status: 'success',
      ...more,
    };
  }

  /** A row of a call that began five minutes ago. */
  recent(id: string, more: Partial<Row> = {}): Row {
    return this.row(id, { startTime: new Date(Date.now() - 5 * 60_000).toISOString(), ...more });
  }

  async push(
    body: unknown,
    { path = LOGS, key = KEY, type = 'application/json', app = this.running.app } = {},
  ): Promise<{ status: number; header(name: string): string | null; text: string; json(): unknown }> {
    const response = await app.request(path, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': type },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return {
      status: response.status,
      header: (name) => response.headers.get(name),
      text,
      json: () => JSON.parse(text),
    };
  }
}

/** Returns the StandardLoggingPayload of a row's call. */
export function payloadOf(
  { request_id, startTime, spend, user, api_key, cache_hit, metadata, ...rest }: Row,
  more: Record<string, unknown> = {},
) {
  return {
    ...rest,
    id: request_id as unknown,
    startTime: Date.parse(startTime) / 1000 + 0.0004,
    endTime: Date.parse(startTime) / 1000 + 2,
    response_cost: spend === null ? null : Number(spend),
    cache_hit: cache_hit === 'True' ? true : cache_hit === 'False' ? false : null,
    metadata: { ...(metadata as object), user_api_key_hash: api_key, user_api_key_user_id: user },
    ...more,
  };
}

/** An event of the `openmeter` callback. */
export const eventOf = (id: string, time: string, data: object = {}) => ({
  specversion: '1.0',
  type: 'litellm_tokens',
  id,
  time,
  subject: 'ada',
  source: 'litellm-proxy',
  data: { model: 'gpt-4o', cost: 0.00012, prompt_tokens: 20, completion_tokens: 10, total_tokens: 30, ...data },
});
