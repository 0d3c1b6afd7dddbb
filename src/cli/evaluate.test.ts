import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryDirectory, temporaryFile } from '../../test/cli';
import type { CliResult } from '../../test/cli';
import {
  adapter,
  evaluate,
  expectRefused,
  fileOf,
  model,
  newOutput,
  records,
  tweets,
} from '../../test/evaluation-cli';
import type { TweetReplies } from '../eval/model-replies';
import type { Evaluation } from '../eval/suite';
import { Interrupted } from './io';

const FILES = ['evaluation.csv', 'evaluation.html', 'evaluation.json', 'evaluation.md', 'evaluation.tex'];
const read = (...parts: string[]): string => fs.readFileSync(path.join(...parts), 'utf8');

describe('grpolab evaluate on models', () => {
  let [output, data, first] = ['', '', {} as CliResult];
  const PAIR = `--models plain=${model} --models tuned=${model}+${adapter}`;
  /** Options of a small generation. */
  const small = (place: string): string =>
    `--test-data ${data} --n 3 --k 1,3 --max-new-tokens 6 --output ${place}`;
  const evaluationOf = ({ code, stdout }: CliResult): Evaluation => {
    expect(code).toBe(0);
    return JSON.parse(stdout) as Evaluation;
  };
  /** Records of other tweets. */
  const elsewhere = (of: typeof records) =>
    of.map((record) => ({ ...record, tweet_id: `${record.tweet_id} too`, tweet: `${record.tweet}, too` }));
  const repliesFilesIn = (place: string): string[] =>
    fs
      .readdirSync(path.join(place, 'replies'))
      .filter((name) => name.endsWith('.jsonl'))
      .sort();
  const repliesIn = (place: string): Record<string, string> =>
    Object.fromEntries(['plain', 'tuned'].map((name) => [name, read(place, 'replies', `${name}.jsonl`)]));

  beforeAll(async () => {
    // Not temporaryDirectory: what that makes ends with a test, and this is read by several.
    const directory = fs.mkdtempSync(path.join(tmpdir(), 'grpolab-evaluate-'));
    [output, data] = [path.join(directory, 'evaluation'), path.join(directory, 'test.jsonl')];
    fs.writeFileSync(data, jsonLines(records));
    first = await evaluate(`${PAIR} ${small(output)} --json`);
    return () => fs.rmSync(directory, { recursive: true, force: true });
  });

  it('prints one JSON object, the one in evaluation.json, and progress on standard error alone', () => {
    const evaluation = evaluationOf(first);
    expect(first.stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(read(output, 'evaluation.json'))).toEqual(evaluation);
    expect(Object.keys(evaluation.models)).toEqual(['plain', 'tuned']);
    for (const one of Object.values(evaluation.models)) {
      expect([one.n_tweets, one.n_replies]).toEqual([3, 9]);
      expect(Object.keys(one.pass_at_k)).toEqual(['1', '3']);
      expect(Object.keys(one.der_at_k)).toEqual(['1', '2', '3']);
      for (const metric of [one.reward, one.self_bleu, one.distinct[2], one.rouge.L, one.greedy.reward])
        expect(Object.keys(metric)).toEqual(['value', 'ci']);
    }
    const settings = { reward: 'heuristic', k: [1, 3], tokenizer: 'wordpunct', seed: 42, resamples: 10_000 };
    expect(evaluation.settings).toMatchObject(settings);
    expect(evaluation.comparisons[0]).toMatchObject({ a: 'plain', b: 'tuned', metric: 'reward', n: 3 });
    expect(first.stderr).toMatch(
      /^plain: 3\/3 tweets in .*\ntuned: 3\/3 tweets in .*\nscore: 2\/2 runs in /m,
    );
    expect(first.stderr).toContain(`written: ${path.join(output, 'evaluation.json')}`);
  });

  it('writes five reports, and the replies of each model, a line a tweet', () => {
    expect(fs.readdirSync(output).sort()).toEqual([...FILES, 'replies']);
    expect(repliesFilesIn(output)).toEqual(['plain.jsonl', 'tuned.jsonl']);
    const { plain, tuned } = repliesIn(output);
    expect(plain).not.toBe(tuned);
    for (const text of [plain, tuned]) {
      const lines = parseLines<TweetReplies>(text);
      expect(lines.map(({ tweet_id: id, tweet }) => [id, tweet])).toEqual(
        tweets.map((tweet, t) => [`t${t}`, tweet]),
      );
      for (const { generations, greedy } of lines)
        expect([generations.length, typeof greedy]).toEqual([3, 'string']);
    }
    const { samples } = evaluationOf(first);
    expect(samples[2].replies.tuned.map(({ text }) => text)).toEqual(
      parseLines<TweetReplies>(tuned)[2].generations,
    );
  });

  it('refuses replies that are there, keeps them, and with --resume goes on to the same result', async () => {
    const before = repliesIn(output);
    const again = await evaluate(`${PAIR} ${small(output)}`);
    expectRefused(again, 'plain.jsonl: holds replies already. Go on with --resume');
    expect(repliesIn(output)).toEqual(before);
    const file = path.join(output, 'replies', 'plain.jsonl');
    fs.truncateSync(file, Math.floor(read(file).length * 0.6));
    const resumed = await evaluate(`${PAIR} ${small(output)} --json --resume`);
    expect([resumed.code, resumed.stdout]).toEqual([0, first.stdout]);
    expect(repliesIn(output)).toEqual(before);
  });

  it('prints the Markdown report without --json, of files of replies as of the models that wrote them', async () => {
    const place = newOutput();
    const files = ['plain', 'tuned'].map(
      (name) => `--replies ${name}=${path.join(output, 'replies', `${name}.jsonl`)}`,
    );
    const { code, stdout, stderr } = await evaluate(`${files.join(' ')} ${small(place)}`);
    expect(code).toBe(0);
    expect(stdout.trimEnd()).toBe(read(place, 'evaluation.md').trimEnd());
    expect(stdout).toContain('| Metric | plain | tuned | Winner |');
    expect(stderr).not.toContain('| Metric');
    for (const file of FILES) expect(read(place, file), file).toBe(read(output, file));
  });

  it('takes --grpo-lora for a model, beside others', async () => {
    const argv = `--grpo-lora ${adapter} --model ${model} --models plain=${model}`;
    const { models } = evaluationOf(await evaluate(`${argv} ${small(newOutput())} --json --quiet`));
    const { tuned, plain } = evaluationOf(first).models;
    expect(Object.keys(models)).toEqual(['plain', 'grpo']);
    expect([models.plain, models.grpo]).toEqual([plain, tuned]);
  });

  it('finds the model that an adapter names, and asks for it where it names none', async () => {
    const naming = (base: string | null): string => {
      const directory = path.join(temporaryDirectory(), 'adapter');
      fs.cpSync(adapter, directory, { recursive: true });
      const config = JSON.parse(read(directory, 'adapter_config.json')) as Record<string, unknown>;
      const changed = JSON.stringify({ ...config, base_model_name_or_path: base });
      fs.writeFileSync(path.join(directory, 'adapter_config.json'), changed);
      return directory;
    };
    const named = await evaluate(`--baseline-lora ${naming(model)} ${small(newOutput())} --json --quiet`);
    expect(evaluationOf(named).models).toEqual({ baseline: evaluationOf(first).models.tuned });
    const unnamed = await evaluate(`--grpo-lora ${naming(null)} ${small(newOutput())}`);
    expectRefused(unnamed, 'names no base model. Name it: --model DIR');
  });

  it('aggregates the runs of a configuration over their seeds, and shows examples in a few-shot prompt', async () => {
    const runs = [1, 2].map((seed) => `{ model: ${model}, seed: ${seed} }`);
    const yaml = `models:\n  tiny: [${runs.join(', ')}]\n  shown: { model: ${model}, shots: 2 }\n`;
    const place = newOutput();
    const argv = `--config ${temporaryFile('models.yaml', yaml)} --examples ${fileOf(elsewhere(records))}`;
    const { models } = evaluationOf(await evaluate(`${argv} ${small(place)} --json`));
    const { tiny, shown } = models;
    expect([tiny.seeds, tiny.n_replies, shown.n_replies]).toEqual([[1, 2], 18, 9]);
    expect(tiny.reward.seeds?.values).toHaveLength(2);
    const names = ['shown.jsonl', 'tiny-seed_1.jsonl', 'tiny-seed_2.jsonl'];
    expect(repliesFilesIn(place)).toEqual(names);
    expect(read(place, 'replies', 'shown.jsonl')).not.toBe(repliesIn(output).plain);
  });

  it('shows in a few-shot prompt the replies that did best, one a tweet and none to a test tweet', async () => {
    const config = temporaryFile('m.yaml', `models: { shown: { model: ${model}, shots: 2 } }`);
    const repliesAfter = async (examples: unknown[]): Promise<string> => {
      const place = newOutput();
      const argv = `--config ${config} --examples ${fileOf(examples)} ${small(place)}`;
      expect((await evaluate(argv)).code).toBe(0);
      return read(place, 'replies', 'shown.jsonl');
    };
    // Likes rise from record to record, two of them to each tweet.
    const others = elsewhere(records);
    const [all, best] = [await repliesAfter(others), await repliesAfter([others[5], others[3]])];
    expect(all).toBe(best);
    expect(await repliesAfter([...records, ...others])).toBe(best);
    expect(await repliesAfter([others[4], others[3]])).not.toBe(best);
  });

  it('ends with 130 after Ctrl-C, keeps what is written, and goes on to the replies of an uninterrupted run', async () => {
    const [place, whole] = [newOutput(), newOutput()];
    const argv = (own: string): string => `${PAIR} ${small(own)} --max-new-tokens 60`;
    const stop = new AbortController();
    // As soon as the first model is done, while the second one writes.
    const watch = setInterval(() => {
      if (fs.existsSync(path.join(place, 'replies', 'plain.jsonl'))) stop.abort(new Interrupted());
    }, 2);
    const { code, stdout, stderr } = await runCli(['evaluate', ...argv(place).split(' ')], '', stop.signal);
    clearInterval(watch);
    expect([code, stdout]).toEqual([130, '']);
    expect(stderr).toContain('grpolab: interrupted');
    expect(repliesFilesIn(place)).toEqual(['plain.jsonl']);
    expect(fs.existsSync(path.join(place, 'evaluation.json'))).toBe(false);
    const [resumed, fresh] = [await evaluate(`${argv(place)} --resume`), await evaluate(argv(whole))];
    expect([resumed.code, fresh.code, resumed.stdout]).toEqual([0, 0, fresh.stdout]);
    expect(repliesIn(place)).toEqual(repliesIn(whole));
  });

  it('takes the first text of a tweet that the test data have twice, and no more tweets than --max-tweets', async () => {
    const place = newOutput();
    const twice = fileOf([...records, { ...records[0], tweet: 'reworded', reply: 'another' }]);
    const argv = `--models m=${model} --n 1 --k 1 --max-new-tokens 3 --test-data ${twice} --max-tweets 2`;
    expect((await evaluate(`${argv} --output ${place}`)).code).toBe(0);
    const lines = parseLines<TweetReplies>(read(place, 'replies', 'm.jsonl'));
    expect(lines.map(({ tweet_id: id, tweet }) => [id, tweet])).toEqual([
      ['t0', 'I love tea'],
      ['t1', 'Rain again'],
    ]);
  });

  it('refuses k above --n before it generates anything', async () => {
    const place = newOutput();
    expectRefused(await evaluate(`${PAIR} ${small(place)} --k 1,5`), '--k asks for 5 of --n 3 replies');
    expect(fs.existsSync(place)).toBe(false);
  });

  it('refuses two models of one name, or whose replies would be in one file, before it generates anything', async () => {
    const place = newOutput();
    const of = (one: string, other: string): Promise<CliResult> =>
      evaluate([
        '--models',
        `${one}=${model}`,
        '--models',
        `${other}=${model}+${adapter}`,
        ...small(place).split(' '),
      ]);
    expectRefused(await of('m', 'm'), 'two models are called m; expected different names, or seeds');
    expectRefused(await of('a b', 'a_b'), 'the replies of a b and of a_b would both be written to a_b.jsonl');
    expect(fs.existsSync(place)).toBe(false);
  });

  it('refuses models without tweets, an output that is a file, and a model that is not there', async () => {
    expectRefused(
      await evaluate(`--models m=${model} --k 1`),
      '--test-data is missing: m needs tweets to reply to',
    );
    const file = temporaryFile('one', 'keep me');
    expectRefused(
      await evaluate(`${PAIR} ${small(file)}`),
      'cannot be made a directory: a file stands there',
    );
    expect(fs.readFileSync(file, 'utf8')).toBe('keep me');
    const missing = await evaluate(`--models m=/nowhere ${small(newOutput())}`);
    expectRefused(missing, '/nowhere: expected a model directory');
  });
});
