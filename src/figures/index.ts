/**
 * Figures: pure functions from result data to drawings, and their export as JSON, SVG, PDF and PNG.
 *
 * Begin with {@link makeFigure}, {@link drawFigure}, {@link exportFigures}.
 * @module
 */

export { exportFigures, figureJson, IMAGE_FORMATS } from './export';
export type { ExportOptions, ExportResult, ImageFormat } from './export';
export { drawFigure, makeFigure, readFigure } from './draw';
export type { FigureSource } from './draw';
export { drawCollapsePoints } from './collapse-points';
export type { CollapsePoints } from './collapse-points';
export { drawDerAtK } from './der-at-k';
export type { DerAtK } from './der-at-k';
export { drawDiversityDynamics } from './diversity-dynamics';
export type { DiversityDynamics } from './diversity-dynamics';
export { drawLoraParameters } from './lora-parameters';
export { summariseAdapters } from './lora-summary';
export type { AnalysedAdapter, LoraParameters } from './lora-summary';
export { drawMethodOverview } from './method-overview';
export type { MethodOverview } from './method-overview';
export { drawPairedChange } from './paired-change';
export type { PairedChange } from './paired-change';
export { drawParetoFrontier } from './pareto-frontier';
export type { ParetoFrontier } from './pareto-frontier';
export { paretoFront } from './pareto-front';
export type { Point } from './pareto-front';
export type { Estimate, SeedMean } from './result-shapes';
export { drawScoreDistributions, summariseScores } from './score-distributions';
export type { ScoredReward, ScoreDistributions } from './score-distributions';
export { smallTestFigures } from './small-test';
export type { SmallTestCharts } from './small-test';
export { drawSplitDistributions } from './split-distributions';
export { summariseSplit } from './split-summary';
export type { PhaseValues, SplitSummary, SplitValues, TestResult } from './split-summary';
export { drawTrainingCurves } from './training-curves';
export { curvesOfMetrics, trainingPanels } from './training-panels';
export type { MetricsRow, Panel, Series, TrainingCurves } from './training-panels';
export { styleOf, stylesOf } from './theme';
export type { ModelStyle } from './theme';
export type { Figure, FigureSpec, Json, JsonObject, Trace } from './spec';
