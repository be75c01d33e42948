import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

/** A row of LiteLLM_SpendLogs as JSON text would have it; `spend` is written unchanged, so that its text is kept. */
export type Row = { request_id: string; startTime: string; spend?: string | null; [field: string]: unknown };

/** A row of LiteLLM_DailyUserSpend. */
export type DailyRow = {
  date: string;
  model: string;
  api_key: string;
  spend: string;
  prompt_tokens: number;
  completion_tokens: number;
  api_requests: number;
  failed_requests: number;
  /** What is known of the key. */
  metadata?: Record<string, string | null>;
};

export type FakeLitellm = {
  url: string;
  rows: Row[];
  daily: DailyRow[];
  dailyPageSize: number;
  /** The largest accepted page_size. */
  maxPageSize: number;
  /** Queries of /spend/logs/v2, in order. */
  asked: URLSearchParams[];
  /** Called before each answer; if it returns one, that is sent instead. */
  before: (path: string, query: URLSearchParams) => Promise<Trouble> | Trouble;
  /** Removes all rows and settings. */
  reset(): void;
  stop(): Promise<void>;
};

type Answer = { status: number; body: string; headers?: Record<string, string> };

/** broken: the connection ends in the middle of the answer. silent: there is no answer. */
type Trouble = Answer | 'broken' | 'silent' | undefined;

const FULL = /^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$/;

/** Answers /spend/logs/v2 and /user/daily/activity as LiteLLM does, its traps included. */
export async function startFakeLitellm(key: string): Promise<FakeLitellm> {
  const fresh = (): Omit<FakeLitellm, 'url' | 'reset' | 'stop'> => ({
    rows: [],
    daily: [],
    dailyPageSize: 1000,
    maxPageSize: 1000,
    asked: [],
    before: () => undefined,
  });
  const fake = fresh();

  async function answer(request: IncomingMessage): Promise<Answer | 'broken' | 'silent'> {
    const { pathname, searchParams: query } = new URL(request.url!, 'http://litellm');
    if (request.headers.authorization !== `Bearer ${key}`)
      return {
        status: 401,
        body: '{"error":{"message":"Authentication Error, Invalid proxy server token passed","type":"auth_error","param":"None","code":"401"}}',
      };
    if (pathname === '/spend/logs/v2') fake.asked.push(query);
    const other = await fake.before(pathname, query);
    if (other) return other;
    if (pathname === '/spend/logs/v2') return spendLogs(query);
    if (pathname === '/user/daily/activity') return dailyActivity(query);
    return { status: 404, body: '{"detail":"Not Found"}' };
  }

  function spendLogs(query: URLSearchParams): Answer {
    const [start, end] = [query.get('start_date') ?? '', query.get('end_date') ?? ''];
    if (!start || !end) return { status: 400, body: '{"detail":{"error":"Start date and end date are required"}}' };
    if (!FULL.test(start) || !FULL.test(end))
      return { status: 500, body: '{"detail":{"error":"time data does not match format"}}' };
    const pageSize = Number(query.get('page_size') ?? 50);
    if (pageSize > fake.maxPageSize)
      return {
        status: 422,
        body: '{"detail":[{"loc":["query","page_size"],"msg":"Input should be less than or equal to 100","type":"less_than_equal"}]}',
      };
    const [from, to] = [start, end].map((text) => Date.parse(`${text.replace(' ', 'T')}Z`));
    const direction = query.get('sort_order') === 'asc' ? 1 : -1;
    const found = fake.rows
      .map((row) => ({ row, at: startOf(row) }))
      .filter(({ at }) => at >= from! && at <= to!)
      .sort((a, b) => direction * (a.at - b.at));
    const page = Number(query.get('page') ?? 1);
    const shown = found.slice((page - 1) * pageSize, page * pageSize).map(({ row }) => textOf(row));
    const pages = Math.ceil(found.length / pageSize);
    return {
      status: 200,
      body: `{"data":[${shown.join(',')}],"total":${found.length},"page":${page},"page_size":${pageSize},"total_pages":${pages}}`,
    };
  }

  /** Pages are of table rows; the sums on a page are of its rows only. */
  function dailyActivity(query: URLSearchParams): Answer {
    if (!query.get('start_date') || !query.get('end_date'))
      return { status: 400, body: '{"detail":{"error":"Please provide start_date and end_date"}}' };
    const found = fake.daily.filter(({ date }) => date >= query.get('start_date')! && date <= query.get('end_date')!);
    const page = Number(query.get('page') ?? 1);
    const shown = found.slice((page - 1) * fake.dailyPageSize, page * fake.dailyPageSize);
    const pages = Math.max(1, Math.ceil(found.length / fake.dailyPageSize));
    const dates = [...new Set(shown.map(({ date }) => date))];
    const results = dates.map((date) => {
      const ofDate = shown.filter((row) => row.date === date);
      const models = [...new Set(ofDate.map(({ model }) => model))].map((model) => {
        const ofModel = ofDate.filter((row) => row.model === model);
        const keys = ofModel.map(
          (row) =>
            `"${row.api_key}":{"metrics":${metricsOf([row])},"metadata":${JSON.stringify(row.metadata ?? { key_alias: null, team_id: null })}}`,
        );
        return `"${model}":{"metrics":${metricsOf(ofModel)},"metadata":{},"api_key_breakdown":{${keys.join(',')}}}`;
      });
      return `{"date":"${date}","metrics":${metricsOf(ofDate)},"breakdown":{"models":{${models.join(',')}},"providers":{},"api_keys":{},"entities":{}}}`;
    });
    const requests = shown.reduce((sum, row) => sum + row.api_requests, 0);
    return {
      status: 200,
      body: `{"results":[${results.join(',')}],"metadata":{"total_api_requests":${requests},"page":${page},"total_pages":${pages},"has_more":${page < pages}}}`,
    };
  }

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const given = await answer(request).catch((error: unknown): Answer => ({ status: 500, body: String(error) }));
    if (given === 'silent') return;
    if (given === 'broken') {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' }).write('{"data":[');
      response.destroy();
      return;
    }
    response.writeHead(given.status, { 'content-type': 'application/json', ...given.headers }).end(given.body);
  }

  const server = createServer((request, response) => void respond(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as { port: number };
  return Object.assign(fake, {
    url: `http://127.0.0.1:${address.port}`,
    reset: () => void Object.assign(fake, fresh()),
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  });
}

function startOf({ startTime }: Row): number {
  const text = startTime.replace(' ', 'T');
  return Date.parse(/(Z|[+-]\d{2}:\d{2})$/.test(text) ? text : `${text}Z`);
}

/** JSON with `spend` as the number with that text. */
export function textOf({ spend = '0.0', ...row }: Record<string, unknown> & { spend?: string | null }): string {
  return JSON.stringify({ ...row, spend: '\u0001' }).replace('"\\u0001"', () => String(spend));
}

function metricsOf(rows: readonly DailyRow[]): string {
  const sum = (of: (row: DailyRow) => number) => rows.reduce((total, row) => total + of(row), 0);
  const failed = sum((row) => row.failed_requests);
  const requests = sum((row) => row.api_requests);
  const spend = rows.length === 1 ? rows[0]!.spend : String(sum((row) => Number(row.spend)));
  const [prompt, completion] = [sum((row) => row.prompt_tokens), sum((row) => row.completion_tokens)];
  return `{"spend":${spend},"prompt_tokens":${prompt},"completion_tokens":${completion},"total_tokens":${prompt + completion},"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"successful_requests":${requests - failed},"failed_requests":${failed},"api_requests":${requests}}`;
}
