/** The six figures of the paper from a directory of results, and their files. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { SeededMetric } from '../eval/model-evaluation';
import type { Evaluation } from '../eval/suite';
import { readEvaluation, writeEvaluation } from '../eval/write-evaluation';
import type { CollapsePoints } from '../figures/collapse-points';
import type { DerAtK } from '../figures/der-at-k';
import type { DiversityDynamics } from '../figures/diversity-dynamics';
import { makeFigure } from '../figures/draw';
import type { LoraParameters } from '../figures/lora-summary';
import type { MethodOverview } from '../figures/method-overview';
import type { ParetoFrontier } from '../figures/pareto-frontier';
import type { Figure } from '../figures/spec';
import { studyReport } from './expectations';
import { ConfigError } from '../runtime/errors';
import { atomicWriteFile, readJsonFile, strictJson } from '../runtime/files';

/** What the figures are drawn from. */
export interface PaperResults {
  evaluation: Evaluation;
  overview: MethodOverview;
  dynamics: DiversityDynamics;
  lora: LoraParameters;
}

/** Names of the figures' files, in the order of the paper. */
export const PAPER_FIGURES = [
  'figure_1_method_overview',
  'figure_2_diversity_dynamics',
  'figure_3_pareto_frontier',
  'figure_4_lora_parameters',
  'figure_5_der_at_k',
  'figure_6_collapse_points',
] as const;

const PARTS = ['overview', 'dynamics', 'lora'] as const;

/** Writes results into a directory: the evaluation's five files, `overview.json`, `dynamics.json`, `lora.json`, and `study.md`. */
export async function writePaperResults(results: PaperResults, directory: string): Promise<string[]> {
  const files = await writeEvaluation(results.evaluation, directory);
  for (const part of PARTS) {
    const file = path.join(directory, `${part}.json`);
    await atomicWriteFile(file, `${strictJson(results[part], 2)}\n`);
    files.push(file);
  }
  const report = path.join(directory, 'study.md');
  await atomicWriteFile(report, studyReport(results.evaluation));
  return [...files, report];
}

function readPart<T>(directory: string, part: string): T | undefined {
  const file = path.join(directory, `${part}.json`);
  return existsSync(file) ? (readJsonFile(file) as T) : undefined;
}

/** An estimate without what the figures do not draw. */
function plain(
  metric: SeededMetric,
): { value: number; ci: [number, number] } | { value: null; reason: string } {
  return metric.value === null
    ? { value: null, reason: metric.reason }
    : { value: metric.value, ci: metric.ci };
}

function samplingOf({ models, settings }: Evaluation) {
  const [first] = Object.values(models);
  const seeds = Math.max(...Object.values(models).map((model) => model.seeds.length));
  return { level: settings.level, tweets: first.n_tweets, seeds: seeds === 0 ? undefined : seeds };
}

/** Quality against variety; where the truth is known it is a second quality. */
export function paretoOf(evaluation: Evaluation): ParetoFrontier {
  const models = Object.entries(evaluation.models);
  const hasTruth = models.every(([, { world_quality: truth }]) => truth.value !== null);
  return {
    ...samplingOf(evaluation),
    diversity: { name: 'distinct-2', unit: 'share of bigrams, 0 to 1', interval: 'jackknife' },
    secondQuality: hasTruth
      ? { name: 'world quality', unit: "the world's truth, 0 to 1" }
      : { name: 'reward', unit: '0 to 1' },
    models: models.map(([name, model]) => ({
      name,
      diversity: plain(model.distinct[2]),
      quality: plain(model.rouge.L),
      secondQuality: plain(hasTruth ? model.world_quality : model.reward),
    })),
  };
}

/** The data of the figure of DER@k, from an evaluation. */
export function derOf(evaluation: Evaluation): DerAtK {
  return {
    ...samplingOf(evaluation),
    models: Object.entries(evaluation.models).map(([name, { der_at_k: der }]) => ({
      name,
      points: Object.entries(der).map(([k, value]) => ({ k: Number(k), der: plain(value) })),
    })),
  };
}

/** The data of the figure of collapse points, from an evaluation. */
export function collapseOf(evaluation: Evaluation): CollapsePoints {
  const models = Object.entries(evaluation.models);
  const n = Math.max(...models.flatMap(([, { der_at_k: der }]) => Object.keys(der).map(Number)));
  return {
    ...samplingOf(evaluation),
    n,
    models: models.map(([name, { collapse_point: point }]) => {
      const { beyond } = point;
      // Of fewer replies than others: where it lies is not known.
      if (beyond !== undefined && beyond < n)
        return { name, collapse: { value: null, reason: `its ${beyond} replies a tweet do not tell` } };
      return { name, collapse: plain(point), beyond: beyond === n };
    }),
  };
}

/**
 * The figures that a directory of results has the data for, by number, in the paper's order.
 * @param only  numbers from 1 to 6; default all
 * @throws ConfigError  when one that is asked for has no data
 * @throws DataError    when a file is no result
 */
export function paperFigures(directory: string, only?: readonly number[]): Figure[] {
  const evaluation = readEvaluation(directory);
  const parts = {
    overview: readPart<MethodOverview>(directory, 'overview'),
    dynamics: readPart<DiversityDynamics>(directory, 'dynamics'),
    lora: readPart<LoraParameters>(directory, 'lora'),
  };
  const [first, second, third, fourth, fifth, sixth] = PAPER_FIGURES;
  const makers: (() => Figure | undefined)[] = [
    () => parts.overview && makeFigure(first, { kind: 'method-overview', data: parts.overview }),
    () => parts.dynamics && makeFigure(second, { kind: 'diversity-dynamics', data: parts.dynamics }),
    () => makeFigure(third, { kind: 'pareto-frontier', data: paretoOf(evaluation) }),
    () => parts.lora && makeFigure(fourth, { kind: 'lora-parameters', data: parts.lora }),
    () => makeFigure(fifth, { kind: 'der-at-k', data: derOf(evaluation) }),
    () => makeFigure(sixth, { kind: 'collapse-points', data: collapseOf(evaluation) }),
  ];
  return makers.flatMap((make, i) => {
    if (only !== undefined && !only.includes(i + 1)) return [];
    const figure = make();
    if (figure !== undefined) return [figure];
    const file = { 0: 'overview', 1: 'dynamics', 3: 'lora' }[i] ?? 'evaluation';
    throw new ConfigError(
      `${path.join(directory, `${file}.json`)}: is missing; figure ${i + 1} is drawn from it. Leave the figure out (--only), or make the results by \`npm run study\`.`,
    );
  });
}
