/** The results in the repository: what is read, drawn and said of them is what they hold. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { readEvaluation } from '../src/eval/write-evaluation';
import { evaluationMarkdown } from '../src/eval/report';
import { readFigure } from '../src/figures/draw';
import { studyReport } from '../src/study/expectations';
import { PAPER_FIGURES, paperFigures } from '../src/study/paper-figures';

const RESULTS = 'data/results';
const FIGURES = 'figures/paper';
const evaluation = readEvaluation(RESULTS);
const text = (file: string): string => readFileSync(file, 'utf8');

describe("the study's results", () => {
  it('are of six models, three seeds of each, on the same tweets', () => {
    const names = ['zero_shot', 'few_shot', 'baseline', 'polychromic', 'grpo', 'polychromic_grpo'];
    expect(Object.keys(evaluation.models)).toEqual(names);
    for (const model of Object.values(evaluation.models)) {
      expect(model.seeds).toEqual([42, 123, 456]);
      expect([model.n_tweets, model.n_replies]).toEqual([300, 3 * 300 * 10]);
      expect(model.engagement.value).not.toBeNull();
      expect(model.world_quality.value).not.toBeNull();
    }
  });

  it('are in the reports as they are in the JSON', () => {
    expect(text(path.join(RESULTS, 'study.md'))).toBe(studyReport(evaluation));
    expect(text(path.join(RESULTS, 'evaluation.md'))).toBe(evaluationMarkdown(evaluation));
  });

  it('are in the README as they are in the report', () => {
    const [, section] = /\n## The study\n([\s\S]*?)\n## /.exec(text('README.md')) ?? [];
    const lines = section.split('\n').filter((line) => /^\| [A-Z].* [↑↓] \|/.test(line));
    expect(lines.length).toBeGreaterThanOrEqual(15);
    const report = text(path.join(RESULTS, 'study.md')).split('\n');
    for (const line of lines) expect(report).toContain(line);
  });

  it('name no path of the machine that they were made on', () => {
    for (const file of ['evaluation.json', 'overview.json', 'dynamics.json', 'lora.json'])
      expect(text(path.join(RESULTS, file))).not.toMatch(/"[^"]*\/(tmp|home|root|work)\//);
  });
});

describe('the six figures', () => {
  const drawn = paperFigures(RESULTS);

  it.each(PAPER_FIGURES.map((name, i) => [name, i] as const))(
    '%s is drawn from the results, and from its JSON alone',
    (name, i) => {
      expect(drawn[i].name).toBe(name);
      const again = readFigure(path.join(FIGURES, `${name}.json`));
      expect(JSON.stringify(again.spec)).toBe(JSON.stringify(drawn[i].spec));
      for (const type of ['svg', 'pdf', 'png'])
        expect(existsSync(path.join(FIGURES, `${name}.${type}`)), type).toBe(true);
      expect(text('README.md')).toContain(`${FIGURES}/${name}.png`);
    },
  );
});
