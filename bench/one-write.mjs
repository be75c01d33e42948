// A server that parses each request, writes it to Redis and answers: the least that a durable answer costs. Settings:
// REDIS_URL, PORT.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const { Redis } = createRequire(new URL('../packages/service/package.json', import.meta.url))('ioredis');
const redis = new Redis(process.env.REDIS_URL, { enableAutoPipelining: true });
const ANSWER = '{"result":{"data":{"allowed":true}}}';
const head = { 'content-type': 'application/json', 'content-length': String(ANSWER.length) };
let written = 0;

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (chunks.length > 0) {
    const input = JSON.parse(Buffer.concat(chunks).toString());
    await redis.set(`call-${written++ % 10_000}`, JSON.stringify(input));
  }
  response.writeHead(200, head).end(ANSWER);
}).listen(Number(process.env.PORT), '127.0.0.1');
