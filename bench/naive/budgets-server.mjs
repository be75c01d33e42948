import { createServer } from 'node:http';
import pg from 'pg';

// Budgets as a team writes them in an afternoon: a row for each budget, locked by `select … for update` while it is compared
// and changed, and a row for each reservation. POST /trpc/budgets.reserve and /trpc/budgets.settle take the bodies of Tally's.
// Settings: DATABASE_URL, PORT, POSTGRES_POOL_SIZE.

const TABLES = `
create table if not exists naive_budgets (
  merchant_id text primary key, "limit" bigint not null, spent bigint not null default 0,
  reserved bigint not null default 0);
create table if not exists naive_reservations (
  id text primary key, merchant_id text not null, amount bigint not null, settled boolean not null default false);
create table if not exists naive_events (id text primary key, merchant_id text not null, cost bigint not null);`;
const LIMIT = 10n ** 15n;

const pool = new pg.Pool({
  connectionString: process.env.DATABASE_URL,
  max: Number(process.env.POSTGRES_POOL_SIZE ?? 10),
});
await pool.query(TABLES);

createServer(async (request, response) => {
  try {
    if (request.url === '/readyz') return response.end('{"ok":true}');
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const input = JSON.parse(Buffer.concat(chunks).toString());
    const text = JSON.stringify(request.url.endsWith('reserve') ? await reserve(input) : await settle(input));
    response
      .writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
      .end(text);
  } catch (error) {
    const text = String(error);
    response.writeHead(500, { 'content-length': Buffer.byteLength(text) }).end(text);
  }
}).listen(Number(process.env.PORT), '127.0.0.1');

async function inTransaction(work) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const answer = await work(client);
    await client.query('commit');
    return answer;
  } catch (error) {
    await client.query('rollback');
    throw error;
  } finally {
    client.release();
  }
}

const lock = {
  name: 'lock',
  text: 'select "limit" - spent - reserved as remaining from naive_budgets where merchant_id = $1 for update',
};
const take = {
  name: 'take',
  text: 'update naive_budgets set reserved = reserved + $2 where merchant_id = $1',
};
const keep = {
  name: 'keep',
  text: 'insert into naive_reservations (id, merchant_id, amount) values ($1, $2, $3) on conflict do nothing',
};
const end = {
  name: 'end',
  text: 'update naive_reservations set settled = true where id = $1 and not settled returning amount',
};
const record = {
  name: 'record',
  text: 'insert into naive_events (id, merchant_id, cost) values ($1, $2, $3) on conflict do nothing',
};
const spend = {
  name: 'spend',
  text: 'update naive_budgets set reserved = reserved - $2, spent = spent + $3 where merchant_id = $1',
};

const nano = (usd) => BigInt(Math.round(Number(usd) * 1e9));

function reserve({ id, merchantId, amounts }) {
  const amount = nano(amounts.cost);
  return inTransaction(async (client) => {
    let { rows } = await client.query({ ...lock, values: [merchantId] });
    if (rows.length === 0) {
      const create = 'insert into naive_budgets (merchant_id, "limit") values ($1, $2) on conflict do nothing';
      await client.query(create, [merchantId, LIMIT]);
      ({ rows } = await client.query({ ...lock, values: [merchantId] }));
    }
    if (BigInt(rows[0].remaining) < amount) return { allowed: false };
    const { rowCount } = await client.query({ ...keep, values: [id, merchantId, amount] });
    if (rowCount === 1) await client.query({ ...take, values: [merchantId, amount] });
    return { allowed: true };
  });
}

function settle({ reservationId, entry }) {
  const id = reservationId.slice(reservationId.indexOf('/') + 1);
  const cost = nano(entry.metrics.cost);
  return inTransaction(async (client) => {
    await client.query({ ...lock, values: [entry.merchantId] });
    const { rows } = await client.query({ ...end, values: [id] });
    const { rowCount } = await client.query({ ...record, values: [entry.id, entry.merchantId, cost] });
    if (rowCount === 1) await client.query({ ...spend, values: [entry.merchantId, rows[0]?.amount ?? 0, cost] });
    return { settled: rows.length === 1 };
  });
}
