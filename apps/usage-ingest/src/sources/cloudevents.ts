import { isTallyError, TallyError } from '@tally/contracts';
import { NUMBER_MARK, parseExactly } from '@tally/service';
import { type ForeignEvent, invalid, isRecord, itemOf, textOf } from './foreign-event.ts';
import { readItems } from './items.ts';
import type { SourceMeters } from './meters.ts';
import { refusalOf } from './pipeline.ts';
import { problemDetails } from './problem-details.ts';
import type { EventsRoute, Item, Outcome, Source, SourceRequest } from './source.ts';

/** CloudEvents 1.0 over HTTP: one event in its headers (binary), one as JSON (structured), or several (batch). */
export const cloudevents = (meters: SourceMeters): Source => ({
  name: 'cloudevents',
  events: [cloudEventsRoute('/api/v1/events', meters)],
  errorBody: problemDetails,
});

/** Returns a route that accepts CloudEvents in each of their three modes, and answers 204 if all were counted. */
export function cloudEventsRoute(path: string, meters: SourceMeters): EventsRoute {
  return { path, maxItems: 200_000, read: (request) => readCloudEvents(request, meters), answer: answerEvents };
}

const STRUCTURED = /^application\/(?:cloudevents(?:-batch)?\+json|json)\s*(?:;|$)/i;

async function readCloudEvents(request: SourceRequest, meters: SourceMeters): Promise<Item[]> {
  const { body, headers } = request;
  const reading = await meters.reading(request);
  const type = headers.get('content-type') ?? '';
  const isBinary = headers.has('ce-specversion') || headers.has('ce-id');
  if (isBinary && !/^application\/cloudevents/i.test(type)) return [itemOf(fromHeaders(headers, body), reading)];
  if (!STRUCTURED.test(type))
    throw new TallyError(
      'UNSUPPORTED_MEDIA_TYPE',
      'Send application/cloudevents+json, application/cloudevents-batch+json, or an event in ce- headers.',
    );
  return (await readItems(body, NUMBER_MARK)).map((each) => {
    if ('error' in each) return { refused: each.error };
    try {
      return itemOf(fromObject(each.value), reading);
    } catch (error) {
      if (isTallyError(error)) return { refused: error };
      throw error;
    }
  });
}

/** Answers 204 if every event was counted, before or now; otherwise names those that were not. */
function answerEvents({ rejected, results, accepted, duplicates, skipped }: Outcome): Response {
  const [first] = rejected;
  if (!first) return new Response(null, { status: 204 });
  if (rejected.length === results.length) {
    if (results.length === 1) throw refusalOf(first);
    throw new TallyError('INVALID_INPUT', `No event was counted. The first: ${first.message}`);
  }
  return Response.json({ accepted, duplicates, skipped, rejected });
}

const VERSION = /^1\.\d{1,3}$/;

function eventOf(attribute: (name: string) => unknown, data: unknown): ForeignEvent {
  const version = textOf(attribute('specversion'));
  if (version === undefined || !VERSION.test(version)) throw invalid('Expected the attribute specversion "1.0".');
  const [source, type] = [attribute('source'), attribute('type')];
  if (!textOf(source)) throw invalid('The event has no source.');
  return {
    family: 'ce',
    identity: [source, attribute('id')],
    customer: attribute('subject'),
    time: attribute('time'),
    type,
    origin: source,
    data,
  };
}

function fromObject(value: unknown): ForeignEvent {
  if (!isRecord(value)) throw invalid('An event must be a JSON object.');
  const own = (name: string) => (Object.hasOwn(value, name) ? value[name] : undefined);
  let data = own('data');
  const bytes = own('data_base64');
  if (data === undefined && typeof bytes === 'string') data = jsonOf(Buffer.from(bytes, 'base64').toString());
  return eventOf(own, data);
}

function fromHeaders(headers: Headers, body: Buffer): ForeignEvent {
  return eventOf((name) => {
    const value = headers.get(`ce-${name}`);
    return value === null ? undefined : headerText(value);
  }, jsonOf(body.toString()));
}

/** Data that is no JSON has no amounts; the event itself counts. */
function jsonOf(text: string): unknown {
  if (text.trim() === '') return undefined;
  try {
    return parseExactly(text, NUMBER_MARK);
  } catch {
    return undefined;
  }
}

/** Headers come percent-encoded, or, from senders that do not encode them, as the bytes of UTF-8 or Latin-1. */
function headerText(value: string): string {
  const bytes = Buffer.from(value, 'latin1');
  let text = bytes.toString('utf8');
  if (text.includes('\ufffd')) text = value;
  if (!/%[0-9a-f]{2}/i.test(text)) return text;
  try {
    return decodeURIComponent(text.replace(/%(?![0-9a-f]{2})/gi, '%25'));
  } catch {
    return text;
  }
}
