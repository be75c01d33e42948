import { createHash } from 'node:crypto';
import {
  type CheckedEntry,
  formatCost,
  formatQuantity,
  MAX_ENTRY_UNITS,
  parseTime,
  TallyError,
} from '@tally/contracts';
import type { LearnedName } from '@tally/db';
import { parseExactly, unitsOf } from '@tally/service';
import { z } from 'zod';
import { decoration, dimension, dimensionValue, idOf, present, readable } from '../naming.ts';

/**
 * Settings for turning calls of LiteLLM into events: the same for pulled and pushed calls, so that both become one
 * event.
 */
export type Rules = {
  /**
   * The merchant of a call: a fixed `merchant`, or its team, its organisation, or the alias of its key; `merchant` if
   * the call has none.
   */
  merchantFrom: 'fixed' | 'team' | 'organization' | 'key_alias';
  merchant: string;
  /** The type of the events of the `openmeter` callback. */
  eventType: string;
};

/** The ids in one report of a call. */
export type CallIds = {
  /** The id of the model's answer, if the report names it. */
  response: string | undefined;
  /** All ids, including that; the first becomes the event's id unless another report of the call came before. */
  all: readonly string[];
  /** True if `at` is the time of sending, not the start. */
  isSentTime: boolean;
};

/** One call as it is recorded; `at` is the start of the call in milliseconds, which decides its day. */
export type Call = { entry: CheckedEntry; at: number; ids: CallIds; names: readonly LearnedName[] };

/** Text, or a number, which is read as its text; anything else counts as absent, also text for a missing value. */
const Text = z.string().nullish().catch(null).transform(present);
/** A counted value: one that is no text or number makes the item unreadable. */
const Needed = z.string().nullish().transform(present);
const Metadata = z
  .looseObject({
    litellm_call_id: Text,
    user_api_key: Text,
    user_api_key_hash: Text,
    user_api_key_alias: Text,
    user_api_key_team_id: Text,
    user_api_key_org_id: Text,
    user_api_key_user_id: Text,
    user_api_key_user_email: Text,
    user_api_key_team_alias: Text,
    status: Text,
    usage_object: z.unknown().optional(),
  })
  .partial();
type Metadata = z.infer<typeof Metadata>;

const Common = {
  call_type: Text,
  model: Text,
  model_group: Text,
  custom_llm_provider: Text,
  end_user: Text,
  status: Text,
  request_tags: z.unknown().optional(),
  metadata: z.unknown().optional(),
  cache_hit: z.union([z.boolean(), z.string()]).nullish(),
  prompt_tokens: Needed,
  completion_tokens: Needed,
  total_tokens: Needed,
};

/** A row of /spend/logs/v2. */
const SpendLog = z.object({
  ...Common,
  request_id: Needed,
  startTime: Needed,
  spend: Needed,
  api_key: Text,
  user: Text,
  team_id: Text,
  organization_id: Text,
  mcp_namespaced_tool_name: Text,
  response: z.unknown().optional(),
});

/** A StandardLoggingPayload; `usage` and `cost` follow LiteLLM's documentation. */
const Payload = z.object({
  ...Common,
  id: Needed,
  litellm_call_id: Text,
  startTime: Needed,
  response_cost: Needed,
  /** Set if LiteLLM knows no price; the cost beside it is then no amount. */
  response_cost_failure_debug_info: z.unknown().optional(),
  cost: Needed,
  usage: z.unknown().optional(),
});

/** A CloudEvent of the `openmeter` callback. */
const Event = z.object({
  specversion: z.literal('1.0', 'Expected specversion "1.0"'),
  id: z.string().min(1),
  source: z.string().min(1),
  type: z.string().min(1),
  subject: z.string().min(1),
  time: z.string().nullish(),
  data: z
    .object({ model: Text, cost: Needed, prompt_tokens: Needed, completion_tokens: Needed, total_tokens: Needed })
    .nullish(),
});

