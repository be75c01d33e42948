import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { freePort } from '@tally/testkit';
import { expect, test } from 'vitest';

test('a port is given to one process until that ends, also while nothing listens on it', async () => {
  const ports = await Promise.all(Array.from({ length: 50 }, freePort));
  expect(new Set(ports).size).toBe(50);
  for (const port of ports) {
    const other = createSocket('udp4').bind(port, '127.0.0.1');
    await expect(once(other, 'listening')).rejects.toThrow('EADDRINUSE');
    other.close();
  }
});
