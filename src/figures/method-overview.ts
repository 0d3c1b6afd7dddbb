/** The study's method on one page: from tweet-reply records over two phases of training to the evaluation. */
import { z } from 'zod';
import { parseStrict } from '../runtime/strict';
import { area, arrow, box, combine, pixelAxes, text, TEXT_SIZE } from './diagram';
import type { Drawing, Place, Rect } from './diagram';
import { counted } from './result-shapes';
import type { FigureSpec, Trace } from './spec';
import { baseLayout, FAINT_INK, FIGURE_WIDTH, INK, stylesOf } from './theme';

const count = z.int().positive().optional();

/** The sizes of a study; what is left out is not shown. */
export const methodOverviewSchema = z.strictObject({
  /** tweet-reply pairs as collected */
  records: count,
  /** of these, kept by the cleaning */
  cleaned: count,
  /** replies in the training data of phase 1, and of phase 2 */
  phase1: count,
  phase2: count,
  heldOutTweets: count,
  /** G: replies to a tweet in a GRPO step */
  groupSize: count,
  /** n: replies to a tweet in the evaluation */
  repliesPerTweet: count,
  /** training seeds of every trained model */
  seeds: count,
});

/** The sizes of a study; what is left out is not shown. */
export type MethodOverview = z.input<typeof methodOverviewSchema>;
type Sizes = z.output<typeof methodOverviewSchema>;

const SIZE = { width: FIGURE_WIDTH, height: 568 };
const [SFT, GRPO] = stylesOf(['baseline', 'grpo']).map(({ color }) => color);

function rect(x: number, y: number, width: number, height: number): Rect {
  return { x, y, width, height };
}

/** `12,345 records`; nothing for a size that is left out. */
function amount(size: number | undefined, noun: string): string[] {
  return size === undefined ? [] : [counted(size, noun)];
}

const PI = 'π<sub>θ</sub>';
const R = '<i>r<sub>i</sub></i>';
const A = '<i>A<sub>i</sub></i>';
const PI_REF = 'π<sub>ref</sub>';

function dataPart({ records, cleaned }: Sizes): Drawing {
  const look = { color: FAINT_INK };
  return combine([
    area(rect(8, 8, 656, 106), FAINT_INK, 'Data'),
    box(
      rect(24, 36, 168, 66),
      'Tweet–reply records',
      ['collected pairs', ...amount(records, 'record')],
      look,
    ),
    arrow([
      [192, 69],
      [228, 69],
    ]),
    box(
      rect(228, 36, 176, 66),
      'Cleaning',
      ['filters, near-duplicates', ...amount(cleaned, 'record').map((kept) => `${kept} kept`)],
      look,
    ),
    arrow([
      [404, 69],
      [440, 69],
    ]),
    box(
      rect(440, 36, 208, 66),
      'Stratified split by tweet',
      ['strata: engagement quartiles;', 'no tweet in two parts'],
      look,
    ),
  ]);
}

/** The three ways out of the split, with what goes along them. */
function splitPart({ phase1, phase2, heldOutTweets }: Sizes): Drawing {
  const label = (words: readonly string[], place: Place, xanchor = 'left'): Drawing =>
    text(words.join(': '), place, { xanchor, font: { size: TEXT_SIZE.line, color: FAINT_INK } });
  return combine([
    arrow([
      [470, 102],
      [470, 141],
      [112, 141],
      [112, 162],
    ]),
    label(['phase 1', ...amount(phase1, 'record')], [118, 132]),
    arrow([
      [500, 102],
      [500, 162],
    ]),
    label(['phase 2', ...amount(phase2, 'record')], [507, 136]),
    arrow([
      [634, 102],
      [634, 122],
      [653, 122],
      [653, 434],
    ]),
    label(['held out', ...amount(heldOutTweets, 'tweet')], [646, 418], 'right'),
  ]);
}

function phase1Part(): Drawing {
  const look = { color: SFT };
  const logLikelihood = `−log ${PI}(<i>y</i> | <i>x</i>)`;
  return combine([
    area(rect(8, 162, 208, 240), SFT, 'Phase 1: warm start'),
    box(rect(20, 192, 184, 48), 'SFT', [logLikelihood], look),
    text('or', [112, 249]),
    box(
      rect(20, 258, 184, 62),
      'Polychromic SFT',
      [`${logLikelihood} − λ <i>D</i>`, '<i>D</i>: diversity of own replies'],
      look,
    ),
    arrow([
      [112, 320],
      [112, 342],
    ]),
    box(rect(20, 342, 184, 48), 'Frozen warm start', [`reference ${PI_REF}`], { ...look, dash: '5px 3px' }),
  ]);
}