/** Reads a row of /spend/logs/v2. Throws INVALID_ENTRY. */
export function fromSpendLog(value: unknown, rules: Rules): Call {
  const row = parse(SpendLog, value);
  const metadata = metadataOf(row.metadata);
  // Which of a call's ids `request_id` is depends on LiteLLM's version.
  const others = [objectOf(row.response).id, metadata.litellm_call_id].map(textOf);
  return callOf(
    {
      response: null,
      others: [row.request_id, ...others],
      start: row.startTime,
      cost: row.spend,
      row,
      metadata,
      apiKey: row.api_key || metadata.user_api_key_hash || metadata.user_api_key,
      userId: row.user || metadata.user_api_key_user_id,
      team: row.team_id || metadata.user_api_key_team_id,
      organization: row.organization_id || metadata.user_api_key_org_id,
      tool: row.mcp_namespaced_tool_name,
    },
    rules,
  );
}

/** Reads a StandardLoggingPayload. Throws INVALID_ENTRY. */
export function fromPayload(value: unknown, rules: Rules): Call {
  const payload = parse(Payload, value);
  if (typeof payload.usage === 'string')
    throw invalid('usage is text: this is the legacy payload; turn off generic_api_use_v1 in LiteLLM.');
  const usage = isRecord(payload.usage) ? payload.usage : {};
  const metadata = metadataOf(payload.metadata);
  const row = {
    ...payload,
    prompt_tokens: payload.prompt_tokens ?? textOf(usage.prompt_tokens),
    completion_tokens: payload.completion_tokens ?? textOf(usage.completion_tokens),
    total_tokens: payload.total_tokens ?? textOf(usage.total_tokens),
  };
  return callOf(
    {
      // A failed call has no answer: its id is that of the call.
      response: payload.id === payload.litellm_call_id ? null : payload.id,
      others: [payload.litellm_call_id],
      start: payload.startTime,
      cost: payload.response_cost_failure_debug_info ? null : (payload.response_cost ?? payload.cost),
      row,
      metadata,
      apiKey: metadata.user_api_key_hash || metadata.user_api_key,
      userId: metadata.user_api_key_user_id,
      team: metadata.user_api_key_team_id,
      organization: metadata.user_api_key_org_id,
      tool: null,
    },
    rules,
  );
}

/**
 * Reads an event of the `openmeter` callback. It names neither team, organisation nor key, so it is rejected if the
 * merchant depends on one of them.
 */
export function fromEvent(value: unknown, rules: Rules, now: number): Call {
  const event = parse(Event, value);
  if (rules.merchantFrom !== 'fixed')
    throw invalid(
      'Events of the openmeter callback name neither team, organisation nor key; use the generic_api callback.',
    );
  if (event.type !== rules.eventType)
    throw invalid(
      `type: Expected ${rules.eventType} (LITELLM_EVENT_TYPE), not ${decoration(event.type)}. ` +
        'Send events of other programs to /api/v1/events.',
    );
  const response = present(event.id);
  if (response === null) throw invalid(`id: ${JSON.stringify(event.id)} identifies nothing.`);
  const at = event.time ? startOf(event.time) : now;
  const { data } = event;
  const userId = present(event.subject);
  const tokens = tokensOf(data ?? {});
  return {
    at,
    names: [],
    ids: { response: idOf(response), all: [idOf(response)], isSentTime: true },
    entry: {
      id: idOf(response),
      merchantId: rules.merchant,
      time: new Date(at).toISOString(),
      ...dimension('userId', userId),
      ...modelOf(data?.model, undefined),
      metrics: { ...tokens.metrics, ...costOf(data?.cost) },
      properties: { source: 'litellm', cloud_event: decoration(event.type), ...tokens.properties },
    },
  };
}

/** The fields that rows and payloads share. */
type Report = {
  response: string | null;
  others: readonly (string | null)[];
  start: string | null | undefined;
  cost: string | null | undefined;
  row: z.infer<z.ZodObject<typeof Common>>;
  metadata: Metadata;
  apiKey: string | null | undefined;
  userId: string | null | undefined;
  team: string | null | undefined;
  organization: string | null | undefined;
  tool: string | null | undefined;
};

