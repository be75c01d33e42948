import { Quantity } from '@tally/contracts';
import { z } from 'zod';

type Convert = (value: unknown) => unknown;

/**
 * Returns a function that converts the quantities in a value of a schema to JSON numbers; undefined if the schema has
 * none. Converts only strings that the schema declares as quantities, never ids. A quantity that a number cannot
 * represent digit by digit stays a string.
 */
export function numbersOf(schema: z.core.$ZodType): Convert | undefined {
  if (schema === Quantity) return exactNumber;
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable || schema instanceof z.ZodDefault) {
    const inner = numbersOf(schema.def.innerType);
    return inner && ((value) => (value === null || value === undefined ? value : inner(value)));
  }
  if (schema instanceof z.ZodArray) {
    const element = numbersOf(schema.element);
    return element && ((value) => (value as unknown[]).map(element));
  }
  if (schema instanceof z.ZodRecord) {
    const inner = numbersOf(schema.valueType);
    return inner && fieldsWith(() => inner);
  }
  if (schema instanceof z.ZodObject) {
    const fields = new Map(
      Object.entries(schema.shape).flatMap(([name, field]) => {
        const convert = numbersOf(field as z.core.$ZodType);
        return convert ? [[name, convert] as const] : [];
      }),
    );
    return fields.size === 0 ? undefined : fieldsWith((name) => fields.get(name));
  }
  return undefined;
}

const fieldsWith =
  (convertOf: (name: string) => Convert | undefined): Convert =>
  (value) =>
    Object.fromEntries(
      Object.entries(value as object).map(([name, field]) => [name, convertOf(name)?.(field) ?? field]),
    );

function exactNumber(value: unknown): unknown {
  const text = value as string;
  const point = text.indexOf('.');
  const number = Number(text);
  // JSON prints the shortest decimal that reads as this number, which may lack digits; below a millionth it has an
  // exponent.
  const printed = Math.abs(number) < 1e-6 ? number.toFixed(point < 0 ? 0 : text.length - point - 1) : String(number);
  return printed === text ? number : text;
}
