/** Writes figures to files: vector and raster images through plotly in a headless browser, and JSON that redraws them. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { ConfigError, GrpolabError, messageOf } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, errorCode, strictJson } from '../runtime/files';
import { launchBrowser } from './browser';
import { withResolution, withoutDates } from './file-bytes';
import type { Figure, FigureSpec } from './spec';

const PRINT_DPI = 300;
const CSS_PIXELS_PER_INCH = 96;
const RENDER_TIMEOUT_MS = 120_000;

/** What a figure can be written as, beside its JSON. */
export const IMAGE_FORMATS = ['svg', 'pdf', 'png'] as const;
/** A kind of image, one of `IMAGE_FORMATS`. */
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

/** Which images `exportFigures` writes. */
export interface ExportOptions {
  /** Images to write beside the JSON, which is always written. Default: all. */
  readonly formats?: readonly ImageFormat[];
  /** Told of every figure whose images are written. */
  readonly onFigure?: (done: number, total: number) => void;
}

/** What was written. Whoever calls prints `reason` and `notices`, a line each. */
export interface ExportResult {
  readonly files: readonly string[];
  /** False when only the JSON could be written. */
  readonly rendered: boolean;
  /** Why no images were written, and what to install. Absent when `rendered`. */
  readonly reason?: string;
  /** The browser that drew, with its version. Absent unless `rendered` with images. */
  readonly browser?: string;
  readonly notices: readonly string[];
}

/** The part of plotly that the page uses. */
interface PlotlyInPage {
  validate(data: unknown, layout: unknown): { code: string; msg: string }[] | undefined;
  toImage(figure: unknown, options: { format: 'svg'; width: number; height: number }): Promise<string>;
}

const PAGE =
  '<!doctype html><meta charset="utf-8">' +
  '<style>@page{margin:0}body{margin:0;background:#fff}svg{display:block}</style><div id="figure"></div>';

/** The text of the JSON file: the result data, and the kind of drawing that redraws it. */
export function figureJson(figure: Figure): string {
  const document = { format: 'grpolab-figure', version: 1, kind: figure.spec.kind, name: figure.name };
  return `${strictJson({ ...document, data: figure.data }, 2)}\n`;
}

/**
 * Draws in the page and leaves the drawing there, for the screenshot and the PDF.
 * Plotly takes its element ids from Math.random: seeded for each figure, a figure is the same bytes in every run and
 * whatever was drawn before it.
 *
 * @returns the SVG's text
 * @throws GrpolabError  naming the attributes that plotly does not know
 */
async function drawSvg(page: Page, figure: Figure): Promise<string> {
  const { data, layout, width, height } = figure.spec;
  const { svg, problems } = await page.evaluate(
    async (spec) => {
      let state = 1;
      Math.random = () => (state = Math.imul(state, 48271) >>> 0) / 2 ** 32;
      const { Plotly } = globalThis as unknown as { Plotly: PlotlyInPage };
      // `validate` also reports attributes that have no effect beside others; only wrong ones matter.
      const wrong = ['schema', 'value', 'array', 'object'];
      const found = (Plotly.validate(spec.data, spec.layout) ?? []).filter(({ code }) =>
        wrong.includes(code),
      );
      const size = { width: spec.width, height: spec.height };
      const address = await Plotly.toImage(
        { data: spec.data, layout: spec.layout },
        { format: 'svg', ...size },
      );
      const text = decodeURIComponent(address.slice(address.indexOf(',') + 1));
      const frame = document.getElementById('figure');
      if (frame !== null) frame.innerHTML = text;
      return { svg: text, problems: found.map(({ msg }) => msg) };
    },
    { data: data as unknown[], layout: layout as object, width, height },
  );
  if (problems.length > 0) {
    throw new GrpolabError(`figure "${figure.name}" is not a valid plotly figure: ${problems.join('; ')}`);
  }
  return svg;
}

async function imageBytes(
  page: Page,
  spec: FigureSpec,
  format: ImageFormat,
  svg: string,
): Promise<string | Buffer> {
  const { width, height } = spec;
  switch (format) {
    case 'svg':
      return svg;
    case 'png':
      return withResolution(await page.screenshot({ clip: { x: 0, y: 0, width, height } }), PRINT_DPI);
    case 'pdf': {
      const size = { width: `${width}px`, height: `${height}px` };
      return withoutDates(await page.pdf({ ...size, printBackground: true, pageRanges: '1' }));
    }
  }
}

