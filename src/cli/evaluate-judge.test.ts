import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseLines, temporaryDirectory, temporaryFile } from '../../test/cli';
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
import { dataOf, startJudge } from '../../test/judge-server';
import type { Behaviour, ChatRequest, JudgeServer } from '../../test/judge-server';
import { worldRecords } from '../data/world';
import { worldQuality } from '../data/world-law';
import type { TweetReplies } from '../eval/model-replies';
import { readEvaluation } from '../eval/write-evaluation';
import type { Evaluation } from '../eval/suite';
import { JUDGE_CRITERIA } from '../rewards/judge';

const read = (...parts: string[]): string => readFileSync(path.join(...parts), 'utf8');
const yaml = (text: string): string => temporaryFile('given.yaml', text);
const evaluationOf = ({ code, stdout, stderr }: CliResult): Evaluation => {
  expect([code, code === 0 ? '' : stderr]).toEqual([0, '']);
  return JSON.parse(stdout) as Evaluation;
};

/** Two replies of a model to each tweet, as good as `grade` says. */
const graded = (name: string, grade: number): string => {
  const lines = tweets.map((tweet, t) => ({
    ...{ tweet_id: `t${t}`, tweet },
    generations: [`${name} writes some ${grade} fine words`, `${name} goes on about ${tweet}`],
  }));
  return `--replies ${name}=${fileOf(lines)}`;
};
/** A judge that grades by the number in a reply. */
function fair(request: ChatRequest): Behaviour {
  const { first_reply, second_reply } = dataOf(request);
  const read = (reply: string): object => {
    const grade = Number(/\d+/.exec(reply)?.[0]);
    return Object.fromEntries(JUDGE_CRITERIA.map((each) => [each, grade]));
  };
  return { content: JSON.stringify({ first: read(first_reply), second: read(second_reply) }) };
}
const judgeFile = ({ baseUrl }: { baseUrl: string }, extra = '', cache = temporaryDirectory()): string =>
  yaml(
    `type: judge\nbase_url: ${baseUrl}\nmodel: big-judge\napi_key_env: none\ncache_directory: ${cache}\nmax_retries: 0\n${extra}`,
  );
const run = (argv: string, output = newOutput()): Promise<CliResult> =>
  evaluate(`--k 1,2 --output ${output} ${argv}`);

describe('grpolab evaluate --judge', () => {
  const PAIR = (): string => `${graded('poor', 3)} ${graded('fine', 8)}`;

  it('has every two models judged, in all reports and in no other number', async () => {
    const [server, output] = [await startJudge(fair), newOutput()];
    const weights = 'weights: { engagement: 0.4, relevance: 0.3, creativity: 0.15, naturalness: 0.15 }\n';
    const argv = `${PAIR()} ${graded('equal', 8)}`;
    const result = await run(`${argv} --json --judge ${judgeFile(server, weights)}`, output);
    const evaluation = evaluationOf(result);
    expect(evaluation.judge).toMatchObject({
      model: 'big-judge',
      weights: { engagement: 0.4, relevance: 0.3, creativity: 0.15, naturalness: 0.15 },
    });
    const pairs = evaluation.judge?.pairs.map(({ a, b, n, win_rate: rate }) => [a, b, n, rate.value]);
    expect(pairs).toEqual([
      ['poor', 'fine', 3, 1],
      ['poor', 'equal', 3, 1],
      ['fine', 'equal', 3, 0.5],
    ]);
    expect(server.requests).toHaveLength(9);
    expect(JSON.parse(read(output, 'evaluation.json'))).toEqual(evaluation);
    expect(read(output, 'evaluation.md')).toContain('## Judge\n\n- Judge: big-judge.');
    expect(read(output, 'evaluation.md')).toContain('| fine against poor | 3 | 3 / 0 / 0 | 100.0 % |');
    expect(read(output, 'evaluation.html')).toContain(
      '<td>fine against poor</td><td>3</td><td>3 / 0 / 0</td>',
    );
    expect(result.stderr).toMatch(/^score: .* in /m);
    const without = evaluationOf(await run(`${argv} --json`));
    expect({ ...evaluation, judge: null }).toEqual(without);
  });

  it('goes on from the answers that are kept, in another output directory, too', async () => {
    const [server, cache] = [await startJudge(fair), temporaryDirectory()];
    const argv = `${PAIR()} --json --judge ${judgeFile(server, '', cache)}`;
    const [first, again] = [await run(argv), await run(argv)];
    expect([again.code, again.stdout]).toEqual([0, first.stdout]);
    expect(server.requests).toHaveLength(3);
  });

  it('ends in one line with exit code 1 where the judge does not answer; the rest of the report is kept', async () => {
    const [server, output] = [await startJudge(() => ({ status: 503, body: '{}' })), newOutput()];
    const { code, stdout, stderr } = await run(`${PAIR()} --judge ${judgeFile(server)}`, output);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(
      /(^|\n)grpolab: http:[^\n]*no answer after one request, at last: status 503[^\n]*\n$/,
    );
    expect(readEvaluation(output)).toMatchObject({ judge: null, models: { poor: {}, fine: {} } });
  });

  it.each<[string, () => string, string | RegExp]>([
    [
      'is another reward',
      () => yaml('type: heuristic\n'),
      'type is heuristic; expected judge, as in configs',
    ],
    ['is empty', () => yaml(''), /given\.yaml: type is \w+; expected judge/],
    ['is not there', () => '/nowhere/judge.yaml', '/nowhere/judge.yaml'],
    ['is no YAML', () => yaml('type: [judge\n'), 'given.yaml: not YAML'],
    [
      'misspells a key',
      () => judgeFile({ baseUrl: 'http://h/v1' }, 'modle: x\n'),
      'unknown key "modle"; did you',
    ],
    [
      'holds a key',
      () => judgeFile({ baseUrl: 'http://h/v1' }, 'api_key: sk-1\n'),
      '"api_key" may not stand',
    ],
    [
      'names a variable that is not set',
      () => yaml('type: judge\nbase_url: http://h/v1\nmodel: m\napi_key_env: GRPOLAB_NO_KEY\n'),
      'the environment variable GRPOLAB_NO_KEY is not set',
    ],
  ])('is refused where its file %s, before anything is read or generated', async (_, file, message) => {
    const output = newOutput();
    expectRefused(await run(`--models m=/nowhere/model --n 2 --judge ${file()}`, output), message);
    expect(existsSync(output)).toBe(false);
  });
});

