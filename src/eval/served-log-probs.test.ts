import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseLines, temporaryDirectory } from '../../test/cli';
import { options as evaluation } from '../../test/evaluation-task';
import { cacheFiles, failureOf, logProbsOf, startJudge } from '../../test/judge-server';
import type { Behaviour, ChatRequest, JudgeServer } from '../../test/judge-server';
import { ConfigError, DataError } from '../runtime/errors';
import type { ModelReplies, TweetReplies } from './model-replies';
import { openModelReplies, parseModelSources } from './model-sources';
import type { OpenRepliesOptions } from './model-sources';
import { evaluateModels } from './suite';

const tweets = ['I love tea', 'Rain again', 'My cab is late'].map((tweet, t) => ({
  tweet_id: `t${t}`,
  tweet,
}));
const options = { generations: 2, temperature: 0.8, topP: 0.95, maxNewTokens: 40, seed: 4 };

const isSample = ({ body }: ChatRequest): boolean => body.temperature > 0;
/** Answers with the seed, and gives log-probabilities that depend on it. */
const telling = (request: ChatRequest): Behaviour => {
  const text = isSample(request) ? `number ${request.body.seed}` : 'greedy';
  return {
    content: text,
    logProbs: logProbsOf([text, -((request.body.seed ?? 0) % 64) / 8], ['<|im_end|>', -0.25]),
  };
};
const drawnFor = (text: string) => ({ log_prob: -(Number(text.slice(7)) % 64) / 8 - 0.25, tokens: 2 });

interface Opened {
  replies: ModelReplies;
  notices: string[];
  directory: string;
  cache: string;
  rows: TweetReplies[];
}
async function open(
  server: JudgeServer,
  own: Partial<OpenRepliesOptions> & { cache?: string; extra?: string } = {},
): Promise<Opened> {
  const { cache = temporaryDirectory(), directory = temporaryDirectory(), ...rest } = own;
  const { extra = ', log_probs: true', ...given } = rest;
  const keys = `base_url: "${server.baseUrl}", model: big, api_key_env: none, cache_directory: "${cache}"`;
  const [source] = parseModelSources(`models: { served: { ${keys}${extra} } }`, 'models.yaml');
  const notices: string[] = [];
  const replies = await openModelReplies(source, tweets, {
    ...{ ...options, directory, onNotice: (line: string) => notices.push(line) },
    ...given,
  });
  const rows = parseLines<TweetReplies>(readFileSync(path.join(directory, 'served.jsonl'), 'utf8'));
  return { replies, notices, directory, cache, rows };
}
const settingsOf = ({ directory }: Opened): Record<string, unknown> =>
  JSON.parse(readFileSync(path.join(directory, 'served.settings.json'), 'utf8')) as Record<string, unknown>;

