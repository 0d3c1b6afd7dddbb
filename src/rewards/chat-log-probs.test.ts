import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { cacheFiles, failureOf, logProbsOf, openEndpoint, startJudge } from '../../test/judge-server';
import type { Behaviour, JudgeServer } from '../../test/judge-server';
import { z } from 'zod';
import { ConfigError } from '../runtime/errors';
import type { Question } from './chat-endpoint';
import { drawnTextSchema, likelihoodOf } from './chat-log-probs';
import type { DrawnText } from './chat-log-probs';

const plain = (text = 'tea?', seed?: number): Question<string> => ({
  ...{ prompt: 'text-1', messages: [{ role: 'user', content: text }], seed },
  ...{ answer: z.string(), reminder: 'Only the text.', form: 'text' },
});
const drawn = (text?: string, seed?: number): Question<DrawnText> => ({
  ...{ ...plain(text, seed), answer: drawnTextSchema, form: 'drawn' },
});
const TEA: Behaviour = {
  content: 'Tea!',
  logProbs: logProbsOf(['Tea', -1.25], ['!', -0.5], ['<|im_end|>', 0]),
};
const KNOWN: DrawnText = { text: 'Tea!', drawn: { log_prob: -1.75, tokens: 3 } };

describe('the likelihood of what was generated', () => {
  const bodyOf = (content: string, logprobs: unknown, more = {}): unknown => ({
    choices: [{ message: { role: 'assistant', content, ...more }, logprobs }],
  });

  it('is the sum of the log-probabilities of its tokens, and their number', () => {
    const entries = fc.array(fc.float({ min: -50, max: 0, noNaN: true }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(entries, (values) => {
        const logprobs = logProbsOf(...values.map((value): [string, number] => ['a', value]));
        const { log_prob, tokens } = likelihoodOf(bodyOf('x', logprobs), 'x') ?? { log_prob: 1, tokens: 0 };
        expect(log_prob).toBeCloseTo(
          values.reduce((a, b) => a + b, 0),
          9,
        );
        expect(tokens).toBe(values.length);
      }),
      { seed: 4, numRuns: 50 },
    );
  });

  const one = logProbsOf(['tea', -1], ['', 0]);
  it.each<[string, unknown, string]>([
    ['as it is', bodyOf('tea', one), 'tea'],
    ['without the white space around it', bodyOf('\n tea \n', one), 'tea'],
    ['of nothing but the end', bodyOf('', logProbsOf(['', -1], ['<|im_end|>', 0])), ''],
    ['beside thoughts that are empty', bodyOf('tea', one, { reasoning_content: '', reasoning: null }), 'tea'],
    [
      'that speaks of </think>',
      bodyOf('a </think> b', logProbsOf(['a </think> b', -1], ['', 0])),
      'a </think> b',
    ],
  ])('is known of a text %s', (_, body, text) => {
    expect(likelihoodOf(body, text)).toEqual({ log_prob: -1, tokens: 2 });
  });

  const thinking = logProbsOf(['<think>', -1], ['\n\n', 0], ['</think>', 0], ['tea', -2]);
  it.each<[string, unknown, string]>([
    ['the server gives none', bodyOf('tea', undefined), 'tea'],
    ['the server gives null', bodyOf('tea', null), 'tea'],
    ['the list is null', bodyOf('tea', { content: null }), 'tea'],
    ['the list is empty', bodyOf('tea', { content: [] }), 'tea'],
    ['the form is another one', bodyOf('tea', { tokens: ['tea'], token_logprobs: [-1] }), 'tea'],
    ['one is null', bodyOf('tea', logProbsOf(['tea', -1], ['!', null])), 'tea'],
    ['one is a text', bodyOf('tea', logProbsOf(['tea', '-1'])), 'tea'],
    ['one is above 0', bodyOf('tea', logProbsOf(['tea', -1], ['!', 0.5])), 'tea'],
    ['one stands for a token too unlikely to be told', bodyOf('tea', logProbsOf(['tea', -9999])), 'tea'],
    ['the text was cut out of the message', bodyOf('<think>?</think>\n\ntea', thinking), 'tea'],
    ['the server cut it out of what was generated', bodyOf('tea', thinking), 'tea'],
    ['the thoughts stand apart', bodyOf('tea', one, { reasoning_content: 'Well.' }), 'tea'],
    ['the thoughts stand apart by another name', bodyOf('tea', one, { reasoning: 'Well.' }), 'tea'],
    ['there is no message', { choices: [] }, 'tea'],
    ['the body is a text', 'tea', 'tea'],
  ])('is not known where %s', (_, body, text) => {
    expect(likelihoodOf(body, text)).toBeNull();
  });
});

describe('a text asked for with its log-probabilities', () => {
  it('has them, and no other request carries the field', async () => {
    const judge = await startJudge(() => TEA);
    const { endpoint, notices } = openEndpoint(judge.baseUrl);
    expect(await endpoint.ask(drawn())).toEqual(KNOWN);
    expect(await endpoint.ask(plain())).toBe('Tea!');
    const [asked, unasked] = judge.requests.map(({ body }) => body);
    expect(asked).toEqual({ ...unasked, logprobs: true });
    expect(unasked).not.toHaveProperty('logprobs');
    expect(notices).toEqual([]);
  });

  it('is kept apart from one asked for without, and recalled with them', async () => {
    const judge = await startJudge(() => TEA);
    const { endpoint, cache } = openEndpoint(judge.baseUrl);
    await endpoint.askAll([drawn(), drawn('milk?'), drawn('tea?', 3)]);
    await endpoint.ask(plain());
    expect([judge.requests.length, cacheFiles(cache).length]).toEqual([4, 4]);
    const again = openEndpoint(judge.baseUrl, { config: { cache_directory: cache } });
    expect(await again.endpoint.askAll([drawn(), drawn('milk?'), drawn('tea?', 3)])).toEqual([
      ...[KNOWN, KNOWN, KNOWN],
    ]);
    expect(await again.endpoint.ask(plain())).toBe('Tea!');
    expect([judge.requests.length, again.notices]).toEqual([4, []]);
  });

  it('comes without them, with one notice, where the server gives none; also when it is recalled', async () => {
    const judge = await startJudge(() => ({ content: 'Tea!' }));
    const ask = async (cache: string) => {
      const { endpoint, notices } = openEndpoint(judge.baseUrl, { config: { cache_directory: cache } });
      const answers = await endpoint.askAll(['a', 'b', 'c'].map((text) => drawn(text)));
      expect(answers).toEqual(new Array(3).fill({ text: 'Tea!', drawn: null }));
      return notices;
    };
    const cache = temporaryDirectory();
    const notices = await ask(cache);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain(`${judge.baseUrl}: an answer without log-probabilities of its tokens`);
    expect(notices[0]).toContain(`kept so in ${cache}`);
    expect(await ask(cache)).toEqual(notices);
    expect(judge.requests).toHaveLength(3);
  });

  it('is asked for again where its form is wrong, and names the thoughts that it was cut off in', async () => {
    const judge = await startJudge((_, n) =>
      n === 0 ? { content: '<think>Well', finishReason: 'length' } : TEA,
    );
    const { endpoint, notices } = openEndpoint(judge.baseUrl);
    expect(await endpoint.ask(drawn())).toEqual(KNOWN);
    expect(judge.requests.map(({ body }) => body.logprobs)).toEqual([true, true]);
    expect(notices).toHaveLength(1);
    const never = await startJudge(() => ({ content: '<think>Well', finishReason: 'length' }));
    const failing = openEndpoint(never.baseUrl, { config: { max_retries: 0 } }).endpoint.ask(drawn());
    expect((await failureOf(failing)).message).toContain('cut off within its thoughts');
  });

  it('is refused where it repeats the key', async () => {
    const judge = await startJudge(({ headers }) => ({ ...TEA, content: `${headers.authorization}` }));
    const { endpoint, cache } = openEndpoint(judge.baseUrl);
    expect((await failureOf(endpoint.ask(drawn()))).message).toContain('an answer that repeats the key');
    expect(cacheFiles(cache)).toEqual([]);
  });
});

describe('a server that refuses to give log-probabilities', () => {
  const refusing = (status: number): Promise<JudgeServer> =>
    startJudge(({ body }) =>
      body.logprobs === true ? { status, body: '{"error": {"message": "no logprobs here"}}' } : TEA,
    );

  it.each([400, 403, 422])(
    'with status %i is named, with the setting that leaves them out',
    async (status) => {
      const judge = await refusing(status);
      const { endpoint } = openEndpoint(judge.baseUrl);
      const error = await failureOf(endpoint.ask(drawn()));
      expect(error).toBeInstanceOf(ConfigError);
      expect(error.message).toMatch(
        /status 4\d\d \(no logprobs here\)\. Check .*log_probs: false does not ask/,
      );
      expect(judge.requests).toHaveLength(1);
      expect(await endpoint.ask(plain())).toBe('Tea!');
    },
  );

  it('is told of no setting that has not been made', async () => {
    const judge = await startJudge(() => ({ status: 400, body: '{}' }));
    const error = await failureOf(openEndpoint(judge.baseUrl).endpoint.ask(plain()));
    expect(error.message).not.toContain('log_probs');
  });
});
