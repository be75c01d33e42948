import { programOf } from './program.mjs';

const MAC = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome';

/** Returns a Chromium for tests: CHROMIUM_PATH, or one from PATH, installed first if allowed. */
export function chromiumBinary(env = process.env) {
  if (env.CHROMIUM_PATH) return env.CHROMIUM_PATH;
  return programOf({
    names: ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', MAC],
    packages: ['chromium'],
    howToGet:
      'No Chromium on PATH: install one (apt-get install chromium, brew install --cask chromium), or set CHROMIUM_PATH.',
  });
}
