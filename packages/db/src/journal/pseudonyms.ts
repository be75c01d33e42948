import { z } from 'zod';
import { type Executor, runSql } from '../run-sql.ts';

const MerchantRow = z.object({ merchant_id: z.string() });
const NameRow = z.object({ merchant_id: z.string(), user_id: z.string(), pseudonym: z.string() });

/**
 * Replaces erased users in lines by their pseudonyms. The caller holds the locks of the merchants, so that no erasure
 * begins before it commits.
 */
export async function withPseudonyms<Line extends { merchant_id: string; user_id?: string }>(
  transaction: Executor,
  lines: readonly Line[],
): Promise<readonly Line[]> {
  const merchantIds = [...new Set(lines.map((line) => line.merchant_id))];
  const having = await runSql(transaction, 'erase/merchants', [merchantIds], MerchantRow);
  if (having.length === 0) return lines;
  const merchants = new Set(having.map((row) => row.merchant_id));
  const keyOf = (line: { merchant_id: string; user_id?: string }) => `${line.merchant_id}\n${line.user_id}`;
  const pairs = new Map(
    lines.filter((line) => line.user_id && merchants.has(line.merchant_id)).map((line) => [keyOf(line), line]),
  );
  const values = [[...pairs.values()].map((line) => line.merchant_id), [...pairs.values()].map((line) => line.user_id)];
  const names = new Map(
    (await runSql(transaction, 'erase/names', values, NameRow)).map((row) => [keyOf(row), row.pseudonym]),
  );
  if (names.size === 0) return lines;
  return lines.map((line) => {
    const pseudonym = names.get(keyOf(line));
    return pseudonym === undefined ? line : { ...line, user_id: pseudonym };
  });
}
