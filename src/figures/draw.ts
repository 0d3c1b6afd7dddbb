/** From result data to a figure, for every kind of figure there is: how a JSON file is drawn again. */
import { z } from 'zod';
import { DataError } from '../runtime/errors';
import { readJsonFile } from '../runtime/files';
import { parseStrict } from '../runtime/strict';
import { collapsePointsSchema, drawCollapsePoints } from './collapse-points';
import { derAtKSchema, drawDerAtK } from './der-at-k';
import { diversityDynamicsSchema, drawDiversityDynamics } from './diversity-dynamics';
import { drawLoraParameters } from './lora-parameters';
import { loraParametersSchema } from './lora-summary';
import { drawMethodOverview, methodOverviewSchema } from './method-overview';
import { drawPairedChange, pairedChangeSchema } from './paired-change';
import { drawParetoFrontier, paretoFrontierSchema } from './pareto-frontier';
import { drawScoreDistributions, scoreDistributionsSchema } from './score-distributions';
import type { FigureSpec, Figure } from './spec';
import { drawSplitDistributions } from './split-distributions';
import { splitSummarySchema } from './split-summary';
import { drawTrainingCurves } from './training-curves';
import { trainingCurvesSchema } from './training-panels';

/** What a figure is drawn from. `kind` decides the function, and the shape of `data`. */
const sourceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('split-distributions'), data: splitSummarySchema }),
  z.strictObject({ kind: z.literal('training-curves'), data: trainingCurvesSchema }),
  z.strictObject({ kind: z.literal('paired-change'), data: pairedChangeSchema }),
  z.strictObject({ kind: z.literal('score-distributions'), data: scoreDistributionsSchema }),
  z.strictObject({ kind: z.literal('method-overview'), data: methodOverviewSchema }),
  z.strictObject({ kind: z.literal('diversity-dynamics'), data: diversityDynamicsSchema }),
  z.strictObject({ kind: z.literal('pareto-frontier'), data: paretoFrontierSchema }),
  z.strictObject({ kind: z.literal('lora-parameters'), data: loraParametersSchema }),
  z.strictObject({ kind: z.literal('der-at-k'), data: derAtKSchema }),
  z.strictObject({ kind: z.literal('collapse-points'), data: collapsePointsSchema }),
]);

/** The data of a figure, by its kind: what `drawFigure` takes. */
export type FigureSource = z.input<typeof sourceSchema>;

const fileSchema = z.object({
  format: z.literal('grpolab-figure'),
  version: z.literal(1),
  name: z.string().min(1),
});

/** The drawing of result data. */
export function drawFigure(source: FigureSource): FigureSpec {
  switch (source.kind) {
    case 'split-distributions':
      return drawSplitDistributions(source.data);
    case 'training-curves':
      return drawTrainingCurves(source.data);
    case 'paired-change':
      return drawPairedChange(source.data);
    case 'score-distributions':
      return drawScoreDistributions(source.data);
    case 'method-overview':
      return drawMethodOverview(source.data);
    case 'diversity-dynamics':
      return drawDiversityDynamics(source.data);
    case 'pareto-frontier':
      return drawParetoFrontier(source.data);
    case 'lora-parameters':
      return drawLoraParameters(source.data);
    case 'der-at-k':
      return drawDerAtK(source.data);
    case 'collapse-points':
      return drawCollapsePoints(source.data);
  }
}

/** A figure under a name, ready for `exportFigures`. */
export function makeFigure(name: string, source: FigureSource): Figure {
  return { name, spec: drawFigure(source), data: source.data };
}

/**
 * The figure that an exported JSON file holds, drawn again from its data.
 * @throws DataError    when the file is missing or is not JSON of this format
 * @throws ConfigError  naming the keys of its data that are wrong
 */
export function readFigure(path: string): Figure {
  const file = readJsonFile(path);
  const head = fileSchema.safeParse(file);
  if (!head.success) {
    throw new DataError(
      `${path}: is not an exported figure; expected format "grpolab-figure" version 1, a name, a kind and data.`,
    );
  }
  const { kind, data } = file as { kind?: unknown; data?: unknown };
  return makeFigure(head.data.name, parseStrict(sourceSchema, { kind, data }, path));
}
