import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, runCli, temporaryDirectory } from '../../test/cli';
import { options, repliesOf } from '../../test/evaluation-task';
import { evaluateModels } from '../eval/suite';
import type { Evaluation } from '../eval/suite';
import { writeEvaluation } from '../eval/write-evaluation';
import { goldenPath } from '../../test/golden';
import { PAPER_FIGURES, paperFigures, writePaperResults } from './paper-figures';
import { dynamicsOf, loraOf } from './paper-results';

const rows = [
  ['good tea #0.9', 'tea tea #0.2', 'more cake #0.8'],
  ['a boat #0.7', 'a boat #0.7', 'no rain #0.1'],
  ['bad bus #0.3', 'the cab came #0.9', 'walk then #0.6'],
];
const evaluation = (): Promise<Evaluation> =>
  evaluateModels([repliesOf('baseline', rows), repliesOf('grpo', [...rows].reverse())], {
    ...options,
    references: new Map([0, 1, 2].map((t) => [`t${t}`, { replies: ['good tea'], engagement: t }])),
  });

/** A run directory with an evaluation at the given steps. */
function runOf(steps: readonly number[], selfBleu: number): string {
  const directory = temporaryDirectory();
  const row = (step: number) => ({
    ...{ step, 'eval/self_bleu': selfBleu, 'eval/distinct_2': 0.5 },
    'eval/semantic_diversity': step === 0 ? null : 0.4,
  });
  writeFileSync(
    path.join(directory, 'metrics.jsonl'),
    jsonLines([{ step: 1, 'train/loss': 1 }, ...steps.map(row)]),
  );
  return directory;
}

describe('diversity over whole runs', () => {
  it('is the mean over seeds with its range, phase 2 counting on from phase 1', () => {
    const { boundary, models } = dynamicsOf([
      { name: 'baseline', phase1: [runOf([0, 10, 20], 0.2), runOf([0, 10, 20], 0.4)] },
      { name: 'grpo', phase1: [runOf([0, 10], 0.2)], phase2: [runOf([0, 5], 0.8)] },
    ]);
    expect(boundary).toBe(10);
    expect(models[0].points[1]).toMatchObject({ step: 10, phase: 1 });
    const { selfBleu } = models[0].points[1];
    expect(selfBleu).toMatchObject({ band: [0.2, 0.4] });
    expect(selfBleu?.value).toBeCloseTo(0.3, 12);
    expect(models[0].points[0].semantic).toMatchObject({ value: null });
    expect(models[1].points.map(({ step, phase }) => [step, phase])).toEqual([
      [0, 1],
      [10, 1],
      [15, 2],
    ]);
  });

  it('names a run without an evaluation', () => {
    expect(() => dynamicsOf([{ name: 'grpo', phase1: [runOf([], 0)] }])).toThrow(
      /metrics\.jsonl: has no evaluation of held-out replies/,
    );
  });
});

describe('the figures of the paper', () => {
  it('are six, drawn from a directory of results', async () => {
    const directory = temporaryDirectory();
    const files = await writePaperResults(
      {
        evaluation: await evaluation(),
        overview: { records: 10 },
        dynamics: dynamicsOf([{ name: 'baseline', phase1: [runOf([0, 10], 0.2)] }]),
        lora: loraOf(goldenPath('tiny-qwen3', 'untied-f32'), { grpo: [goldenPath('lora', 'adapter')] }),
      },
      directory,
    );
    expect(files).toHaveLength(9);
    const figures = paperFigures(directory);
    expect(figures.map(({ name }) => name)).toEqual([...PAPER_FIGURES]);
    expect(paperFigures(directory, [3, 6]).map(({ name }) => name)).toEqual([
      PAPER_FIGURES[2],
      PAPER_FIGURES[5],
    ]);
  });

  it('are refused one by one where their data are missing, by the command too', async () => {
    const directory = temporaryDirectory();
    await writeEvaluation(await evaluation(), directory);
    expect(paperFigures(directory, [3, 5, 6])).toHaveLength(3);
    expect(() => paperFigures(directory)).toThrow(/overview\.json: is missing; figure 1 is drawn from it/);
    const { code, stderr } = await runCli([
      'figures',
      '--results',
      directory,
      '--output',
      temporaryDirectory(),
    ]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/overview\.json: is missing/)]);
    const wrong = await runCli(['figures', '--results', directory, '--only', '7']);
    expect([wrong.code, wrong.stderr]).toEqual([
      2,
      expect.stringMatching(/--only is "7"; expected numbers from 1 to 6/),
    ]);
    mkdirSync(path.join(directory, 'empty'));
    expect((await runCli(['figures', '--results', path.join(directory, 'empty')])).stderr).toMatch(
      /evaluation\.json: no such file/,
    );
  });
});
