import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { MerchantId } from './entry.ts';
import { MeterKey } from './meters.ts';
import { DecimalText, Quantity } from './quantity.ts';
import { Cursor, label, name, text, Uuid } from './text.ts';
import { StoredTime } from './time.ts';

/** The largest number of active webhooks, and of active alert rules. */
export const MAX_WEBHOOKS = 100;
export const MAX_ALERTS = 1_000;

export const WebhookEvent = z.enum([
  'budget.threshold',
  'alert.fired',
  'alert.resolved',
  'source.rejected',
  'drift.found',
  'webhook.test',
]);
export type WebhookEvent = z.infer<typeof WebhookEvent>;

const Url = text(2_000)
  .refine((value) => URL.canParse(value) && /^https?:$/.test(new URL(value).protocol), 'Expected an http or https URL')
  .refine((value) => {
    const { username, password } = URL.canParse(value) ? new URL(value) : { username: '', password: '' };
    return username === '' && password === '';
  }, 'A user name or a password in a URL is not allowed')
  // Nothing can listen there, so each delivery would fail for a day.
  .refine((value) => !URL.canParse(value) || new URL(value).port !== '0', 'Expected a port from 1 to 65535')
  .meta({ examples: ['https://hooks.example.com/tally'] });

/** `whsec_` and base64 of 24 to 64 bytes, as in Standard Webhooks. */
const Secret = z
  .string()
  .regex(
    /^whsec_(?=[A-Za-z0-9+/]{32,86}=*$)(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/,
    'Expected whsec_ and base64 of 24 to 64 bytes, with its padding',
  );

export const Webhook = z.object({
  id: z.string(),
  url: z.string(),
  /** Empty: all events. */
  events: z.array(z.string()),
  createdAt: StoredTime,
  createdBy: z.string(),
  /** Until then, requests are also signed with the secret from before the rotation. */
  previousSecretExpiresAt: StoredTime.nullable(),
});
export type Webhook = z.infer<typeof Webhook>;

/** The secret. Only this answer contains it. */
const WithSecret = Webhook.extend({ secret: z.string().nullable() });

export const WebhookDelivery = z.object({
  id: z.string(),
  webhookId: z.string(),
  event: z.string(),
  body: z.string(),
  status: z.enum(['pending', 'delivered', 'failed']),
  attempts: z.number().int(),
  nextAttemptAt: StoredTime.nullable(),
  /** The HTTP status of the last response; null without one. */
  lastStatus: z.number().int().nullable(),
  lastError: z.string().nullable(),
  createdAt: StoredTime,
  endedAt: StoredTime.nullable(),
});
export type WebhookDelivery = z.infer<typeof WebhookDelivery>;

/** Webhooks: requests that notify other systems, signed in the format of Standard Webhooks. */
export const webhooks = {
  create: mutation({
    summary: 'Creates a webhook; its secret is shown once.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      url: Url,
      secret: Secret.optional(),
      events: z.array(WebhookEvent).max(10).default([]),
    }),
    output: WithSecret,
  }),
  /** `rotateSecret` creates a new secret. For a day, requests are also signed with the old one. */
  update: mutation({
    summary: 'Changes a webhook, or gives it a new secret.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      id: Uuid,
      url: Url.optional(),
      events: z.array(WebhookEvent).max(10).optional(),
      rotateSecret: z.boolean().default(false),
    }),
    output: WithSecret,
  }),
  list: query({
    summary: 'Lists webhooks, oldest first.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({ rows: z.array(Webhook) }),
  }),
  remove: mutation({
    summary: 'Removes a webhook; what waits for it is not sent.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: Webhook,
  }),
  deliveries: query({
    summary: 'Lists deliveries, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        webhookId: Uuid.optional(),
        status: z.enum(['pending', 'delivered', 'failed']).optional(),
        limit: z.number().int().min(1).max(100).default(50),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(WebhookDelivery), nextCursor: z.string().nullable() }),
  }),
  /** Sends the same message with the same id, so that receivers can recognise the repeat. */
  replay: mutation({
    summary: 'Sends a delivery again.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: WebhookDelivery,
  }),
  test: mutation({
    summary: 'Sends a test event to a webhook.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: WebhookDelivery,
  }),
} as const;

export const AlertKind = z.enum(['budget', 'meter', 'custom', 'silence', 'rejections', 'drift']);
export type AlertKind = z.infer<typeof AlertKind>;

