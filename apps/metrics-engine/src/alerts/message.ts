import type { WebhookEvent } from '@tally/contracts';

/** The body of a webhook: the form that Standard Webhooks suggests, plus `text`, which Slack shows. */
export function messageOf(type: WebhookEvent, at: number, text: string, data: object): string {
  return JSON.stringify({ type, timestamp: new Date(at).toISOString(), data, text });
}
