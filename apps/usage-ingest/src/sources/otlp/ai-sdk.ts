/**
 * Returns the tokens of a call of the AI SDK 4 to 6 with what its span leaves out. Versions 4 and 5 pass on the vendor's
 * counts: Anthropic's input is without the tokens of its cache, Gemini's output without its reasoning, and for calls
 * without a stream only the metadata of the vendor's package have these parts. Later versions write the same attributes
 * about complete sums, so the vendor's own numbers decide. What is no count is returned as it is.
 */
export function completeTokens(
  tokens: Readonly<Record<string, string>>,
  totalTokens: string | undefined,
  metadata: string | undefined,
): Record<string, string> {
  const vendor = vendorCounts(metadata);
  const numberOf = (type: string) => countOf(tokens[type] ?? null);
  const prompt = numberOf('prompt_tokens');
  const completion = numberOf('completion_tokens');
  const read = numberOf('cached_tokens') ?? vendor.cacheRead;
  const write = numberOf('cache_write_tokens') ?? vendor.cacheWrite;
  const reasoning = numberOf('reasoning_tokens') ?? vendor.reasoning;
  const total = countOf(totalTokens ?? null) ?? vendor.total;
  const cache = (read ?? 0) + (write ?? 0);

  const complete: Record<string, string> = { ...tokens };
  const set = (type: string, value: number | undefined) => {
    if (value !== undefined) complete[type] = String(value);
  };
  set('cached_tokens', read);
  set('cache_write_tokens', write);
  set('reasoning_tokens', reasoning);
  if (prompt === undefined || completion === undefined) return complete;
  const totalNeeds = (part: number) => part > 0 && total === prompt + completion + part;
  const isWithoutCache = vendor.input === undefined ? vendor.isVersion4 || totalNeeds(cache) : vendor.input === prompt;
  if (isWithoutCache) set('prompt_tokens', prompt + cache);
  else if (totalNeeds(reasoning ?? 0)) set('completion_tokens', completion + reasoning!);
  return complete;
}

/** Longer metadata contain texts, such as results of a search. */
const MAX_METADATA = 100_000;

/** Returns the counts in a vendor's metadata, under whichever vendor's key they are. */
function vendorCounts(text: string | undefined) {
  const counts: Partial<Record<'input' | 'cacheRead' | 'cacheWrite' | 'reasoning' | 'total', number>> = {};
  let isVersion4 = false;
  for (const vendor of Object.values(objectIn(text))) {
    const own = objectOf(vendor);
    const usage: Record<string, unknown> = { ...objectOf(own.usageMetadata), ...objectOf(own.usage), ...own };
    const add = (name: keyof typeof counts, ...keys: string[]) => {
      for (const key of keys) counts[name] ??= countOf(usage[key]);
    };
    add('input', 'input_tokens');
    // Later versions have these in attributes of their own.
    isVersion4 ||= countOf(usage.cacheReadInputTokens) !== undefined;
    add('cacheRead', 'cacheReadInputTokens', 'cache_read_input_tokens', 'cachedPromptTokens');
    add('cacheRead', 'promptCacheHitTokens', 'cachedContentTokenCount');
    add('cacheWrite', 'cacheCreationInputTokens', 'cache_creation_input_tokens', 'cacheWriteInputTokens');
    add('reasoning', 'reasoningTokens', 'thoughtsTokenCount');
    add('total', 'totalTokenCount');
  }
  return { ...counts, isVersion4 };
}

/** Returns a whole number from 0 on; undefined for anything else. */
function countOf(value: unknown): number | undefined {
  const number = typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value;
  return typeof number === 'number' && Number.isSafeInteger(number) && number >= 0 ? number : undefined;
}

const objectOf = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};

function objectIn(text: string | undefined): Record<string, unknown> {
  if (text === undefined || text.length > MAX_METADATA) return {};
  try {
    return objectOf(JSON.parse(text));
  } catch {
    return {};
  }
}
