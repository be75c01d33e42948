// A server that answers every request with `ANSWER`, as JSON: the cost of Node's own HTTP.
import { createServer } from 'node:http';

const { ANSWER = '{}', PORT } = process.env;
const head = { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(ANSWER)) };
createServer((request, response) => {
  request.resume().once('end', () => {
    response.writeHead(200, head);
    response.end(ANSWER);
  });
}).listen(Number(PORT), '127.0.0.1');
