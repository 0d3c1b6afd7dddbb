import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonLines, parseLines, runCli, temporaryFile } from '../../test/cli';
import type { CliResult } from '../../test/cli';
import {
  evaluate,
  expectRefused,
  fileOf,
  model,
  newOutput,
  records,
  tweets,
} from '../../test/evaluation-cli';
import { worldRecords } from '../data/world';
import { EVALUATION_DEFAULTS } from '../eval/evaluate-sources';
import type { Evaluation } from '../eval/suite';
import { evaluate as evaluateCommand } from './evaluation-commands';

/** So many replies to each tweet. */
const replyLines = (salt: string, n = 2) =>
  tweets.map((tweet, t) => ({
    ...{ tweet_id: `t${t}`, tweet },
    generations: Array.from(
      { length: n },
      (_, i) => `${salt} has ${i + t} fine words about ${tweet.toLowerCase()}`,
    ),
  }));
const one = (): string => `--replies m=${fileOf(replyLines('one'))}`;

const onFiles = (argv: string, output = newOutput(), input = ''): Promise<CliResult> =>
  evaluate(`--k 1,2 --output ${output} ${argv}`, input);
const evaluated = async (argv: string, input = ''): Promise<Evaluation> => {
  const { code, stdout, stderr } = await onFiles(`${argv} --json --quiet`, newOutput(), input);
  expect([code, stderr.replace(/^written: .*\n/, '')]).toEqual([0, '']);
  return JSON.parse(stdout) as Evaluation;
};

