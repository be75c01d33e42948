import type { AuditRow } from '@tally/contracts';
import { understand } from '../errors/errors.ts';
import type { Log } from '../process/log.ts';
import type { Caller } from './auth.ts';

/** Runs a mutation and records it in the audit log. */
export type Audit = <T>(action: { name: string; caller: Caller; input: unknown }, run: () => Promise<T>) => Promise<T>;

export type AuditOptions = {
  service: string;
  store: {
    begin(
      action: Pick<
        AuditRow,
        'service' | 'action' | 'actor' | 'role' | 'actorMerchantId' | 'merchantIds' | 'targetId' | 'input'
      >,
    ): Promise<string>;
    finish(id: string, end: { outcome: string; targetId: string | null; durationMs: number }): Promise<void>;
  };
  log: Log;
};

const MAX_MERCHANTS = 100;

/**
 * The row is written before the mutation runs. A mutation that cannot be recorded does not run, and one that a crash
 * interrupts leaves a row without an outcome. If only the outcome cannot be recorded, the caller still gets its answer.
 */
export function createAudit({ service, store, log }: AuditOptions): Audit {
  return async ({ name, caller, input }, run) => {
    const id = await store.begin({
      service,
      action: name,
      actor: caller.id,
      role: caller.role,
      actorMerchantId: caller.merchantId,
      merchantIds: merchantsOf(input, caller),
      targetId: idOf(input),
      input: summaryOf(input),
    });
    const started = performance.now();
    const finish = (outcome: string, targetId: string | null) =>
      store
        .finish(id, { outcome, targetId, durationMs: Math.round(performance.now() - started) })
        .catch((error: unknown) => log.error({ err: error, auditId: id, outcome }, 'an outcome was not recorded'));
    try {
      const answer = await run();
      await finish(saysFailed(answer) ? 'failed' : 'ok', idOf(answer));
      return answer;
    } catch (error) {
      await finish(understand(error).code, null);
      throw error;
    }
  };
}

type Fields = { [name: string]: unknown };

const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};

/** Bulk mutations answer even if a part failed. */
function saysFailed(answer: unknown): boolean {
  const { success, status } = fieldsOf(answer);
  return success === false || status === 'FAILED';
}

function idOf(value: unknown): string | null {
  const { id, jobId } = fieldsOf(value);
  const found = id ?? jobId;
  return typeof found === 'string' ? cut(found) : null;
}

function merchantsOf(input: unknown, caller: Caller): string[] {
  const { merchantId, merchantIds, entries, scope } = fieldsOf(input);
  const listed = [merchantIds, entries].map((list): unknown[] => (Array.isArray(list) ? list : []));
  const named = [
    merchantId,
    fieldsOf(scope).merchantId,
    ...listed[0]!,
    ...listed[1]!.map((e) => fieldsOf(e).merchantId),
  ];
  const ids = new Set(named.filter((id) => typeof id === 'string').map(cut));
  if (ids.size === 0 && caller.merchantId !== null) ids.add(caller.merchantId);
  return [...ids].slice(0, MAX_MERCHANTS);
}

const MAX_DEPTH = 5;
const MAX_ITEMS = 10;
const MAX_TEXT = 200;
/** Characters of all names and texts of a summary. */
const MAX_CHARACTERS = 4_000;
const SECRET_NAME = /(secret|password|token|credentials?|authorization)$/i;
const SECRET_TEXT = /^(tally|sk|pk|whsec)[_-]/;
const URL_NAME = /url$/i;
// biome-ignore lint/suspicious/noControlCharactersInRegex: Postgres cannot keep it.
const UNSTORABLE = /[\u0000\p{Cs}]/gu;

/** Returns an input shortened for storage, without secrets, Tally's or others'. */
export function summaryOf(input: unknown): Fields {
  let left = MAX_CHARACTERS;
  const take = (text: string) => {
    left -= text.length;
    return text;
  };

  function shorten(name: string, value: unknown, depth: number): unknown {
    if (typeof value === 'string') return take(textOf(name, value));
    if (typeof value !== 'object' || value === null) {
      left -= 8;
      return value;
    }
    if (depth >= MAX_DEPTH) return '…';
    if (!Array.isArray(value)) return fields(value as Fields, depth);
    const first: unknown[] = [];
    for (const each of value.slice(0, MAX_ITEMS)) if (left > 0) first.push(shorten(name, each, depth + 1));
    return first.length === value.length ? first : { count: value.length, first };
  }

  function fields(value: Fields, depth: number): Fields {
    const short: Fields = {};
    for (const [name, each] of Object.entries(value)) {
      if (left <= 0) {
        short['…'] = 'shortened';
        break;
      }
      short[take(textOf('', name))] = shorten(name, each, depth + 1);
    }
    return short;
  }

  return fields(fieldsOf(input), 0);
}

function textOf(name: string, text: string): string {
  if (SECRET_NAME.test(name) || SECRET_TEXT.test(text)) return '[secret]';
  // Addresses carry passwords and, as those of webhooks, secrets in their paths.
  if (URL_NAME.test(name)) return URL.canParse(text) ? new URL(text).origin : '[not a URL]';
  return cut(text);
}

/** Returns text of bounded length that Postgres can store. */
function cut(text: string): string {
  const short = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
  return short.replace(UNSTORABLE, '\ufffd');
}
