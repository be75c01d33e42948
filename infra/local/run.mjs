import { resolve } from 'node:path';
import { commandOf, helpOrContinue } from './help.mjs';
import { clientEnv, ROOT } from './home.mjs';
import { ensureBuilt, ensureInstalled } from './pnpm.mjs';
import { runProgram } from './processes.mjs';

// Runs a built script of this checkout with the environment that reaches the services of `npm start`.
// `--failure <code>`: the exit code if the script cannot run, for scripts that use 1 for another result.
const given = process.argv.slice(2);
const failure = given[0] === '--failure' ? Number(given.splice(0, 2)[1]) : 1;
const [script, ...args] = given;
const command = script && commandOf(script, args);
if (command) helpOrContinue(command.name, command.args, failure);
try {
  if (!script) throw new Error('usage: node infra/local/run.mjs <script.js> [args]');
  await ensureInstalled();
  await ensureBuilt();
  process.exit(await runProgram(process.execPath, [resolve(ROOT, script), ...args], { env: await clientEnv() }));
} catch (error) {
  console.error(error.message);
  process.exit(failure);
}
