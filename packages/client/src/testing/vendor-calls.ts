import { readFileSync } from 'node:fs';
import { tallyMiddleware } from '../models/ai-sdk.ts';
import { wrapAnthropic } from '../models/anthropic.ts';
import { wrapGoogle } from '../models/google.ts';
import { wrapOpenAI } from '../models/openai.ts';
import { ANSWERS, type Answer } from './vendor-answers.ts';

/**
 * Calls a model through every vendor's package that `package.json` names, once as a whole and once as a stream, over
 * fake HTTP answers. Prints a line of JSON for each call: the package, the API and what was recorded. It is a process
 * of its own because the packages must be loaded as Node loads them.
 */

// biome-ignore lint/suspicious/noExplicitAny: eighty packages, each with types of its own.
type Any = any;
type Fetch = () => Promise<Response>;

const key = { apiKey: 'key' };
const aws = { region: 'us-east-1', accessKeyId: 'id', secretAccessKey: 'secret' };
const token = { getAccessToken: async () => ({ token: 'token' }) };
const project = { project: 'p', location: 'us-central1', googleAuthOptions: { authClient: token } };
const named = { name: 'own', baseURL: 'http://own/v1', url: 'http://own/v1/responses', includeUsage: true };

/** Creates a model of each provider of the AI SDK, for each of its APIs. */
const PROVIDERS: { [name: string]: { [api: string]: (module: Any, fetch: Fetch) => Any } } = {
  openai: {
    chat: (m, fetch) => m.createOpenAI({ ...key, compatibility: 'strict', fetch }).chat('gpt-4o'),
    responses: (m, fetch) => m.createOpenAI({ ...key, fetch }).responses('gpt-4o'),
  },
  azure: {
    chat: (m, fetch) => {
      const azure = m.createAzure({ ...key, resourceName: 'r', fetch });
      return (azure.chat ?? azure)('gpt-4o');
    },
    responses: (m, fetch) => m.createAzure({ ...key, resourceName: 'r', fetch }).responses('gpt-4o'),
  },
  anthropic: { anthropic: (m, fetch) => m.createAnthropic({ ...key, fetch })('claude-sonnet-4-20250514') },
  google: { gemini: (m, fetch) => m.createGoogleGenerativeAI({ ...key, fetch })('gemini-2.5-pro') },
  'google-vertex': { gemini: (m, fetch) => m.createVertex({ ...project, fetch })('gemini-2.5-pro') },
  'amazon-bedrock': { converse: (m, fetch) => m.createAmazonBedrock({ ...aws, fetch })('anthropic.claude-sonnet-4') },
  xai: {
    xai: (m, fetch) => m.createXai({ ...key, fetch }).chat?.('grok-4') ?? m.createXai({ ...key, fetch })('grok-4'),
    responses: (m, fetch) => m.createXai({ ...key, fetch }).responses?.('grok-4'),
  },
  groq: { groq: (m, fetch) => m.createGroq({ ...key, fetch })('openai/gpt-oss-20b') },
  mistral: { mistral: (m, fetch) => m.createMistral({ ...key, fetch })('mistral-large-latest') },
  cohere: { cohere: (m, fetch) => m.createCohere({ ...key, fetch })('command-a') },
  deepseek: { deepseek: (m, fetch) => m.createDeepSeek({ ...key, fetch })('deepseek-chat') },
  perplexity: {
    perplexity: (m, fetch) => m.createPerplexity({ ...key, fetch })('sonar'),
    responses: (m, fetch) => m.createPerplexity({ ...key, fetch })('sonar'),
  },
  'openai-compatible': { chat: (m, fetch) => m.createOpenAICompatible({ ...named, fetch })('x') },
  togetherai: { chat: (m, fetch) => m.createTogetherAI({ ...key, fetch })('x') },
  fireworks: { chat: (m, fetch) => m.createFireworks({ ...key, fetch })('x') },
  cerebras: { chat: (m, fetch) => m.createCerebras({ ...key, fetch })('x') },
  deepinfra: { chat: (m, fetch) => m.createDeepInfra({ ...key, fetch })('x') },
  vercel: { chat: (m, fetch) => m.createVercel({ ...key, fetch })('v0-1.0-md') },
  baseten: { chat: (m, fetch) => m.createBaseten({ ...key, fetch })('x') },
  moonshotai: { chat: (m, fetch) => m.createMoonshotAI({ ...key, fetch })('kimi-k2') },
  alibaba: { chat: (m, fetch) => m.createAlibaba({ ...key, fetch })('qwen-plus') },
  huggingface: { responses: (m, fetch) => m.createHuggingFace({ ...key, fetch })('x') },
  'open-responses': { responses: (m, fetch) => m.createOpenResponses({ ...named, fetch })('x') },
  gateway: { gateway: (m, fetch) => m.createGateway({ ...key, fetch })('openai/gpt-4o') },
};