/** The four steps of GRPO, clockwise, with their boxes. */
function grpoSteps({ groupSize }: Sizes): Drawing {
  const look = { color: GRPO };
  const size = groupSize === undefined ? '<i>G</i>' : `<i>G</i> = ${groupSize}`;
  const replies = `<i>y</i><sub>1</sub>, …, <i>y<sub>G</sub></i> ~ ${PI}(· | <i>x</i>)`;
  const reward = `${R} = <i>r</i>(<i>x</i>, <i>y<sub>i</sub></i>)`;
  const advantage = `${A} = (${R} − mean <i>r</i>) / std <i>r</i>`;
  const update = [
    `min(ρ ${A}, clip(ρ) ${A})`,
    `− β KL(${PI} ‖ ${PI_REF})`,
    `ratio ρ = ${PI} / π<sub>old</sub>`,
  ];
  return combine([
    box(rect(278, 198, 166, 68), `1. Sample ${size} replies`, [replies], look),
    box(rect(472, 198, 156, 68), '2. Reward', [reward, 'heuristic, learned or judge'], look),
    box(rect(472, 308, 156, 82), '3. Group advantages', [advantage, 'over the <i>G</i> replies'], look),
    box(rect(278, 308, 166, 82), `4. Update ${PI}`, update, look),
  ]);
}

function phase2Part(sizes: Sizes): Drawing {
  const route = (...places: Place[]): Drawing => arrow(places, GRPO);
  const fromWarmStart = (...places: Place[]): Drawing => arrow(places, SFT);
  return combine([
    area(rect(264, 162, 376, 240), GRPO, 'Phase 2: GRPO'),
    grpoSteps(sizes),
    route([444, 232], [472, 232]),
    route([550, 266], [550, 308]),
    route([472, 349], [444, 349]),
    route([361, 308], [361, 266]),
    fromWarmStart([204, 378], [278, 378]),
    text(PI_REF, [240, 369]),
    fromWarmStart([204, 354], [227, 354], [227, 232], [278, 232]),
    text(`start<br>of ${PI}`, [231, 294], { xanchor: 'left', align: 'left' }),
  ]);
}

/** The models that are compared: their markers and names in a row, by what they were trained in. */
const COMPARED = [
  { name: 'zero_shot', x: 92 },
  { name: 'few_shot', x: 176 },
  { name: 'baseline', x: 254 },
  { name: 'polychromic', x: 355 },
  { name: 'grpo', x: 454 },
  { name: 'polychromic_grpo', x: 518 },
] as const;

const MODEL_ROW = 474;

function modelMarkers(): Trace[] {
  const styles = stylesOf(COMPARED.map(({ name }) => name));
  return styles.map(({ label, color, marker }, i) => ({
    type: 'scatter',
    mode: 'markers+text',
    name: label,
    x: [COMPARED[i].x],
    y: [MODEL_ROW],
    marker: { color, symbol: marker, size: 9 },
    text: [` ${label}`],
    textposition: 'middle right',
    textfont: { size: TEXT_SIZE.line, color: INK },
    cliponaxis: false,
    hoverinfo: 'skip',
  }));
}

const MEASURES = [
  { title: 'Pass@<i>k</i>', lines: ['a good reply among <i>k</i>,', 'unbiased over <i>n</i>'] },
  { title: 'Diversity', lines: ['self-BLEU, distinct-<i>n</i>,', 'semantic distance'] },
  { title: 'Quality', lines: ['ROUGE, reward,', 'engagement, judge'] },
  { title: 'Selection', lines: ['USQ@<i>k</i>, DER@<i>k</i>,', 'collapse point'] },
] as const;

function evaluationPart({ repliesPerTweet, seeds }: Sizes): Drawing {
  const sizes = [
    ...(repliesPerTweet === undefined ? [] : [`${counted(repliesPerTweet, 'reply', 'replies')} per tweet`]),
    ...amount(seeds, 'training seed'),
  ];
  const boxes = MEASURES.map(({ title, lines }, i) =>
    box(rect(20 + 160 * i, 490, 152, 58), title, lines, { color: FAINT_INK }),
  );
  return combine([
    area(rect(8, 434, 656, 126), FAINT_INK, 'Evaluation on held-out tweets', sizes.join(', ')),
    arrow([
      [112, 402],
      [112, 434],
    ]),
    arrow([
      [452, 402],
      [452, 434],
    ]),
    text('models:', [24, MODEL_ROW], { xanchor: 'left' }),
    ...boxes,
  ]);
}

/**
 * Data, phase 1, phase 2 and evaluation as areas of boxes with the arrows between them; the sizes stand where they belong.
 *
 * @throws ConfigError  naming a size that is unknown or not a positive integer
 */
export function drawMethodOverview(data: MethodOverview): FigureSpec {
  const sizes = parseStrict(methodOverviewSchema, data, 'method overview');
  const { shapes, annotations } = combine([
    dataPart(sizes),
    phase1Part(),
    phase2Part(sizes),
    evaluationPart(sizes),
    splitPart(sizes),
  ]);
  const layout = baseLayout(SIZE, { ...pixelAxes(SIZE), shapes, annotations });
  return { kind: 'method-overview', ...SIZE, data: modelMarkers(), layout };
}