function callOf(report: Report, rules: Rules): Call {
  const { row, metadata, start } = report;
  if (!start) throw invalid('It has no startTime.');
  const at = startOf(start);
  const cacheHit = row.cache_hit === true || /^true$/i.test(String(row.cache_hit ?? ''));
  const merchantId = merchantOfCall(rules, {
    team: report.team,
    organization: report.organization,
    alias: metadata.user_api_key_alias,
  });
  const properties: NonNullable<CheckedEntry['properties']> = { source: 'litellm' };
  const decorate = (name: string, value: string | null | undefined) => {
    if (value) properties[name] = decoration(value);
  };
  decorate('call_type', row.call_type);
  decorate('model_group', row.model_group);
  decorate('end_user', row.end_user);
  decorate('key_alias', metadata.user_api_key_alias);
  decorate('team', report.team);
  decorate('tool', report.tool);
  for (const [name, value] of tagsOf(row.request_tags)) decorate(name, value);
  if (cacheHit) properties.cache_hit = true;
  const identify = (id: string) => (cacheHit ? cacheHitId(id, start) : idOf(id));
  const all = [report.response, ...report.others].flatMap((id) => (present(id) === null ? [] : [identify(id!)]));
  const [id] = all;
  if (id === undefined) throw invalid('It has no id.');
  const tokens = tokensOf(row);
  const call = {
    at,
    ids: {
      response: report.response === null ? undefined : identify(report.response),
      all: [...new Set(all)],
      isSentTime: false,
    },
    entry: {
      id,
      merchantId,
      time: new Date(at).toISOString(),
      ...dimension('userId', report.userId),
      ...dimension('apiKey', report.apiKey && keyOf(report.apiKey)),
      ...modelOf(row.model, row.custom_llm_provider),
      status: (row.status || metadata.status) === 'failure' ? 'failure' : 'success',
      metrics: { ...tokens.metrics, ...partsOf(metadata.usage_object), ...costOf(report.cost) },
      properties: { ...properties, ...tokens.properties },
    },
  } satisfies Omit<Call, 'names'>;
  const names = namesOf(call, rules, {
    alias: metadata.user_api_key_alias,
    email: metadata.user_api_key_user_email,
    team: report.team,
    teamAlias: metadata.user_api_key_team_alias,
  });
  return { ...call, names };
}

/**
 * Returns what a report calls the user, the key and the merchant of its entry. The team is that of the key, since users
 * may be in several; its alias is what people know it by.
 */
function namesOf(
  { entry, at }: { entry: CheckedEntry; at: number },
  rules: Rules,
  about: Record<'alias' | 'email' | 'team' | 'teamAlias', string | null | undefined>,
): LearnedName[] {
  const { merchantId, userId, apiKey } = entry;
  const [alias, email, teamAlias] = [readable(about.alias), readable(about.email, 320), readable(about.teamAlias)];
  const team = dimensionValue(teamAlias ?? about.team);
  const names: LearnedName[] = [];
  if (userId && email)
    names.push({ kind: 'user', id: userId, merchantId, name: email.slice(0, 256), email, team: null, at });
  if (apiKey && (alias ?? team) !== null)
    names.push({ kind: 'apiKey', id: apiKey, merchantId, name: alias, email: null, team, at });
  if (rules.merchantFrom === 'team' && about.team && teamAlias)
    names.push({ kind: 'merchant', id: merchantId, merchantId: '', name: teamAlias, email: null, team: null, at });
  return names;
}

const NAMED_TAG = /^([A-Za-z][\w-]{0,30}):\s*(\S.*)$/;
/** An event has at most 16 properties; LiteLLM's other ones are ten. */
const MAX_NAMED_TAGS = 4;

/**
 * Returns tags as properties: all of them as `tags`, in order, and each `name:value` also as `tag_name`. Leaves out
 * tags that LiteLLM adds for the client's program.
 */
function tagsOf(value: unknown): [name: string, value: string][] {
  const list = typeof value === 'string' && value.startsWith('[') ? listOf(value) : value;
  if (!Array.isArray(list)) return [];
  const all = list.filter((tag): tag is string => typeof tag === 'string' && present(tag) !== null);
  const tags = [...new Set(all.map((tag) => tag.trim()).filter((tag) => !tag.startsWith('User-Agent:')))].sort();
  if (tags.length === 0) return [];
  const named = tags.flatMap((tag): [string, string][] => {
    const [, name, of] = NAMED_TAG.exec(tag) ?? [];
    return name && of ? [[`tag_${name.toLowerCase().replaceAll('-', '_')}`, of]] : [];
  });
  return [['tags', tags.join(',')], ...named.slice(0, MAX_NAMED_TAGS)];
}

function listOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Returns tokens as LiteLLM counts them: prompt includes cached tokens, completion includes reasoning. Missing counts
 * stay absent. A total without its parts becomes a property.
 */
