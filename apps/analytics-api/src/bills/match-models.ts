/** The common name of each model on the bill and in our usage. */
export type MatchedModels = { ofBill: ReadonlyMap<string, string>; ofOurs: ReadonlyMap<string, string> };

/**
 * Matches names of models. Names that both sides use stay as they are. Of the others, those that differ only in their
 * date, in `-latest`, in a provider before a slash or in how spaces and points are written are one model, under our
 * first name.
 */
export function matchModels(bill: Iterable<string>, ours: Iterable<string>): MatchedModels {
  const [theirs, own] = [new Set(bill), new Set(ours)];
  const families = new Map<string, string>();
  for (const name of [...own].sort().reverse()) if (!theirs.has(name)) families.set(familyOf(name), name);
  const known = new Set([...theirs].filter((name) => !own.has(name)).map(familyOf));
  const common = (name: string, isShared: boolean) => {
    const family = familyOf(name);
    return isShared || !known.has(family) ? name : (families.get(family) ?? name);
  };
  return {
    ofBill: new Map([...theirs].map((name) => [name, common(name, own.has(name))])),
    ofOurs: new Map([...own].map((name) => [name, common(name, theirs.has(name))])),
  };
}

/** `Claude Haiku 4.5`, `claude-haiku-4-5-20251001` and `anthropic/claude-haiku-4-5` are one family. */
export const familyOf = (name: string): string =>
  name
    .toLowerCase()
    .replace(/^.*\//, '')
    .replace(/[\s._]+/g, '-')
    .replace(/-(?:\d{4}-\d{2}-\d{2}|\d{8}|latest)$/, '');
