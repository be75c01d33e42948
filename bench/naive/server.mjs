import { createServer } from 'node:http';
import pg from 'pg';

// The naive design that Tally is compared with: one table of events, one insert a batch, GROUP BY for every answer. It
// keeps no sums, survives no outage of Postgres, and explains nothing; it is what a team writes in an afternoon.
// Settings: DATABASE_URL, PORT, POSTGRES_POOL_SIZE. POST /record takes the body of `usage.record`.

const TABLE = `create table if not exists events (
  merchant_id text not null, id text not null, time timestamptz not null, user_id text, api_key text, model text,
  provider text, prompt_tokens bigint not null, completion_tokens bigint not null, cost numeric not null,
  metrics jsonb, properties jsonb, primary key (merchant_id, id))`;
const INSERT = `insert into events
  select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::numeric[], $11::jsonb[], $12::jsonb[])
  on conflict do nothing`;
const MEASURED = new Set(['prompt_tokens', 'completion_tokens', 'cost']);

const pool = new pg.Pool({
  connectionString: process.env.DATABASE_URL,
  max: Number(process.env.POSTGRES_POOL_SIZE ?? 10),
});
await pool.query(TABLE);

createServer(async (request, response) => {
  try {
    if (request.url === '/readyz') return response.end('{"ok":true}');
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { entries } = JSON.parse(Buffer.concat(chunks).toString());
    const { rowCount } = await pool.query({ name: 'insert', text: INSERT, values: columnsOf(entries) });
    answer(response, 200, { accepted: rowCount, duplicates: entries.length - rowCount });
  } catch (error) {
    answer(response, 500, { message: String(error) });
  }
}).listen(Number(process.env.PORT), '127.0.0.1');

function columnsOf(entries) {
  const columns = Array.from({ length: 12 }, () => []);
  for (const { merchantId, id, time, userId, apiKey, model, provider, metrics, properties } of entries) {
    const others = Object.entries(metrics).filter(([type]) => !MEASURED.has(type));
    const row = [
      merchantId,
      id,
      time,
      userId ?? null,
      apiKey ?? null,
      model ?? null,
      provider ?? null,
      metrics.prompt_tokens ?? '0',
      metrics.completion_tokens ?? '0',
      metrics.cost ?? '0',
      others.length > 0 ? JSON.stringify(Object.fromEntries(others)) : null,
      properties ? JSON.stringify(properties) : null,
    ];
    for (const [index, value] of row.entries()) columns[index].push(value);
  }
  return columns;
}

function answer(response, status, body) {
  const text = JSON.stringify(body);
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
}
