/**
 * The small test, the whole study on 100 examples, step by step: `openSmallTest`, `openOutput`, then for SFT and for GRPO
 * `trainSmallTest` and `evaluateSmallTest`, at last `smallTestResult` and `writeSmallTest`.
 * @module
 */

export { chartFiles, chartsOf } from './charts';
export { changedPrompts, varietyRows } from './comparison';
export type { ChangedPrompt, VarietyRow } from './comparison';
export { choosePrompts, holdOut, qualityOfBest } from './data';
export type { ChosenPrompts, HeldOut } from './data';
export { smallTestSchema } from './options';
export type { SmallTestOptions, SmallTestSettings } from './options';
export { openOutput, readSmallTest, writeSmallTest } from './output';
export type { WrittenSmallTest } from './output';
export { openSmallTest } from './prepare';
export type { OpenContext, SmallTest, StudyFacts } from './prepare';
export { criteriaOf, reportLines } from './report';
export type { Criterion } from './report';
export { resultJson, smallTestMeasures, smallTestResult, smallTestSamples } from './result';
export type { SmallTestMeasure, SmallTestParts, SmallTestResult, SmallTestSample } from './result';
export { evaluateSmallTest, smallTestExperiment, trainSmallTest } from './run';
export type { SmallTestMethod } from './run';
export { expectationRows, expectationTable, studyReport } from './expectations';
export type { ExpectationRow } from './expectations';
export { dynamicsOf, loraOf } from './paper-results';
export type { ModelRuns } from './paper-results';
export { collapseOf, derOf, PAPER_FIGURES, paperFigures, paretoOf, writePaperResults } from './paper-figures';
export type { PaperResults } from './paper-figures';
