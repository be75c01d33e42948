import { TallyError } from '@tally/contracts';
import { parseExactly } from '@tally/service';
import type { AttributeNames, Attributes, Span } from './span.ts';

/** Yields the spans of an ExportTraceServiceRequest in JSON. Throws INVALID_JSON or INVALID_INPUT. */
export function* spansOfJson(body: Buffer, names: AttributeNames): Generator<Span> {
  let request: unknown;
  try {
    request = parseExactly(body.toString());
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
  if (!isRecord(request)) throw new TallyError('INVALID_INPUT', 'Expected an object with resourceSpans.');
  for (const each of listOf(request.resourceSpans)) {
    const resource = attributesOf(recordOf(each.resource).attributes, names);
    for (const scope of listOf(each.scopeSpans)) {
      const name = textOf(recordOf(scope.scope).name);
      for (const span of listOf(scope.spans)) {
        const { code } = recordOf(span.status);
        yield {
          traceId: textOf(span.traceId).toLowerCase(),
          spanId: textOf(span.spanId).toLowerCase(),
          parentId: textOf(span.parentSpanId).toLowerCase(),
          scope: name,
          start: millisecondsOf(span.startTimeUnixNano),
          failed: code === '2' || code === 'STATUS_CODE_ERROR',
          attributes: attributesOf(span.attributes, names),
          resource,
        };
      }
    }
  }
}

function attributesOf(value: unknown, names: AttributeNames): Attributes {
  const attributes = names.none();
  for (const { key, value: given } of listOf(value)) {
    const index = typeof key === 'string' ? names.indexOf(key) : -1;
    if (index < 0) continue;
    const { stringValue, intValue, doubleValue, boolValue } = recordOf(given);
    const [text] = [stringValue, intValue, doubleValue].filter((each) => typeof each === 'string');
    if (text !== undefined) attributes[index] = text as string;
    else if (typeof boolValue === 'boolean') attributes[index] = String(boolValue);
  }
  return attributes;
}

function millisecondsOf(nanos: unknown): number {
  const text = textOf(nanos);
  return /^\d{1,19}$/.test(text) ? Number(text.slice(0, -6)) : 0;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const recordOf = (value: unknown): Record<string, unknown> => (isRecord(value) ? value : {});
const listOf = (value: unknown): Record<string, unknown>[] => (Array.isArray(value) ? value.filter(isRecord) : []);
const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');
