/** What those who talk over HTTP share. */

/** A text in one short line. A key has to be taken out before: half of one would not be found. */
export function clip(text: string, length: number): string {
  const folded = text.replace(/\s+/g, ' ').trim();
  return folded.length > length ? `${folded.slice(0, length)}...` : folded;
}

/** Seconds that a Retry-After header asks for (a number, or an HTTP date); undefined without a readable one. */
export function retryAfterSeconds(header: string | null | undefined, now: number): number | undefined {
  const text = header?.trim() ?? '';
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text);
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1000);
}
