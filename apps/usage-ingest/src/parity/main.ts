import { parity } from './parity.ts';

process.exitCode = await parity(process.argv.slice(2), process.env, { print: console.log, complain: console.error });