const Condition = z.strictObject({
  above: DecimalText.optional(),
  below: DecimalText.optional(),
  /** Budgets only: projects the spend at the end of the period from the spend so far. */
  forecastAbove: DecimalText.optional(),
  /** Budgets only: the number is a percentage of the limit. */
  percentOf: z.literal('limit').optional(),
  /** Silence only: minutes without an event. */
  minutes: z.number().int().min(1).max(43_200).optional(),
});
export type AlertCondition = z.output<typeof Condition>;

export const Alert = z.object({
  id: z.string(),
  name: z.string(),
  on: AlertKind,
  target: z.string(),
  condition: Condition,
  /** Empty: every webhook that accepts the event. */
  webhookIds: z.array(z.string()),
  createdAt: StoredTime,
  createdBy: z.string(),
});
export type Alert = z.infer<typeof Alert>;

const Rule = z.strictObject({
  name: label(100),
  on: AlertKind,
  /**
   * The id of a budget or of a custom metric; a meter, for all merchants by its key or for one as `merchant/key`; the
   * merchant whose silence alerts; or the source whose rejections do. `drift` is of all numbers, so it has no target.
   */
  target: name(128 + 1 + 64).default(''),
  condition: Condition,
  webhookIds: z.array(Uuid).max(20).default([]),
});

/** True for a target that its kind of rule can have: a merchant, or a meter with or without one. */
const isNamed = ({ on, target }: z.output<typeof Rule>) => {
  if (on === 'silence') return MerchantId.safeParse(target).success;
  if (on !== 'meter') return (on === 'drift') === (target === '');
  const at = target.lastIndexOf('/');
  return (
    MeterKey.safeParse(target.slice(at + 1)).success && (at < 0 || MerchantId.safeParse(target.slice(0, at)).success)
  );
};

const isWhole = ({ on, condition: { above, below, forecastAbove, percentOf, minutes } }: z.output<typeof Rule>) => {
  const limits = [above, below, forecastAbove].filter((each) => each !== undefined).length;
  if (on === 'silence') return limits === 0 && minutes !== undefined && percentOf === undefined;
  if (limits !== 1 || minutes !== undefined) return false;
  if (on === 'rejections') return above !== undefined && /^\d{1,2}$/.test(above) && percentOf === undefined;
  if (on === 'drift') return above !== undefined && /^\d{1,9}$/.test(above) && percentOf === undefined;
  return on === 'budget' ? below === undefined : forecastAbove === undefined && percentOf === undefined;
};

const Firing = z.object({
  /** An alert rule, or `budget:` and the id of a budget with thresholds. */
  rule: z.string(),
  event: WebhookEvent,
  periodStart: StoredTime,
  threshold: z.string(),
  value: Quantity.nullable(),
  text: z.string(),
  firedAt: StoredTime,
  resolvedAt: StoredTime.nullable(),
});

/** Alert rules. Each fires once per period, whatever restarts and however many engines run. */
export const alerts = {
  create: mutation({
    summary: 'Creates an alert rule on a budget, a meter, a custom metric, silence, rejections or drift.',
    access: 'admin',
    platform: true,
    input: Rule.refine(isNamed, {
      error: 'Expected a target, of silence a merchant, of meter `key` or `merchant/key`, of drift none.',
      path: ['target'],
    })
      .refine(isWhole, {
        error:
          'Expected for `on`: budget: above or forecastAbove; meter or custom: above or below; silence: minutes; rejections: above, at most 99; drift: above.',
        path: ['condition'],
      })
      .meta({
        examples: [{ name: 'No usage of acme', on: 'silence', target: 'acme', condition: { minutes: 60 } }],
      }),
    output: Alert,
  }),
  update: mutation({
    summary: 'Changes the name or the webhooks of an alert rule.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      id: Uuid,
      name: label(100).optional(),
      webhookIds: z.array(Uuid).max(20).optional(),
    }),
    output: Alert,
  }),
  list: query({
    summary: 'Lists alert rules, oldest first.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({ rows: z.array(Alert) }),
  }),
  remove: mutation({
    summary: 'Removes an alert rule.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: Alert,
  }),
  test: query({
    summary: 'Returns what an alert rule measures now, and whether it would fire.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: z.object({ fires: z.boolean(), value: Quantity.nullable(), periodStart: StoredTime }),
  }),
  history: query({
    summary: 'Lists what fired, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        rule: text(100).optional(),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(Firing), nextCursor: z.string().nullable() }),
  }),
} as const;
