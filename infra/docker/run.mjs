import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

// Takes the place of infra/local/run.mjs in the image, where all is built and the environment is that of the
// container: `node --run job:reconcile`.
const given = process.argv.slice(2);
if (given[0] === '--failure') given.splice(0, 2);
const [script, ...args] = given;
process.argv.splice(1, process.argv.length, resolve(script), ...args);
await import(pathToFileURL(resolve(script)).href);