describe('grpolab evaluate on files of replies', () => {
  it('takes what generate prints', async () => {
    const asked = jsonLines(tweets.map((tweet, t) => ({ tweet_id: t, tweet })));
    const argv = `generate --model test/golden/tiny-qwen3/tied-bf16 --input - --n 2 --max-new-tokens 5 --json --quiet`;
    const printed = await runCli(argv.split(' '), asked);
    const { models, samples } = await evaluated(`--replies m=${temporaryFile('g.jsonl', printed.stdout)}`);
    expect(models.m.n_replies).toBe(6);
    const [{ generations }] = parseLines<{ generations: { text: string }[] }>(printed.stdout);
    expect(samples[0].replies.m.map(({ text }) => text)).toEqual(generations.map(({ text }) => text));
  });

  it('has references and engagement from the test data, which may come from standard input', async () => {
    const { m } = (await evaluated(`${one()} --test-data -`, jsonLines(records))).models;
    expect(m.rouge[1].value).toBeGreaterThan(0);
    const without = (await evaluated(one())).models.m;
    expect(without.rouge[1]).toEqual({ value: null, reason: 'no reference reply' });
    expect(without.reward.value).toBe(m.reward.value);
    expect(without.engagement).toEqual({ value: null, reason: 'no learned reward was given' });
  });

  it('takes replies from standard input', async () => {
    const { models } = await evaluated('--replies m=-', jsonLines(replyLines('one')));
    expect(models.m.n_replies).toBe(6);
  });

  it('knows the truth of the embedded world alone', async () => {
    const lines = [...worldRecords(3, 'heldout', 4)].map(({ tweet_id, tweet, reply }) => ({
      ...{ tweet_id, tweet, generations: [reply, reply] },
    }));
    const file = fileOf([...new Map(lines.map((line) => [line.tweet_id, line])).values()]);
    expect((await evaluated(`--replies m=${file}`)).models.m.world_quality.value).toBeGreaterThan(0);
    expect((await evaluated(one())).models.m.world_quality.value).toBeNull();
  });

  it('computes all that exists of one reply a tweet, of empty ones and of equal ones', async () => {
    const single = `--replies m=${fileOf(replyLines('x', 1))} --k 1`;
    const { m } = (await evaluated(single)).models;
    for (const metric of [m.self_bleu, m.semantic_diversity])
      expect(metric).toMatchObject({
        value: null,
        reason: expect.stringContaining('no tweet has two replies') as string,
      });
    for (const metric of [m.reward, m.distinct[1], m.pass_at_k[1], m.characters])
      expect(metric.value).not.toBeNull();
    const texts = [
      ['', ''],
      ['same', 'same'],
      ['', ' '],
    ];
    const odd = fileOf(tweets.map((tweet, t) => ({ tweet_id: `t${t}`, tweet, generations: texts[t] })));
    const { models } = await evaluated(`--replies odd=${odd} ${one()}`);
    expect(models.odd.pass_at_k[2].value).toBe(0);
    expect(models.m.reward.value).toBeGreaterThan(models.odd.reward.value as number);
  });

  it('uses the tokens that --tokenizer names', async () => {
    const file = fileOf([{ tweet_id: 1, tweet: 't', generations: ["it's", 'it s'] }]);
    const distinct = async (extra = ''): Promise<number | null> =>
      (await evaluated(`--replies m=${file} ${extra}`)).models.m.distinct[1].value;
    expect(await distinct()).toBeCloseTo(3 / 5, 12);
    expect(await distinct('--tokenizer whitespace')).toBe(1);
    expect(await distinct('--tokenizer treebank')).toBeCloseTo(3 / 4, 12);
  });

  it('sets bad lines aside with --skip-invalid, of records and of replies, and says how many', async () => {
    const file = temporaryFile('r.jsonl', `${jsonLines(replyLines('one'))}{"tweet_id": 4}\n`);
    const data = temporaryFile('d.jsonl', `${jsonLines(records)}not json\nnor this\n`);
    const argv = `--replies m=${file} --test-data ${data}`;
    expectRefused(await onFiles(argv), `${data}:7: not JSON`);
    const { code, stderr } = await onFiles(`${argv} --skip-invalid`);
    const [badRecords, badReplies] = [data, file].map((name) => name.replace('.jsonl', '.rejected.jsonl'));
    expect(stderr).toContain(`2 bad lines set aside in ${badRecords}\n`);
    expect(stderr).toContain(`1 bad lines set aside in ${badReplies}\n`);
    expect(code).toBe(0);
    expect(parseLines(readFileSync(badReplies, 'utf8'))).toHaveLength(1);
  });

  it('refuses models on different tweets, with the list, and keeps what was written before', async () => {
    const output = newOutput();
    expect((await onFiles(one(), output)).code).toBe(0);
    const before = readFileSync(path.join(output, 'evaluation.json'), 'utf8');
    const other = fileOf([
      ...replyLines('x').slice(1),
      { tweet_id: 'z', tweet: 'new', generations: ['a', 'b'] },
    ]);
    const refused = await onFiles(`${one()} --replies b=${other}`, output);
    expectRefused(refused, 'b and m are on different tweets: it lacks 1 (t0); it has 1 others (z).');
    expect(readFileSync(path.join(output, 'evaluation.json'), 'utf8')).toBe(before);
  });

  it('refuses an output that is a file, or that has a directory in place of a report', async () => {
    const file = temporaryFile('one', 'keep me');
    expectRefused(await onFiles(one(), file), 'cannot be made a directory: a file stands there');
    expect(readFileSync(file, 'utf8')).toBe('keep me');
    const output = newOutput();
    mkdirSync(path.join(output, 'evaluation.json'), { recursive: true });
    expectRefused(await onFiles(one(), output), 'is not a regular file');
  });

  const yaml = (text: string): string => temporaryFile('m.yaml', text);
  const broken = (...lines: unknown[]): string => `--replies m=${fileOf([...replyLines('x'), ...lines])}`;

  it.each<[string, () => string, string | RegExp]>([
    ['no model', () => '', 'no model was named: use --replies, --models, --config or --grpo-lora'],
    ['a file that is not there', () => '--replies m=/nowhere.jsonl', '/nowhere.jsonl: no such file'],
    ['no replies', () => `--replies m=${fileOf([])}`, /lines\.jsonl: has no replies of m/],
    ['too large a k', () => `${one()} --k 1,5`, 'k is 5, but m has 2 replies to tweet t0; expected 1 to 2'],
    [
      'two models of one name',
      () => `${one()} ${one()}`,
      'two models are called m; expected different names',
    ],
    ['a line without tweet', () => broken({ tweet_id: 'q' }), /lines\.jsonl:4: tweet is missing; expected/],
    ['a tweet twice', () => broken(...replyLines('y')), /lines\.jsonl:4: tweet t0 comes a second time/],
    [
      'a list without replies',
      () => broken({ tweet_id: 1, tweet: 't', generations: [] }),
      /lines\.jsonl:4: generations is \[\]; expected at least one reply/,
    ],
    [
      'a line that is no JSON',
      () => `--replies m=${temporaryFile('t.jsonl', 'tea\n')}`,
      /t\.jsonl:1: not JSON/,
    ],
    ['a file without a name', () => '--replies lines.jsonl', '--replies lines.jsonl: expected NAME=FILE'],
    ['a model without a name', () => '--models data/model', '--models data/model: expected NAME=MODEL'],
    ['a misspelt option', () => `--reply m=x`, /--replies/],
    ['k that is no number', () => `${one()} --k 1,two`, '--k is "1,two"; expected integers >= 1'],
    ['k of 0', () => `${one()} --k 0`, '--k is "0"; expected integers >= 1'],
    [
      'an unknown tokenizer',
      () => `${one()} --tokenizer words`,
      '--tokenizer is "words"; expected wordpunct',
    ],
    [
      'a tokenizer of every object',
      () => `${one()} --tokenizer toString`,
      '--tokenizer is "toString"; expected',
    ],
    ['an unknown reward', () => `${one()} --reward likes`, /likes/],
    ['a learned reward that is not there', () => `${one()} --learned /nowhere/r`, '/nowhere/r'],
    ['an embedding that is not there', () => `${one()} --embedding /nowhere/e`, '/nowhere/e'],
    ['an adapter that is not there', () => '--grpo-lora /nowhere/a', '/nowhere/a'],
    ['a configuration that is not there', () => '--config /nowhere.yaml', '/nowhere.yaml: cannot be read'],
    [
      'an unknown key in one',
      () => `--config ${yaml('models: { a: { replies: f, sed: 1 } }')}`,
      /m\.yaml: models\.a: unknown key "sed"; did you mean "seed"\?/,
    ],
    ['test data without a record', () => `${one()} --test-data ${fileOf([])}`, /lines\.jsonl: has no record/],
    [
      'a broken record',
      () => `${one()} --test-data ${fileOf([{ tweet_id: 1 }])}`,
      /lines\.jsonl:1: tweet is missing/,
    ],
    ['a seed below 0', () => `${one()} --seed=-1`, '--seed is "-1"'],
    [
      'no tweets at all',
      () => `--models m=${model} --test-data ${fileOf(records)} --max-tweets 0`,
      '--max-tweets is "0"',
    ],
    [
      'too few examples',
      () => `--config ${yaml(`models: { a: { model: ${model}, shots: 3 } }`)} --test-data ${fileOf(records)}`,
      'a: shots is 3, but there are 0 examples',
    ],
  ])('refuses %s in one line, and writes nothing', async (_, argv, message) => {
    const output = newOutput();
    expectRefused(await onFiles(argv(), output), message);
    expect(existsSync(path.join(output, 'evaluation.json'))).toBe(false);
  });

  it('says in its help what it takes', async () => {
    const { code, stdout } = await evaluate('--help');
    expect(code).toBe(0);
    const options =
      'replies models baseline-lora grpo-lora test-data config k reward resume json output tokenizer seed';
    for (const option of options.split(' ')) expect(stdout).toContain(`--${option}`);
  });
});

it('has the defaults that an evaluation in a notebook has', () => {
  const { options } = evaluateCommand;
  const { n, temperature, topP, maxNewTokens, seed } = EVALUATION_DEFAULTS;
  const names = ['n', 'temperature', 'top-p', 'max-new-tokens', 'seed'];
  expect(names.map((name) => Number(options[name].default))).toEqual([
    n,
    temperature,
    topP,
    maxNewTokens,
    seed,
  ]);
});
