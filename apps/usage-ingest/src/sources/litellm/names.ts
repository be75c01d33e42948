import type { DirectoryStore, LearnedName } from '@tally/db';
import type { Log } from '@tally/service';

export type Names = {
  /** Writes the names that reports of calls had into the directory. Never throws: the calls count without. */
  learn(names: readonly LearnedName[]): Promise<void>;
};

/** Names that are remembered as written, so that a call costs no look at the directory. */
const MAX_KNOWN = 50_000;
const MAX_AT_ONCE = 1_000;

/** Fills the directory with what LiteLLM says of users, keys and teams. The newest report of each counts. */
export function createNames({ store, log }: { store: Pick<DirectoryStore, 'learn'>; log: Log }): Names {
  const known = new Map<string, { text: string; at: number }>();

  return {
    async learn(names) {
      const changed = new Map<string, LearnedName>();
      for (const each of names) {
        const key = JSON.stringify([each.kind, each.id, each.merchantId]);
        const text = JSON.stringify([each.name, each.email, each.team]);
        const before = known.get(key);
        if (before && (each.at < before.at || text === before.text)) {
          if (each.at > before.at) before.at = each.at;
          continue;
        }
        if (known.size >= MAX_KNOWN) known.clear();
        known.set(key, { text, at: each.at });
        changed.set(key, each);
      }
      const rows = [...changed];
      for (let start = 0; start < rows.length; start += MAX_AT_ONCE) {
        const some = rows.slice(start, start + MAX_AT_ONCE);
        try {
          await store.learn(some.map(([, name]) => name));
        } catch (err) {
          for (const [key] of some) known.delete(key);
          log.warn({ err }, 'names of LiteLLM were not written; the next calls bring them again');
        }
      }
    },
  };
}