function tokensOf(report: {
  prompt_tokens?: string | null | undefined;
  completion_tokens?: string | null | undefined;
  total_tokens?: string | null | undefined;
}): { metrics: Record<string, string>; properties: Record<string, string> } {
  const prompt = whole('prompt_tokens', report.prompt_tokens);
  const completion = whole('completion_tokens', report.completion_tokens);
  const total = whole('total_tokens', report.total_tokens);
  // LiteLLM's columns are 0 if nothing was reported.
  if (total && !prompt && !completion) return { metrics: {}, properties: { total_tokens: String(total) } };
  return {
    metrics: {
      ...(prompt === undefined ? {} : { prompt_tokens: String(prompt) }),
      ...(completion === undefined ? {} : { completion_tokens: String(completion) }),
    },
    properties: {},
  };
}

/** Returns the parts of both token counts as separate metric types, in no sum, named like in our client. */
function partsOf(usage: unknown): Record<string, string> {
  const object = objectOf(usage);
  const prompt = objectOf(object.prompt_tokens_details);
  const completion = objectOf(object.completion_tokens_details);
  const parts = {
    cached_tokens: object.cache_read_input_tokens ?? prompt.cached_tokens,
    cache_write_tokens: object.cache_creation_input_tokens,
    reasoning_tokens: completion.reasoning_tokens,
  };
  const metrics: Record<string, string> = {};
  for (const [name, value] of Object.entries(parts)) {
    const units = unitsOf(textOf(value) ?? '', 0);
    if (units && !units.rest && units.units > 0n) metrics[name] = String(units.units);
  }
  return metrics;
}

/** Parses a count; undefined if absent. */
export function whole(name: string, text: string | null | undefined): bigint | undefined {
  if (!text) return undefined;
  const read = unitsOf(text, 0);
  if (!read || read.rest || read.units > MAX_ENTRY_UNITS)
    throw invalid(`${name} is not a whole number up to 10^15: ${text.slice(0, 40)}`);
  return read.units;
}

/** Parses dollars as nano-USD, rounded half up from their text; undefined if absent. */
export function nanoUsd(text: string | null | undefined): bigint | undefined {
  if (!text) return undefined;
  const read = unitsOf(text, 9);
  if (!read || read.units > MAX_ENTRY_UNITS)
    throw invalid(`The cost is not an amount of dollars up to 1000000: ${text.slice(0, 40)}`);
  return read.units;
}

function costOf(text: string | null | undefined): { cost?: string } {
  const nanos = nanoUsd(text);
  return nanos === undefined ? {} : { cost: formatCost(nanos) };
}

const SECONDS = /^\d{9,11}(?:\.\d+)?$/;
const ISO = /^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?\d*\s?(Z|[+-]\d{2}:?\d{2}|[+-]\d{2})?$/;

/** Parses a start as milliseconds: Unix seconds, or ISO 8601, in UTC if it names no zone. Cuts to the millisecond. */
export function startOf(text: string): number {
  if (SECONDS.test(text)) return Number(unitsOf(text, 3)!.floor);
  const [, day, time, fraction = '', zone = 'Z'] = ISO.exec(text.trim()) ?? [];
  const offset = zone.length === 3 ? `${zone}:00` : zone.replace(/^([+-]\d{2})(\d{2})$/, '$1:$2');
  const at = day && parseTime(`${day}T${time}${fraction}${offset}`);
  if (at === undefined || at === '') throw invalid(`This is not a time: ${text.slice(0, 40)}`);
  return at;
}

/**
 * Returns the id of a cache hit: LiteLLM appends the time of writing, which differs in row and payload. The start of
 * the call is the same in both (rows round it to the millisecond), so it replaces that time.
 */
function cacheHitId(id: string, start: string): string {
  const base = id.replace(/_cache_hit[\d.]+$/, '');
  const ms = SECONDS.test(start) ? unitsOf(start, 3)!.units : BigInt(roundedStartOf(start));
  return idOf(`${base}_cache_hit@${ms}`);
}

function roundedStartOf(text: string): number {
  const next = /\.\d{3}([5-9])/.test(text) ? 1 : 0;
  return startOf(text) + next;
}

const MERCHANT = /^[A-Za-z0-9_.:-]{1,64}$/;

