import { programOf } from './program.mjs';

const MAC = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome';

/**
 * Returns a Chromium for tests: CHROMIUM_PATH, or one from PATH, installed first if allowed. The headless shell is the
 * same engine without a desktop, and takes less than half of the CPU (ADR 510).
 */
export function chromiumBinary(env = process.env) {
  if (env.CHROMIUM_PATH) return env.CHROMIUM_PATH;
  return programOf({
    names: [
      'chromium-headless-shell',
      'chrome-headless-shell',
      'chromium',
      'chromium-browser',
      'google-chrome',
      'google-chrome-stable',
      MAC,
    ],
    packages: ['chromium-headless-shell'],
    howToGet:
      'No Chromium on PATH: install one (apt-get install chromium-headless-shell, brew install --cask chromium), or ' +
      'set CHROMIUM_PATH.',
  });
}
