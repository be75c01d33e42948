/** Token counts of a call as its provider or SDK reports them. Absent: not reported, which is not 0. */
export type ReportedUsage = {
  input?: number | undefined;
  output?: number | undefined;
  total?: number | undefined;
  cacheRead?: number | undefined;
  cacheWrite?: number | undefined;
  /** The part of `cacheWrite` that is kept for an hour, at another price. */
  cacheWriteHour?: number | undefined;
  reasoning?: number | undefined;
  webSearches?: number | undefined;
};

/** Tokens of a call. `prompt` includes cache reads and writes, `completion` includes reasoning. */
export type TokenUsage = {
  prompt: number;
  completion: number;
  cacheRead?: number | undefined;
  cacheWrite?: number | undefined;
  /** The part of `cacheWrite` that is kept for an hour, at another price. */
  cacheWriteHour?: number | undefined;
  reasoning?: number | undefined;
  webSearches?: number | undefined;
};

/** `inside`: the sum includes the part; `beside`: the part must be added. */
type Place = 'inside' | 'beside';

/** Whether a provider's `input` includes cached tokens, and its `output` reasoning tokens. */
export type Convention = { cache: Place; reasoning: Place };

const OPENAI: Convention = { cache: 'inside', reasoning: 'inside' };
const ANTHROPIC: Convention = { cache: 'beside', reasoning: 'inside' };
const BEDROCK: Convention = { cache: 'beside', reasoning: 'inside' };
const XAI: Convention = { cache: 'inside', reasoning: 'beside' };
const GOOGLE: Convention = { cache: 'inside', reasoning: 'beside' };

/** The vendors' own APIs, as their clients return them. */
export const API: { openai: Convention; anthropic: Convention; google: Convention } = {
  openai: OPENAI,
  anthropic: ANTHROPIC,
  google: GOOGLE,
};

/** Versions 6 and 7 of the AI SDK report sums that include everything, whichever provider answered. */
export const AI_SDK_6: Convention = { cache: 'inside', reasoning: 'inside' };

/**
 * Version 5 of the AI SDK passes on the vendor's report. The first pattern found in the provider's whole name decides:
 * `vertex.anthropic.messages` is Anthropic's API behind Google's address.
 */
const AI_SDK_5: readonly (readonly [RegExp, Convention])[] = [
  [/anthropic/i, ANTHROPIC],
  [/bedrock/i, BEDROCK],
  [/maas|xai|openai/i, OPENAI],
  [/google|vertex|gemini/i, GOOGLE],
];

/**
 * Returns the convention of AI SDK 4's usage. It has no total, which for xAI would reveal what the output leaves out.
 */
export const aiSdk4Convention = (provider: string): Convention =>
  /^xai\b/.test(provider) ? XAI : aiSdk5Convention(provider, undefined);

/** Returns the convention of AI SDK 5's flat usage; a gateway passes on the report of the model's vendor. */
export function aiSdk5Convention(provider: string, model: string | undefined): Convention {
  const name = /^gateway\b/.test(provider) ? (model ?? '') : provider;
  return AI_SDK_5.find(([pattern]) => pattern.test(name))?.[1] ?? OPENAI;
}

/**
 * Returns the tokens of a call with every part inside its sum, by one rule for all providers. Missing counts stay
 * absent. Two contradictions overrule the convention: a part cannot exceed the sum that includes it, and a total that
 * only adds up with the reasoning tokens shows that they are beside the output.
 */
export function tokensOf(reported: ReportedUsage, convention: Convention): Partial<TokenUsage> {
  const { input, output, total, cacheRead, cacheWrite, cacheWriteHour, reasoning, webSearches } = reported;
  const cached = (cacheRead ?? 0) + (cacheWrite ?? 0);
  const thought = reasoning ?? 0;
  let prompt = input;
  if (prompt !== undefined && (convention.cache === 'beside' || cached > prompt)) prompt += cached;
  let completion = output;
  if (completion === undefined) {
    if (input !== undefined && total !== undefined && total >= input) completion = total - input;
  } else if (
    convention.reasoning === 'beside' ||
    thought > completion ||
    (input !== undefined && thought > 0 && total === input + completion + thought)
  ) {
    completion += thought;
  }
  return { prompt, completion, cacheRead, cacheWrite, cacheWriteHour, reasoning, webSearches };
}

/** Returns a count of a foreign object; undefined for anything but a whole number from 0 on. */
export const count = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;

/** Returns true if a usage object contains a number of at least `least`, at any depth. */
export const reportsAnything = (usage: unknown, least = Number.NEGATIVE_INFINITY): boolean =>
  typeof usage === 'number'
    ? usage >= least
    : typeof usage === 'object' && usage !== null && Object.values(usage).some((each) => reportsAnything(each, least));
