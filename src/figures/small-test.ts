/** The charts of the small test: the course of its training, and what it changed on held-out prompts. */
import { makeFigure } from './draw';
import type { PairedChange } from './paired-change';
import type { Figure } from './spec';
import type { TrainingCurves } from './training-panels';

/** What the two figures of the small test show. */
export interface SmallTestCharts {
  readonly curves: TrainingCurves;
  /** reward, and world quality where the data come from the embedded world */
  readonly change: PairedChange;
}

/** `training_curves` and `before_after`, ready for `exportFigures`. */
export function smallTestFigures(charts: SmallTestCharts): Figure[] {
  return [
    makeFigure('training_curves', { kind: 'training-curves', data: charts.curves }),
    makeFigure('before_after', { kind: 'paired-change', data: charts.change }),
  ];
}