/** Returns the merchant of a call with this team, organization and alias of its key. */
export function merchantOfCall(
  rules: Rules,
  of: Record<'team' | 'organization' | 'alias', string | null | undefined>,
): string {
  const { merchantFrom, merchant } = rules;
  const owner = { fixed: null, team: of.team, organization: of.organization, key_alias: of.alias }[merchantFrom];
  return owner ? merchantOf(owner) : merchant;
}

/** Returns a team, organisation or alias as a merchant id. One that cannot be an id is cleaned and gets a hash. */
function merchantOf(owner: string): string {
  if (MERCHANT.test(owner)) return owner;
  const hash = createHash('sha256').update(owner).digest('hex').slice(0, 16);
  return `${owner.replace(/[^A-Za-z0-9_.-]+/g, '-').slice(0, 47)}:${hash}`;
}

/** Returns the hash or alias of a key. A secret becomes the hash that LiteLLM makes of it. */
export function keyOf(key: string): string {
  return key.startsWith('sk-') ? createHash('sha256').update(key).digest('hex') : key;
}

/** LiteLLM writes `provider/model` or only the model; the provider also has its own field if it is known. */
function modelOf(model: string | null | undefined, provider: string | null | undefined) {
  const named = provider || (model?.includes('/') ? model.slice(0, model.indexOf('/')) : '');
  return { ...dimension('model', model), ...dimension('provider', named) };
}

/** Returns the events for a day of one model and key from its sums: one for successes, one for failures. */
export function fromDailySums(
  sums: {
    date: string;
    model: string;
    apiKey: string;
    team?: string | null | undefined;
    alias?: string | null | undefined;
    user?: string | null | undefined;
    email?: string | null | undefined;
    requests: bigint;
    failed: bigint;
    metrics: { prompt_tokens: bigint; completion_tokens: bigint; cost: bigint };
  },
  rules: Rules,
): { at: number; entry: CheckedEntry; names: readonly LearnedName[] }[] {
  const at = Date.parse(`${sums.date}T00:00:00Z`);
  const owner = { fixed: null, team: sums.team, organization: null, key_alias: sums.alias }[rules.merchantFrom];
  const succeeded = sums.requests > sums.failed ? sums.requests - sums.failed : 0n;
  const hash = createHash('sha256').update(`${sums.model}\n${sums.apiKey}`).digest('hex').slice(0, 32);
  const none = { prompt_tokens: 0n, completion_tokens: 0n, cost: 0n };
  const parts = [
    { status: 'success' as const, count: succeeded, metrics: succeeded > 0n ? sums.metrics : none },
    { status: 'failure' as const, count: sums.failed, metrics: succeeded > 0n ? none : sums.metrics },
  ];
  return parts
    .filter(({ count }) => count > 0n)
    .map(({ status, count, metrics }) => {
      const entry: CheckedEntry = {
        id: `daily:${sums.date}:${hash}:${status}`,
        merchantId: owner ? merchantOf(owner) : rules.merchant,
        time: new Date(at).toISOString(),
        ...dimension('apiKey', sums.apiKey && keyOf(sums.apiKey)),
        ...modelOf(sums.model, undefined),
        status,
        count: String(count),
        metrics: Object.fromEntries(
          Object.entries(metrics).map(([type, units]) => [type, formatQuantity(type, units)]),
        ),
        properties: { source: 'litellm', daily: true },
      };
      const { alias, team, email } = sums;
      const named = { ...entry, ...dimension('userId', sums.user) };
      return { at, entry, names: namesOf({ entry: named, at }, rules, { alias, team, email, teamAlias: null }) };
    });
}

function metadataOf(value: unknown): Metadata {
  return Metadata.catch({}).parse(objectOf(value));
}

/** Returns an object, also one that arrives as JSON text; {} for anything else. */
function objectOf(value: unknown): Record<string, unknown> {
  if (isRecord(value)) return value;
  if (typeof value !== 'string' || !value.startsWith('{')) return {};
  try {
    const parsed = parseExactly(value);
    return isRecord(parsed) ? parsed : {};
  } catch {
    return {};
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null);

function parse<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw invalid(`${issue!.path.join('.') || 'item'}: ${issue!.message}`);
}

const invalid = (message: string) => new TallyError('INVALID_ENTRY', message);
