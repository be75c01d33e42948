import { TallyError } from '@tally/contracts';
import { parseExactly } from '@tally/service';
import type { Attributes, IsWanted, Span } from './span.ts';

/** Yields the spans of an ExportTraceServiceRequest in JSON. Throws INVALID_JSON or INVALID_INPUT. */
export function* spansOfJson(body: Buffer, isWanted: IsWanted): Generator<Span> {
  let request: unknown;
  try {
    request = parseExactly(body.toString());
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
  if (!isRecord(request)) throw new TallyError('INVALID_INPUT', 'Expected an object with resourceSpans.');
  for (const each of listOf(request.resourceSpans)) {
    const resource = attributesOf(recordOf(each.resource).attributes, isWanted);
    for (const scope of listOf(each.scopeSpans)) {
      for (const span of listOf(scope.spans)) {
        const { code } = recordOf(span.status);
        yield {
          traceId: textOf(span.traceId).toLowerCase(),
          spanId: textOf(span.spanId).toLowerCase(),
          start: nanosOf(span.startTimeUnixNano),
          failed: code === '2' || code === 'STATUS_CODE_ERROR',
          attributes: attributesOf(span.attributes, isWanted),
          resource,
        };
      }
    }
  }
}

function attributesOf(value: unknown, isWanted: IsWanted): Attributes {
  const attributes = new Map<string, string>();
  for (const { key, value: given } of listOf(value)) {
    if (typeof key !== 'string' || !isWanted(key)) continue;
    const { stringValue, intValue, doubleValue, boolValue } = recordOf(given);
    const [text] = [stringValue, intValue, doubleValue].filter((each) => typeof each === 'string');
    if (text !== undefined) attributes.set(key, text as string);
    else if (typeof boolValue === 'boolean') attributes.set(key, String(boolValue));
  }
  return attributes;
}

function nanosOf(value: unknown): bigint {
  const text = textOf(value);
  return /^\d{1,19}$/.test(text) ? BigInt(text) : 0n;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const recordOf = (value: unknown): Record<string, unknown> => (isRecord(value) ? value : {});
const listOf = (value: unknown): Record<string, unknown>[] => (Array.isArray(value) ? value.filter(isRecord) : []);
const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');
