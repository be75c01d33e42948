import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));
const EXAMPLE = fileURLToPath(new URL('../kubernetes/tally.yaml', import.meta.url));

/** Returns the digest of everything that determines the rendered example: templates, values and Chart.yaml. */
export function chartDigest() {
  const templates = readdirSync(join(FOLDER, 'tally/templates')).map((name) => `tally/templates/${name}`);
  const files = ['example-values.yaml', 'tally/Chart.yaml', 'tally/values.yaml', ...templates].sort();
  const hash = createHash('sha256');
  for (const file of files) hash.update(`${file}\n${readFileSync(join(FOLDER, file), 'utf8')}`);
  return hash.digest('hex');
}

/** Renders the chart with the example's values. Throws helm's message on failure. */
export function renderChart(helm = process.env.HELM ?? 'helm') {
  const args = ['template', 'tally', join(FOLDER, 'tally'), '-f', join(FOLDER, 'example-values.yaml')];
  const { status, stdout, stderr, error } = spawnSync(helm, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${helm} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const head = `# Rendered from infra/helm/tally with infra/helm/example-values.yaml: node infra/helm/render.mjs\n`;
  writeFileSync(EXAMPLE, `${head}# chart: ${chartDigest()}\n${renderChart()}`);
}