describe('grpolab evaluate with checks', () => {
  const world = [...worldRecords(3, 'heldout', 6)];
  /** All replies to each tweet of the world. */
  const lines = [...new Set(world.map(({ tweet_id: id }) => id))].map((id) => {
    const own = world.filter(({ tweet_id: other }) => other === id);
    return { tweet_id: id, tweet: own[0].tweet, generations: own.map(({ reply }) => reply) };
  });
  const DEFAULT = '10 to 300 characters, repetition <= 0.5, reward >= 0.6';
  const onWorld = async (argv: string): Promise<Evaluation> =>
    evaluationOf(await evaluate(`--k 1 --output ${newOutput()} --json --replies m=${fileOf(lines)} ${argv}`));

  it('counts by --min-world-quality the replies that are true enough, the default check beside it', async () => {
    for (const least of [0.4, 0.6]) {
      const { settings, models } = await onWorld(`--min-world-quality ${least}`);
      expect(settings).toMatchObject({
        quality: `10 to 300 characters, repetition <= 0.5, world quality >= ${least}`,
        other_quality: [DEFAULT],
      });
      const shares = lines.map(({ tweet, generations }) => {
        const fine = generations.filter(
          (reply) => reply.length >= 10 && worldQuality(tweet, reply).total >= least,
        );
        return fine.length / generations.length;
      });
      const share = shares.reduce((a, b) => a + b, 0) / shares.length;
      expect(share).toBeGreaterThan(0);
      // The world's replies are of no other fault than too few characters.
      expect(models.m.pass_at_k[1].value).toBeCloseTo(share, 12);
      expect(models.m.other_checks[DEFAULT][1].value).not.toBeNull();
    }
  });

  it.each([
    ['', DEFAULT, []],
    ['--min-reward 0.6', DEFAULT, []],
    ['--min-world-quality 0', DEFAULT, []],
    ['--min-reward 0.3', DEFAULT.replace('0.6', '0.3'), [DEFAULT]],
    ['--min-reward 0', DEFAULT.replace(', reward >= 0.6', ''), [DEFAULT]],
    [
      '--min-reward 0.3 --min-world-quality 0.5',
      `${DEFAULT.replace('0.6', '0.3')}, world quality >= 0.5`,
      [DEFAULT],
    ],
  ])('asks with "%s" for what it says', async (argv, quality, others) => {
    const { settings } = await onWorld(argv);
    expect([settings.quality, settings.other_quality]).toEqual([quality, others]);
  });

  it('passes no fewer replies the less reward it asks for', async () => {
    const rates = [];
    for (const least of [0, 0.5, 0.6, 0.7, 1])
      rates.push((await onWorld(`--min-reward ${least}`)).models.m.pass_at_k[1].value as number);
    expect(rates).toEqual([...rates].sort((a, b) => b - a));
    expect(new Set(rates).size).toBeGreaterThan(2);
  });

  it('refuses the truth of tweets that are not of the embedded world, and numbers out of range', async () => {
    const output = newOutput();
    const foreign = await run(`${graded('m', 5)} --min-world-quality 0.5`, output);
    expectRefused(foreign, 'min_world_quality is given, but the tweets are not of the embedded world');
    expect(existsSync(path.join(output, 'evaluation.json'))).toBe(false);
    for (const option of ['--min-reward', '--min-world-quality'])
      for (const value of ['1.5', '-0.1', 'half'])
        expectRefused(await run(`${graded('m', 5)} ${option}=${value}`), `${option} is "${value}"`);
  });
});