/** The file of plotly; undefined where it is not installed: a project that only uses this package need not have it. */
function plotlyFile(): string | undefined {
  try {
    return createRequire(__filename).resolve('plotly.js/plotly.min.js');
  } catch (error) {
    if (errorCode(error) === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}

/** Opens the one page in which all figures are drawn. It sees no network. */
async function openPage(browser: Browser, plotly: string): Promise<Page> {
  const context = await browser.newContext({
    offline: true,
    deviceScaleFactor: PRINT_DPI / CSS_PIXELS_PER_INCH,
  });
  context.setDefaultTimeout(RENDER_TIMEOUT_MS);
  const page = await context.newPage();
  await page.setContent(PAGE);
  await page.addScriptTag({ path: plotly });
  return page;
}

async function renderFigures(
  browser: Browser,
  plotly: string,
  figures: readonly Figure[],
  directory: string,
  { formats = IMAGE_FORMATS, onFigure }: ExportOptions,
): Promise<string[]> {
  const files: string[] = [];
  const page = await openPage(browser, plotly);
  for (const [index, figure] of figures.entries()) {
    await page.setViewportSize({ width: figure.spec.width, height: figure.spec.height });
    const svg = await drawSvg(page, figure);
    for (const format of formats) {
      const file = join(directory, `${figure.name}.${format}`);
      await atomicWriteFile(file, await imageBytes(page, figure.spec, format, svg));
      files.push(file);
    }
    onFigure?.(index + 1, figures.length);
  }
  return files;
}

function checkNames(figures: readonly Figure[]): void {
  const names = figures.map(({ name }) => name);
  for (const name of names) {
    if (!/^[A-Za-z0-9][\w.-]*$/.test(name)) {
      throw new ConfigError(
        `figure name "${name}": expected letters, digits, "_", "-" or ".", as it becomes a file name.`,
      );
    }
  }
  const repeated = names.find((name, index) => names.indexOf(name) !== index);
  if (repeated !== undefined) {
    throw new ConfigError(
      `two figures are named "${repeated}", so one would overwrite the other. Rename one.`,
    );
  }
}

/**
 * Writes every figure as NAME.json and, in one headless browser, as NAME.svg, NAME.pdf and NAME.png (300 dpi).
 * Two exports of the same figures by the same browser are the same bytes. Without a browser or plotly the JSON is written,
 * `rendered` is false and `reason` is the one line to show.
 *
 * The browser: GRPOLAB_CHROME (a path, or `npm` for @sparticuz/chromium), else the system's Chrome or Chromium, else
 * npm's. It is closed before this returns or throws.
 *
 * @throws ConfigError   a name that cannot be a file name, or given twice
 * @throws NumericError  result data with a number that is not finite
 * @throws GrpolabError  a figure that plotly refuses, or a browser that ends while drawing
 */
export async function exportFigures(
  figures: readonly Figure[],
  directory: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  const formats = options.formats ?? IMAGE_FORMATS;
  checkNames(figures);
  await ensureDirectory(directory);
  const files: string[] = [];
  for (const figure of figures) {
    const file = join(directory, `${figure.name}.json`);
    await atomicWriteFile(file, figureJson(figure));
    files.push(file);
  }
  if (formats.length === 0 || figures.length === 0) return { files, rendered: true, notices: [] };
  const unrendered = (reason: string): ExportResult => {
    const line = `Figures: only the JSON was written to ${directory}: ${reason}`;
    return { files, rendered: false, reason: line, notices: [] };
  };
  const plotly = plotlyFile();
  if (plotly === undefined)
    return unrendered('plotly.js is not installed (npm install plotly.js@npm:plotly.js-dist-min@4.1.2).');
  const launched = await launchBrowser();
  if (launched.browser === undefined) return unrendered(launched.reason);
  const { browser, name, notices } = launched;
  try {
    files.push(...(await renderFigures(browser, plotly, figures, directory, options)));
  } catch (error) {
    if (error instanceof GrpolabError) throw error;
    throw new GrpolabError(`${name} failed while drawing: ${messageOf(error)}`);
  } finally {
    await browser.close();
  }
  return { files, rendered: true, browser: name, notices };
}
