import type { WebhookEvent } from '@tally/contracts';

/** The body of a webhook: what Standard Webhooks suggests, and `text`, which is what Slack shows. */
export function messageOf(type: WebhookEvent, at: number, text: string, data: object): string {
  return JSON.stringify({ type, timestamp: new Date(at).toISOString(), data, text });
}
