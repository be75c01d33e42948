/** Returns whether an `accept-encoding` header allows a content coding, by its name or by `*` (RFC 9110, 12.5.3). */
export function acceptsEncoding(header: string | undefined, coding: string): boolean {
  const weights = (header ?? '').split(',').map((each) =>
    each
      .trim()
      .toLowerCase()
      .split(/\s*;\s*q=/),
  );
  const weight = weights.find(([name]) => name === coding) ?? weights.find(([name]) => name === '*');
  return weight !== undefined && Number(weight[1] ?? 1) > 0;
}
