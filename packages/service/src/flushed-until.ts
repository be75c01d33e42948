const MAX_MERCHANTS = 10_000;

/**
 * Remembers until when everything acknowledged is known to be in Postgres, from flushes that usage-ingest answered.
 * Without usage-ingest nothing newer is known: the last flush says nothing about events that waited beside it.
 */
export type FlushedUntil = {
  /** Notes a flush of some merchants, or of all: everything acknowledged before `asOf` is in Postgres. */
  note(merchantIds: readonly string[] | undefined, asOf: string): void;
  /** Returns the last such moment of all these merchants; null if none is known. */
  of(merchantIds: readonly string[] | undefined): string | null;
};

export function createFlushedUntil(): FlushedUntil {
  let ofAll: string | null = null;
  const ofMerchants = new Map<string, string>();
  const later = (left: string | null, right: string | null) =>
    left === null || (right !== null && Date.parse(right) > Date.parse(left)) ? right : left;

  return {
    note(merchantIds, asOf) {
      if (merchantIds === undefined) ofAll = later(ofAll, asOf);
      for (const id of merchantIds ?? []) {
        const known = later(ofMerchants.get(id) ?? null, asOf)!;
        ofMerchants.delete(id);
        ofMerchants.set(id, known);
      }
      for (const id of ofMerchants.keys()) {
        if (ofMerchants.size <= MAX_MERCHANTS) break;
        ofMerchants.delete(id);
      }
    },
    of(merchantIds) {
      if (!merchantIds?.length) return ofAll;
      const moments = merchantIds.map((id) => later(ofAll, ofMerchants.get(id) ?? null));
      // The earliest; null as soon as nothing is known of one of them.
      return moments.reduce((first, moment) => (first === null || later(first, moment) !== first ? first : moment));
    },
  };
}
