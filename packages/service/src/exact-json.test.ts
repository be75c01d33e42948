import fc from 'fast-check';
import { expect, test } from 'vitest';
import { exactEntries, NUMBER_MARK, parseExactly, unitsOf } from './exact-json.ts';

test('numbers keep the text they were written in, and strings are left alone', () => {
  const text = String.raw`{"a":0.0016150000000000001,"b":[1e-05,-2,12345678901234567890],"c":"x \"1\" \\","d-1":"2","e":NaN,"f":[-Infinity,Infinity],"g":true}`;
  expect(parseExactly(text)).toEqual({
    a: '0.0016150000000000001',
    b: ['1e-05', '-2', '12345678901234567890'],
    c: 'x "1" \\',
    'd-1': '2',
    e: null,
    f: [null, null],
    g: true,
  });
  expect(parseExactly('[1,"NaN",NaN,-Infinity]', NUMBER_MARK)).toEqual(
    ['1', 'NaN', 'NaN', '-Infinity'].map((each, index) => (index === 1 ? each : NUMBER_MARK + each)),
  );
});

test('refuses text that is no JSON', () => {
  for (const text of [
    '',
    '{',
    '[1,]',
    '01',
    '1.',
    '-',
    '"',
    '"a',
    '[1 2]',
    '{"a" 1}',
    '1e',
    'N',
    '[I]',
    '--1',
    '"\\"',
    '1"2"',
  ])
    expect(() => parseExactly(text), text).toThrow(SyntaxError);
});

test('any JSON is read as JSON.parse reads it, but for its numbers', () => {
  const asText = (value: unknown): unknown =>
    typeof value === 'number'
      ? JSON.stringify(value)
      : Array.isArray(value)
        ? value.map(asText)
        : typeof value === 'object' && value !== null
          ? Object.fromEntries(Object.entries(value).map(([key, each]) => [key, asText(each)]))
          : value;
  fc.assert(
    fc.property(fc.json(), (json) => {
      expect(JSON.stringify(parseExactly(json))).toBe(JSON.stringify(asText(JSON.parse(json))));
    }),
  );
});

test('the entries of any object are the same in parts of any size', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.integer({ min: 0, max: 60 }), (object, characters) => {
      const json = JSON.stringify(object, null, characters % 3);
      const parts = [...exactEntries(` ${json}\n`, characters)];
      expect(parts.flat()).toEqual(Object.entries(parseExactly(json) as object));
      if (characters === 0) expect(parts.length).toBe(Math.max(1, Object.keys(object).length));
    }),
  );
});

test.each([
  '',
  '[]',
  '{',
  '{"a":1',
  '{"a":1,}',
  '{,"a":1}',
  '{"a":1,,"b":2}',
  '{"a":1}x',
  '{"a":1]',
  '{"a',
  '1',
  '{"a":[1}}',
])('finds no entries in %s', (text) => {
  for (const characters of [0, 100]) expect(() => [...exactEntries(text, characters)]).toThrow(SyntaxError);
});

test('a number is rounded half up, once, from its text', () => {
  expect(unitsOf('0.0016150000000000001', 9)).toEqual({ units: 1_615_000n, floor: 1_615_000n, rest: true });
  const cases: [string, number, bigint | undefined][] = [
    ['1e-05', 9, 10_000n],
    ['5e-10', 9, 1n],
    ['4.9999e-10', 9, 0n],
    ['0.0000000005', 9, 1n],
    ['1e-400', 9, 0n],
    ['1e9999', 9, undefined],
    ['12.5', 0, 13n],
    ['1.5e1', 0, 15n],
    ['007', 0, 7n],
    ['-0.0', 9, 0n],
    ['-1', 9, undefined],
    ['1_000', 9, undefined],
    ['', 9, undefined],
    ['0x1', 0, undefined],
  ];
  for (const [text, decimals, units] of cases) expect(unitsOf(text, decimals)?.units, text).toBe(units);
});

test('rounding agrees with exact arithmetic', () => {
  const number = fc.record({ digits: fc.bigInt(0n, 10n ** 25n), places: fc.integer({ min: 0, max: 30 }) });
  fc.assert(
    fc.property(number, ({ digits, places }) => {
      const divisor = 10n ** BigInt(places);
      const scaled = digits * 10n ** 9n;
      expect(unitsOf(`${digits}e-${places}`, 9)?.units).toBe((scaled * 2n + divisor) / (divisor * 2n));
    }),
  );
});
