import { createIngestClient, messageOf } from '@tally/contracts/client';

/**
 * AWS Lambda handler of the documented job, for EventBridge `cron(0 * * * ? *)`: 200 if everything succeeded, else 500.
 * `USAGE_INGEST_URL` and `TALLY_ADMIN_KEY` name the service; the event may name a `date`.
 */
export async function handler(event: { date?: string } = {}): Promise<{ statusCode: number; body: string }> {
  const client = createIngestClient({
    url: process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001',
    key: process.env.TALLY_ADMIN_KEY ?? '',
  });
  try {
    const result = await client.flush.run.mutate(event.date === undefined ? {} : { date: event.date });
    return { statusCode: result.success ? 200 : 500, body: JSON.stringify(result) };
  } catch (error) {
    const errors = [{ key: 'job', message: messageOf(error) }];
    return { statusCode: 500, body: JSON.stringify({ success: false, errors }) };
  }
}
