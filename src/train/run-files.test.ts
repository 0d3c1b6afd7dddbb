import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, temporaryDirectory } from '../../test/cli';
import { DataError } from '../runtime/errors';
import { readMetrics, readSamples } from './run-files';

/** A run directory with one file. */
function directoryWith(name: string, content: string): string {
  const directory = temporaryDirectory();
  writeFileSync(path.join(directory, name), content);
  return directory;
}

const rows = [
  { step: 0, 'eval/reward': 0.5 },
  { step: 1, 'train/loss': null },
  { step: 2, 'train/loss': -1.5e-3 },
];

describe('readMetrics', () => {
  it('gives the rows as they stand in the file, null where a value was not finite', () => {
    expect(readMetrics(directoryWith('metrics.jsonl', jsonLines(rows)))).toEqual(rows);
  });

  it('gives none where there is no run, or none that has begun', () => {
    expect(readMetrics('/nowhere')).toEqual([]);
    expect(readMetrics(temporaryDirectory())).toEqual([]);
    expect(readMetrics(directoryWith('metrics.jsonl', ''))).toEqual([]);
  });

  it('leaves out a last line that a crash cut off, at whatever letter', () => {
    const text = jsonLines(rows);
    const last = text.lastIndexOf('{');
    for (let end = last; end < text.length - 2; end++)
      expect(readMetrics(directoryWith('metrics.jsonl', text.slice(0, end))), text.slice(last, end)).toEqual(
        rows.slice(0, 2),
      );
    expect(readMetrics(directoryWith('metrics.jsonl', text.slice(0, -1)))).toEqual(rows);
  });

  it('names the file and the line of what is no JSON before the end', () => {
    const directory = directoryWith('metrics.jsonl', `{"step":1}\n{"step":\n{"step":3}\n`);
    expect(() => readMetrics(directory)).toThrow(DataError);
    expect(() => readMetrics(directory)).toThrow(`${path.join(directory, 'metrics.jsonl')}:2: is no JSON`);
    // A whole line was written as one: what is wrong in it is not the work of a crash.
    expect(() => readMetrics(directoryWith('metrics.jsonl', '{"step":1}\n{"step":\n'))).toThrow(DataError);
  });
});

describe('readSamples', () => {
  const line = (step: number, prompt: string, rewards: number[], over: object = {}) => ({
    ...{ step, prompt_id: prompt, rewards, replies: rewards.map((reward) => `${prompt}: ${reward}`) },
    ...over,
  });
  const samples = (lines: readonly object[], count?: number) =>
    readSamples(directoryWith('samples.jsonl', jsonLines(lines)), count);

  it('gives the best and the worst reply of each group, of the last step that has rollouts', () => {
    const lines = [
      line(1, 'old', [0.9, 0.1]),
      line(2, 'a', [0.5, 0.75, 0.25, 0.5]),
      line(2, 'b', [0, 1]),
      line(2, 'held out', [1, 0], { evaluation: true }),
      line(3, 'held out', [1, 0], { evaluation: true }),
    ];
    expect(samples(lines)).toEqual([
      { step: 2, prompt: 'a', reply: 'a: 0.75', reward: 0.75 },
      { step: 2, prompt: 'a', reply: 'a: 0.25', reward: 0.25 },
      { step: 2, prompt: 'b', reply: 'b: 1', reward: 1 },
      { step: 2, prompt: 'b', reply: 'b: 0', reward: 0 },
    ]);
  });

  it('shows one reply of a group of one, and two of a group whose rewards are equal', () => {
    expect(samples([line(1, 'a', [0.5])])).toHaveLength(1);
    const equal = { ...line(1, 'a', [0.5, 0.5, 0.5]), replies: ['x', 'y', 'z'] };
    expect(samples([equal]).map(({ reply }) => reply)).toEqual(['x', 'z']);
  });

  it('shows four prompts, or as many as are asked for, from the first on', () => {
    const lines = Array.from({ length: 6 }, (_, i) => line(7, `p${i}`, [0, 1]));
    const prompts = (count?: number): string[] => [
      ...new Set(samples(lines, count).map(({ prompt }) => prompt)),
    ];
    expect(prompts()).toEqual(['p0', 'p1', 'p2', 'p3']);
    expect(prompts(1)).toEqual(['p0']);
    expect(prompts(100)).toHaveLength(6);
  });

  it('gives none of a run without rollouts, such as one of SFT', () => {
    expect(readSamples('/nowhere')).toEqual([]);
    expect(samples([])).toEqual([]);
    expect(samples([line(0, 'a', [1], { evaluation: true })])).toEqual([]);
  });
});