describe('the log-probabilities of a served model', () => {
  it('are asked for with log_probs alone, of the samples alone, and stand on file beside them', async () => {
    const server = await startJudge(telling);
    const { replies, rows, notices, ...place } = await open(server);
    expect(server.requests.filter(isSample).map(({ body }) => body.logprobs)).toEqual(
      new Array(6).fill(true),
    );
    for (const { body } of server.requests.filter((request) => !isSample(request)))
      expect(body).not.toHaveProperty('logprobs');
    expect(replies.tweets).toEqual(rows);
    for (const { generations, drawn, greedy } of rows) {
      expect(greedy).toBe('greedy');
      expect(drawn).toEqual(generations.map(drawnFor));
    }
    expect([notices, settingsOf({ replies, rows, notices, ...place }).log_probs]).toEqual([[], true]);
  });

  it('are neither asked for nor on file without it, and the replies are the same', async () => {
    const server = await startJudge(telling);
    const bare = await open(server, { extra: '' });
    for (const { body } of server.requests) expect(body).not.toHaveProperty('logprobs');
    for (const row of bare.rows) expect(row).not.toHaveProperty('drawn');
    expect(settingsOf(bare)).not.toHaveProperty('log_probs');
    const { rows } = await open(server);
    expect(rows.map(({ drawn: _, ...row }) => row)).toEqual(bare.rows);
  });

  it('come from the cache with the texts; a greedy reply needs no other one', async () => {
    const server = await startJudge(telling);
    const [first, second] = [await open(server), await open(server, { extra: '' })];
    const before = server.requests.length;
    expect((await open(server, { cache: first.cache })).rows).toEqual(first.rows);
    expect(server.requests).toHaveLength(before);
    expect((await open(server, { cache: second.cache })).rows).toEqual(first.rows);
    expect(server.requests.slice(before).every(isSample)).toBe(true);
    expect([server.requests.length - before, cacheFiles(second.cache).length]).toEqual([6, 9 + 6]);
  });

  it('are null where the server gives none, with one notice, and where a reply was cut out of thoughts', async () => {
    const none = await open(await startJudge(() => ({ content: 'Tea.' })));
    for (const { drawn } of none.rows) expect(drawn).toEqual([null, null]);
    expect(none.notices).toHaveLength(1);
    expect(none.notices[0]).toContain('without log-probabilities of its tokens');
    const thinking = await open(
      await startJudge((request) => {
        const plain = telling(request);
        const isEven = (request.body.seed ?? 0) % 2 === 0;
        return isEven ? { ...plain, content: `<think>Well.</think> ${plain.content}` } : plain;
      }),
    );
    const all = thinking.rows.flatMap(({ generations, drawn }) =>
      generations.map((text, i) => ({ text, drawn: drawn?.[i] })),
    );
    expect(all.map(({ text, drawn }) => [text, drawn])).toEqual(
      all.map(({ text }) => [text, Number(text.slice(7)) % 2 === 0 ? null : drawnFor(text)]),
    );
    expect(new Set(all.map(({ drawn }) => drawn === null)).size).toBe(2);
  });

  it('are those of an uninterrupted run where one was stopped', async () => {
    const server = await startJudge(telling);
    const whole = await open(server);
    const file = path.join(whole.directory, 'served.jsonl');
    const text = readFileSync(file, 'utf8');
    for (const end of [0, text.indexOf('\n') + 1, text.indexOf('\n') + 40]) {
      writeFileSync(file, text.slice(0, end));
      const resumed = await open(server, { directory: whole.directory, resume: true });
      expect([readFileSync(file, 'utf8'), resumed.replies]).toEqual([text, whole.replies]);
    }
  });

  it('are a setting that a file is not gone on with under another value of', async () => {
    const server = await startJudge(telling);
    const [asked, bare] = [await open(server), await open(server, { extra: '' })];
    const going = ({ directory }: Opened, extra: string) =>
      failureOf(open(server, { directory, resume: true, extra }));
    for (const [place, extra, message] of [
      [asked, '', 'log_probs true; this evaluation has nothing'],
      [asked, ', log_probs: false', 'log_probs true; this evaluation has nothing'],
      [bare, ', log_probs: true', 'log_probs nothing; this evaluation has true'],
    ] as const) {
      const error = await going(place, extra);
      expect(error).toBeInstanceOf(DataError);
      expect(error.message).toContain(`was written with ${message}`);
    }
    // Written before there was the setting, or with it off: the same.
    const resumed = await open(server, {
      ...{ directory: bare.directory, resume: true, extra: ', log_probs: false' },
    });
    expect(resumed.rows).toEqual(bare.rows);
  });

  it('are refused by name where the server does not take the field, or it is no truth value', async () => {
    const server = await startJudge(({ body }) =>
      body.logprobs === true ? { status: 400, body: '{"error": {"message": "unknown field"}}' } : {},
    );
    const error = await failureOf(open(server));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toContain('log_probs: false does not ask for them');
    const parse = (value: string): unknown =>
      parseModelSources(`models: { a: { base_url: "http://x/v1", model: m, ${value} } }`, 'm.yaml');
    expect(() => parse('log_probs: 5')).toThrow('m.yaml: models.a: log_probs is 5');
    expect(() => parse('log_prob: true')).toThrow('unknown key "log_prob"; did you mean "log_probs"?');
    expect(() => parseModelSources('models: { a: { model: m, log_probs: true } }', 'm.yaml')).toThrow(
      'unknown key "log_probs"',
    );
  });

  it('make the nats per token of its replies in an evaluation', async () => {
    const { replies, rows } = await open(await startJudge(telling));
    const { models } = await evaluateModels([replies], evaluation);
    const all = rows.flatMap(({ generations }) => generations.map(drawnFor));
    const sum = all.reduce((total, { log_prob }) => total + log_prob, 0);
    expect(models.served.reply_nats_per_token?.value).toBeCloseTo(-sum / 12, 12);
  });
});
