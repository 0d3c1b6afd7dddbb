/** Text in figures: names and reasons as they are, lines that end before the paper does, and what has no value. */
import type { JsonObject } from './spec';
import type { Cell } from './theme';
import { FAINT_INK, FONT_SIZE, note } from './theme';

/** Text as plotly shows it, which reads marks of HTML. */
export function plain(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

/** Lines of at most `width` characters, broken between words; a longer word stands alone. */
export function wrap(text: string, width: number): string[] {
  return text.split(/\s+/).reduce<string[]>((lines, word) => {
    const last = lines[lines.length - 1];
    if (last === undefined || last.length + 1 + word.length > width) return [...lines, word];
    return [...lines.slice(0, -1), `${last} ${word}`];
  }, []);
}

/** Something that a figure cannot draw, and why. */
export interface Missing {
  readonly what: string;
  readonly reason: string;
}

/** A line a reason, `No value: GRPO, Baseline SFT (Pass@1 is 0)`, naming all that it is the reason of. */
export function missingLines(missing: readonly Missing[]): string[] {
  const reasons = [...new Set(missing.map(({ reason }) => reason))];
  return reasons.map((reason) => {
    const names = missing.filter((one) => one.reason === reason).map(({ what }) => what);
    return `No value: ${[...new Set(names)].join('; ')} (${reason})`;
  });
}

/** Characters of a footnote in a line over the whole width of a figure. */
const NOTE_CHARACTERS = 108;
const NOTE_SIZE = 11;
const NOTE_LINE = 1.3 * NOTE_SIZE;

export interface Footnotes {
  readonly annotations: JsonObject[];
  /** pixels to add to the bottom margin */
  readonly height: number;
}

/**
 * Lines under the axis of the lowest panel, wrapped.
 * @param from    pixels from the plotting area's lower edge to their top
 * @param indent  pixels from the plotting area's left edge to the left
 */
export function footnotes(lines: readonly string[], from: number, indent: number): Footnotes {
  const wrapped = lines.flatMap((line) => wrap(line, NOTE_CHARACTERS));
  if (wrapped.length === 0) return { annotations: [], height: 0 };
  const annotation = note(wrapped.map(plain).join('<br>'), 0, 0, {
    yanchor: 'top',
    yshift: -from,
    xshift: -indent,
    font: { size: NOTE_SIZE, color: FAINT_INK },
  });
  return { annotations: [annotation], height: Math.ceil(NOTE_LINE * wrapped.length + 6) };
}

/** What stands in the middle of a panel in which nothing is drawn. */
export function emptyPanel({ x, y }: Cell, text: string): JsonObject {
  const middle = {
    xanchor: 'center',
    yanchor: 'middle',
    bgcolor: '#FFFFFF',
    font: { size: FONT_SIZE.label, color: FAINT_INK },
  };
  return note(plain(text), (x[0] + x[1]) / 2, (y[0] + y[1]) / 2, middle);
}