/** APIs that a package lacks although others of its name have them. */
const SPEAKS: { [name: string]: string[] } = {
  '@ai-sdk-4/xai': ['xai'],
  '@ai-sdk-7/xai': ['responses'],
  '@ai-sdk-5/perplexity': ['responses'],
  '@ai-sdk-4/perplexity': ['perplexity'],
  '@ai-sdk/perplexity': ['perplexity'],
  '@ai-sdk-7/perplexity': ['perplexity'],
};

const messages = [{ role: 'user', content: 'Hi' }];

/** Calls through the vendors' own clients; `stream` is true for a stream. */
const CLIENTS: { [api: string]: (module: Any, fetch: Fetch, stream: boolean, options: Any) => Promise<Any> } = {
  'openai chat': ({ default: OpenAI }, fetch, stream, options) =>
    wrapOpenAI<Any>(new OpenAI({ ...key, fetch }), options).chat.completions.create({
      model: 'gpt-4o',
      messages,
      stream,
    }),
  'openai responses': ({ default: OpenAI }, fetch, stream, options) =>
    wrapOpenAI<Any>(new OpenAI({ ...key, fetch }), options).responses.create({ model: 'gpt-4o', input: 'Hi', stream }),
  'anthropic anthropic': ({ default: Anthropic }, fetch, stream, options) =>
    wrapAnthropic<Any>(new Anthropic({ ...key, fetch }), options).messages.create({
      model: 'claude-sonnet-4-20250514',
      max_tokens: 100,
      messages,
      stream,
    }),
  'genai gemini': async ({ GoogleGenAI }, fetch, stream, options) => {
    // This client has no option for its fetch.
    globalThis.fetch = fetch;
    const { models } = wrapGoogle<Any>(new GoogleGenAI(key), options);
    const request = { model: 'gemini-2.5-pro', contents: 'Hi' };
    return stream ? await models.generateContentStream(request) : await models.generateContent(request);
  },
};

function recorder() {
  const entries: object[] = [];
  const record = (entry: object) => {
    entries.push(JSON.parse(JSON.stringify(entry)));
    return { ok: true } as const;
  };
  return { entries, options: { tally: { record }, attributes: { merchantId: 'm' }, price: () => undefined } };
}

async function callProvider(model: Any, stream: boolean): Promise<object[]> {
  const { entries, options } = recorder();
  const { wrapGenerate, wrapStream } = tallyMiddleware(options);
  const ofVersion4 = model.specificationVersion === 'v1' ? { inputFormat: 'prompt', mode: { type: 'regular' } } : {};
  const params = { prompt: [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }], ...ofVersion4 };
  if (stream) {
    const { stream: parts } = await wrapStream<Any>({ model, params, doStream: () => model.doStream(params) });
    for await (const _ of parts);
  } else await wrapGenerate({ model, params, doGenerate: () => model.doGenerate(params) });
  return entries;
}

async function callClient(call: (stream: boolean, options: Any) => Promise<Any>, stream: boolean): Promise<object[]> {
  const { entries, options } = recorder();
  const result = await call(stream, options);
  if (stream) for await (const _ of result);
  return entries;
}

async function report(name: string, api: string, call: (answer: Answer, stream: boolean) => Promise<object[]>) {
  for (const stream of [false, true]) {
    const result = await call(ANSWERS[api]!, stream).catch((error: Error) => ({ error: String(error) }));
    process.stdout.write(`${JSON.stringify({ name, api, stream, result })}\n`);
  }
}

const { devDependencies } = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as { devDependencies: object };
for (const name of Object.keys(devDependencies)) {
  const provider = /^@ai-sdk(?:-\d)?\/(.+?)(?:-\d)?$/.exec(name)?.[1];
  const client = /^(openai|anthropic-sdk|@anthropic-ai\/sdk|genai|@google\/genai)(?:-\d)?$/.exec(name)?.[1];
  if (provider === undefined && client === undefined) continue;
  const module: Any = await import(name);
  if (provider !== undefined) {
    const apis = PROVIDERS[provider];
    if (!apis) throw new Error(`${name}: nobody knows how to call it`);
    for (const api of SPEAKS[name] ?? Object.keys(apis)) {
      if (provider === 'perplexity' && !SPEAKS[name]) throw new Error(`${name}: which API does it speak?`);
      await report(name, api, (answer, stream) =>
        callProvider(apis[api]!(module, stream ? answer.stream(name) : answer.whole(name)), stream),
      );
    }
  } else {
    const kind = client!.includes('anthropic') ? 'anthropic' : client!.includes('genai') ? 'genai' : 'openai';
    for (const [of, call] of Object.entries(CLIENTS)) {
      const [vendor, api] = of.split(' ') as [string, string];
      if (vendor !== kind) continue;
      await report(name, api, (answer, stream) =>
        callClient(
          (streamed, options) => call(module, stream ? answer.stream(name) : answer.whole(name), streamed, options),
          stream,
        ),
      );
    }
  }
}
