import { type Checked, LITELLM_GUARDRAIL_PATH, TallyError } from '@tally/contracts';
import { z } from 'zod';
import { jsonOf } from '../json-body.ts';
import { dimension, present } from '../naming.ts';
import type { Source } from '../source.ts';
import { keyOf, merchantOfCall, type Rules } from './call.ts';

const Text = z.string().nullish().catch(null).transform(present);

/** LiteLLM's question about a call, as far as it is read; it also contains the messages. */
const Question = z.looseObject({
  input_type: Text,
  model: Text,
  request_data: z
    .looseObject({
      user_api_key_hash: Text,
      user_api_key_alias: Text,
      user_api_key_user_id: Text,
      user_api_key_team_id: Text,
      user_api_key_org_id: Text,
    })
    .nullish(),
});

/**
 * Answers LiteLLM's generic guardrail: blocks a call, before it is made, whose hard budget is used up. Nothing is
 * reserved, since LiteLLM reports what a call used only later, as an event.
 */
export function guardrail(rules: Rules, maxBodyBytes: number): Source {
  return {
    name: 'litellm.guardrail',
    events: [],
    others: [
      {
        method: 'POST',
        path: LITELLM_GUARDRAIL_PATH,
        access: 'record',
        maxBodyBytes,
        async answer({ body, call }) {
          const { data } = Question.safeParse(jsonOf(body));
          if (!data) throw new TallyError('INVALID_INPUT', 'Expected the object that a generic guardrail gets.');
          // What the model answered is used already.
          if (data.input_type === 'response') return Response.json({ action: 'NONE' });
          const about = data.request_data;
          const merchantId = merchantOfCall(rules, {
            team: about?.user_api_key_team_id,
            organization: about?.user_api_key_org_id,
            alias: about?.user_api_key_alias,
          });
          const { allowed, refusedBy, degraded } = (await call('budgets.check', {
            merchantId,
            ...dimension('userId', about?.user_api_key_user_id),
            ...dimension('apiKey', about?.user_api_key_hash && keyOf(about.user_api_key_hash)),
            ...dimension('model', data.model),
          })) as Checked;
          if (allowed) return Response.json({ action: 'NONE' });
          const reason = degraded ? 'cannot be asked now, and its setting is to refuse' : 'is used up';
          return Response.json({ action: 'BLOCKED', blocked_reason: `Budget ${refusedBy.join(', ')} ${reason}.` });
        },
      },
    ],
  };
}
