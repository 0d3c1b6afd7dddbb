/**
 * For notebooks: figures, tables, progress and training below a cell. Nothing here is loaded by the rest of the library.
 *
 * Begin with {@link train}, {@link evaluate}, {@link showTable}, {@link showFigure}.
 * @module
 */

export * from './evaluation';
export * from './figures';
export { Display, display, Interrupted, interruptible, outputDirectory, smallMode } from './kernel';
export type { MimeBundle } from './kernel';
export { liveChartSvg } from './live-chart';
export type { RunProgress } from './live-chart';
export * from './progress';
export * from './small-test';
export * from './tables';
export * from './training';
