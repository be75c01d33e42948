import { LITELLM_PATHS, TallyError } from '@tally/contracts';
import type { Route } from '@tally/service';
import type { Env } from './env.ts';

const TIMEOUT_MS = 30_000;
/** Headers that identify the caller and describe the body; the body itself is inflated by now. */
const PASSED_ON = ['authorization', 'x-api-key', 'content-type', 'x-request-id'];

/** Forwards LiteLLM's callbacks to usage-ingest, which serves these paths now. Removed in the next release. */
export function formerRoutes(env: Pick<Env, 'USAGE_INGEST_URL' | 'LITELLM_MAX_BODY_BYTES'>): Route[] {
  return Object.values(LITELLM_PATHS).map((path) => ({
    method: 'POST',
    path,
    access: 'record',
    source: true,
    anyType: true,
    maxBodyBytes: env.LITELLM_MAX_BODY_BYTES,
    maxItems: 200_000,
    async answer(c, { body }) {
      const headers = PASSED_ON.flatMap((name) => {
        const value = c.req.header(name);
        return value === undefined ? [] : [[name, value] as [string, string]];
      });
      try {
        const signal = AbortSignal.timeout(TIMEOUT_MS);
        const answer = await fetch(new URL(path, env.USAGE_INGEST_URL), { method: 'POST', headers, body, signal });
        const text = await answer.arrayBuffer();
        const type = answer.headers.get('content-type');
        return new Response(answer.status === 204 ? null : text, {
          status: answer.status,
          headers: type === null ? {} : { 'content-type': type },
        });
      } catch (cause) {
        throw new TallyError('UNAVAILABLE', 'usage-ingest did not answer; send the calls again.', { cause });
      }
    },
  }));
}