describe('grpolab evaluate on a served model', () => {
  const QUESTION = /reply to this tweet:\n\n([^]*)\n\nReply:$/;
  const talking = ({ body }: ChatRequest): Behaviour => ({
    content: `${QUESTION.exec(body.messages.at(-1)?.content ?? '')?.[1]}? Answer ${body.seed}`,
  });
  const served = ({ baseUrl }: JudgeServer, extra = ''): string =>
    `--config ${yaml(
      `models: { big: { base_url: "${baseUrl}", model: b, api_key_env: none, cache_directory: "${temporaryDirectory()}"${extra} } }`,
    )}`;
  const small = (output: string): string =>
    `--test-data ${fileOf(records)} --n 2 --max-new-tokens 6 --output ${output} --k 1,2`;

  it('writes its replies beside those of a model here, and goes on with the same settings alone', async () => {
    const [server, output] = [await startJudge(talking), newOutput()];
    const argv = `${served(server)} --models here=${model} ${small(output)} --json`;
    const first = await evaluate(argv);
    const { models, comparisons } = evaluationOf(first);
    expect(Object.keys(models)).toEqual(['big', 'here']);
    expect(comparisons[0]).toMatchObject({ a: 'big', b: 'here' });
    // A server gives no log-probabilities of what people wrote.
    expect([models.big.perplexity.value, typeof models.here.perplexity.value]).toEqual([null, 'number']);
    // Nor of what it wrote itself, unless it is asked.
    const nats = [models.big, models.here].map((one) => one.reply_nats_per_token?.value);
    expect(nats).toEqual([null, expect.any(Number)]);
    expect(readdirSync(path.join(output, 'replies')).sort()).toEqual([
      ...['big.jsonl', 'big.settings.json', 'here.jsonl', 'here.settings.json'],
    ]);
    const rows = parseLines<TweetReplies>(read(output, 'replies', 'big.jsonl'));
    expect(rows.map(({ tweet, generations }) => [tweet, generations.length])).toEqual(
      tweets.map((tweet) => [tweet, 2]),
    );
    for (const { tweet, generations } of rows)
      for (const text of generations) expect(text).toMatch(new RegExp(`^${tweet}\\? Answer \\d+$`));
    expect(first.stderr).toMatch(/^big: 3\/3 tweets in .*\nhere: 3\/3 tweets in /m);
    const resumed = await evaluate(`${argv} --resume`);
    expect([resumed.code, resumed.stdout]).toEqual([0, first.stdout]);
    expect(server.requests).toHaveLength(9);
    const before = read(output, 'replies', 'big.settings.json');
    for (const [option, message] of [
      ['--temperature 0.9', 'temperature 0.7; this evaluation has 0.9'],
      ['--top-p 0.5', 'top_p 0.9; this evaluation has 0.5'],
      ['--seed 1', 'seed 42; this evaluation has 1'],
    ])
      expectRefused(await evaluate(`${argv} --resume ${option}`), `big.jsonl: was written with ${message}`);
    expect([server.requests.length, read(output, 'replies', 'big.settings.json')]).toEqual([9, before]);
  });

  it('shows no test tweet in a few-shot prompt, whatever the examples are', async () => {
    const server = await startJudge(talking);
    const others = ['Sun today', 'Snow at last', 'Fog over the bay'].map((tweet, i) => ({
      ...{ tweet_id: `e${i}`, tweet, reply: `about ${tweet}`, reply_likes: i, tweet_likes: 10 },
    }));
    // Those of the test tweets did best of all; one comes under another id.
    const best = [...records, { ...records[0], tweet_id: 'x' }].map((record) => ({
      ...{ ...record, reply_likes: 1000 },
    }));
    const argv = `${served(server, ', shots: 2')} ${small(newOutput())} --quiet`;
    const { code } = await evaluate(`${argv} --examples ${fileOf([...best, ...others, ...best])}`);
    expect([code, server.requests.length]).toEqual([0, 9]);
    for (const { body } of server.requests) {
      const turns = body.messages.map(({ role, content }) => [role, QUESTION.exec(content)?.[1] ?? content]);
      expect(turns.slice(0, 4)).toEqual([
        ['user', 'Fog over the bay'],
        ['assistant', 'about Fog over the bay'],
        ['user', 'Snow at last'],
        ['assistant', 'about Snow at last'],
      ]);
      expect(tweets).toContain(turns[4][1]);
    }
    const all = await evaluate(`${argv} --examples ${fileOf(best)}`);
    expectRefused(all, 'big: shots is 2, but there are 0 examples');
  });

  it('ends with exit code 1 where the server is down', async () => {
    const server = await startJudge(() => ({ status: 500, body: '{}' }));
    const { code, stderr } = await evaluate(`${served(server, ', max_retries: 0')} ${small(newOutput())}`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/grpolab: http:[^\n]*no answer after one request, at last: status 500[^\n]*\n$/);
  });
});
