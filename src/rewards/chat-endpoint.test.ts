import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { temporaryDirectory } from '../../test/cli';
import {
  cacheFiles,
  failureOf,
  GOOD,
  KEY,
  openEndpoint,
  question,
  startJudge,
} from '../../test/judge-server';
import type { Behaviour } from '../../test/judge-server';
import { ConfigError, DataError } from '../runtime/errors';
import type { Question } from './chat-endpoint';

describe('a request', () => {
  it('carries model, sampling settings, messages and the key of the environment', async () => {
    const judge = await startJudge(() => GOOD);
    const { endpoint } = openEndpoint(`${judge.baseUrl}/`, {
      config: { temperature: 0.5, max_tokens: 9, seed: 3 },
    });
    expect(await endpoint.ask(question())).toEqual({ grade: 7, taste: 3 });
    const [{ url, headers, body }] = judge.requests;
    expect(url).toBe('/v1/chat/completions');
    expect(headers.authorization).toBe(`Bearer ${KEY}`);
    const messages = [{ role: 'user', content: 'tea' }];
    expect(body).toEqual({ model: 'm', temperature: 0.5, max_tokens: 9, seed: 3, messages });
  });

  it('carries no key with "api_key_env: none", and no seed with "seed: null"', async () => {
    const judge = await startJudge(() => GOOD);
    const config = { api_key_env: 'none', seed: null };
    await openEndpoint(judge.baseUrl, { config }).endpoint.ask(question());
    expect(judge.requests[0].headers).not.toHaveProperty('authorization');
    expect(judge.requests[0].body).not.toHaveProperty('seed');
  });
});

describe('top_p and seed', () => {
  const asked = async (config: object, seed?: number): Promise<Record<string, unknown>> => {
    const judge = await startJudge(() => GOOD);
    await openEndpoint(judge.baseUrl, { config }).endpoint.ask({ ...question(), seed });
    const { top_p, seed: sent } = judge.requests[0].body;
    return { top_p, seed: sent };
  };

  it.each([
    [{}, undefined, { top_p: undefined, seed: 42 }],
    [{ top_p: null, seed: null }, undefined, { top_p: undefined, seed: undefined }],
    [{ top_p: 0.9 }, undefined, { top_p: 0.9, seed: 42 }],
    [{ top_p: 1, seed: 3 }, 8, { top_p: 1, seed: 8 }],
    [{ seed: null }, 0, { top_p: undefined, seed: 0 }],
  ])('are of %j and a question with seed %j sent as %j', async (config, seed, sent) => {
    expect(await asked(config, seed)).toEqual(sent);
  });

  it('keep answers apart: draws of one question by several seeds, and under another top_p', async () => {
    const judge = await startJudge(({ body }) => ({
      content: `{"grade": ${(body.seed ?? 0) % 10}, "taste": 1}`,
    }));
    const { endpoint, cache } = openEndpoint(judge.baseUrl, { config: { seed: 2 } });
    const draws = [1, 2, 3, 1, undefined].map((seed) => ({ ...question(), seed }));
    const answers = await endpoint.askAll(draws);
    expect(answers.map(({ grade }) => grade)).toEqual([1, 2, 3, 1, 2]);
    // A question without a seed is the one with that of the settings.
    expect(judge.requests).toHaveLength(3);
    const again = openEndpoint(judge.baseUrl, { config: { seed: 9, cache_directory: cache } });
    expect(await again.endpoint.askAll(draws.slice(0, 4))).toEqual(answers.slice(0, 4));
    expect(judge.requests).toHaveLength(3);
    const config = { seed: 2, top_p: 1, cache_directory: cache };
    expect(await openEndpoint(judge.baseUrl, { config }).endpoint.askAll(draws)).toEqual(answers);
    expect(judge.requests).toHaveLength(6);
  });
});

describe('an answer that is a text', () => {
  const textQuestion = (text: string): Question<string> => ({
    ...{ prompt: 'text-1', messages: [{ role: 'user', content: text }] },
    ...{ answer: z.string(), reminder: 'Only the text.', form: 'text' },
  });
  const odd = [
    '{"a": 1, "a": 2}',
    'a <think> in the middle',
    'a "quote" and a \\ stroke',
    'U+2028 \u2028, U+0085 \u0085, nul \u0000, half a pair \ud83d',
    '{'.repeat(3000),
    '- a: &a [*a, *a]',
    '',
  ];

  it('is kept as it is, whatever stands in it, and recalled without a request', async () => {
    const texts = fc.array(fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom(...odd)), {
      maxLength: 6,
    });
    const judge = await startJudge(({ body }) => ({
      content: `<think>?</think>${body.messages[0].content}`,
    }));
    await fc.assert(
      fc.asyncProperty(texts, async (given) => {
        const first = openEndpoint(judge.baseUrl);
        const answers = await first.endpoint.askAll(given.map(textQuestion));
        expect(answers).toEqual(given.map((text) => text.trim()));
        const before = judge.requests.length;
        const second = openEndpoint(judge.baseUrl, { config: { cache_directory: first.cache } });
        expect(await second.endpoint.askAll(given.map(textQuestion))).toEqual(answers);
        expect([judge.requests.length - before, second.notices]).toEqual([0, []]);
      }),
      { seed: 3, numRuns: 25 },
    );
  });

  it('is asked for again where it is damaged or was kept as something else', async () => {
    const judge = await startJudge(() => ({ content: 'tea' }));
    const { endpoint, cache, notices } = openEndpoint(judge.baseUrl);
    await endpoint.ask(textQuestion('tea?'));
    const [file] = cacheFiles(cache).map((name) => join(cache, name));
    const text = readFileSync(file, 'utf8');
    for (const damaged of [text.slice(0, -8), text.replace('"tea"', '7'), '']) {
      writeFileSync(file, damaged);
      expect(await endpoint.ask(textQuestion('tea?'))).toBe('tea');
      expect(readFileSync(file, 'utf8')).toBe(text);
    }
    expect([judge.requests.length, notices.length]).toEqual([4, 3]);
  });

  it('is not refused for the form that grades have, nor grades for that of a text', async () => {
    const judge = await startJudge(({ body }, n) =>
      body.messages[0].content === 'text' || n === 0 ? { content: 'tea', finishReason: 'length' } : GOOD,
    );
    const { endpoint } = openEndpoint(judge.baseUrl);
    expect(await endpoint.ask(question('grades'))).toEqual({ grade: 7, taste: 3 });
    expect(await endpoint.ask(textQuestion('text'))).toBe('tea');
    expect(judge.requests).toHaveLength(3);
  });
});

describe('the key', () => {
  it('is in no error, notice or cached file, even when the server repeats it', async () => {
    const echo = JSON.stringify({ error: { message: `${'x'.repeat(140)} wrong key ${KEY} ${KEY}` } });
    const judge = await startJudge((request, n) => {
      if (request.body.messages[0].content === 'bad') return { status: 401, body: echo };
      if (request.body.messages[0].content === 'prose') return { content: `${'no '.repeat(40)}${KEY}` };
      return n === 0
        ? { status: 429, body: echo }
        : { content: `{"grade": 7, "taste": 3, "note": "${KEY}"}` };
    });
    const { endpoint, notices, cache } = openEndpoint(judge.baseUrl, { config: { max_retries: 1 } });
    await endpoint.ask(question());
    const errors = [
      await failureOf(endpoint.ask(question('bad'))),
      await failureOf(endpoint.ask(question('prose'))),
    ];
    const files = cacheFiles(cache);
    expect(files).toHaveLength(1);
    const written = files.map((name) => readFileSync(join(cache, name), 'utf8'));
    const seen = [
      ...errors.map((error) => `${error.stack} ${JSON.stringify(error)}`),
      ...notices,
      ...written,
    ];
    expect(errors.every((error) => error.message.includes('[key]'))).toBe(true);
    expect(notices.length).toBeGreaterThan(0);
    expect(errors.every((error) => error.cause === undefined)).toBe(true);
    expect(seen.join('\n')).not.toContain('sk-test');
  });

  it('is not in the notice of a damaged cache file either, where the notice is cut inside the key', async () => {
    const judge = await startJudge(() => GOOD);
    const first = openEndpoint(judge.baseUrl);
    await first.endpoint.ask(question());
    const [file] = cacheFiles(first.cache).map((name) => join(first.cache, name));
    for (let length = 100; length < 160; length++) {
      writeFileSync(file, `${'x'.repeat(length)}${KEY}`);
      const { endpoint, notices } = openEndpoint(judge.baseUrl, { config: { cache_directory: first.cache } });
      await endpoint.ask(question());
      expect(notices).toHaveLength(1);
      expect(notices[0]).not.toContain('sk-t');
    }
  });

  it('comes from the environment alone, and a missing variable is named', () => {
    const options = { environment: { OTHER: 'x' } };
    const config = { api_key_env: 'JUDGE_KEY' };
    expect(() => openEndpoint('http://127.0.0.1:9/v1', { config, options })).toThrow(ConfigError);
    expect(() => openEndpoint('http://127.0.0.1:9/v1', { config, options })).toThrow(
      /environment variable JUDGE_KEY is not set.*"api_key_env: none"/,
    );
    const broken = { environment: { OPENAI_API_KEY: `${KEY} ${KEY}` } };
    const error = (() => {
      try {
        return openEndpoint('http://127.0.0.1:9/v1', { options: broken });
      } catch (thrown) {
        return thrown;
      }
    })() as Error;
    expect(error.message).toContain('OPENAI_API_KEY holds white space');
    expect(error.message).not.toContain(KEY);
  });
});

describe('the cache', () => {
  it('answers in the next run without a request', async () => {
    const judge = await startJudge(() => GOOD);
    const first = openEndpoint(judge.baseUrl);
    const answer = await first.endpoint.ask(question());
    const second = openEndpoint(judge.baseUrl, { config: { cache_directory: first.cache } });
    expect(await second.endpoint.ask(question())).toEqual(answer);
    expect(judge.requests).toHaveLength(1);
  });

  it('keeps apart what differs in address, model, prompt, messages or sampling', async () => {
    const judge = await startJudge(() => GOOD);
    const { endpoint, cache } = openEndpoint(judge.baseUrl);
    await endpoint.ask(question());
    await endpoint.ask(question('coffee'));
    await endpoint.ask({ ...question(), prompt: 'test-2' });
    const others = [{ model: 'n' }, { temperature: 0.1 }, { max_tokens: 301 }, { seed: 43 }];
    for (const config of others)
      await openEndpoint(judge.baseUrl, { config: { ...config, cache_directory: cache } }).endpoint.ask(
        question(),
      );
    const elsewhere = await startJudge(() => GOOD);
    await openEndpoint(elsewhere.baseUrl, { config: { cache_directory: cache } }).endpoint.ask(question());
    expect([judge.requests.length, elsewhere.requests.length]).toEqual([7, 1]);
    expect(cacheFiles(cache)).toHaveLength(8);
  });

  it.each([
    ['torn', (text: string) => text.slice(0, -12)],
    ['empty', () => ''],
    ['of values out of range', (text: string) => text.replace('7', '77')],
  ])('names a file that is %s, asks again and mends it', async (_name, damage) => {
    const judge = await startJudge(() => GOOD);
    const { endpoint, cache, notices } = openEndpoint(judge.baseUrl);
    await endpoint.ask(question());
    const file = join(cache, cacheFiles(cache)[0]);
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, damage(text));
    expect(await endpoint.ask(question())).toEqual({ grade: 7, taste: 3 });
    expect(notices).toHaveLength(1);
    expect(notices[0]).toMatch(/\.json: damaged \(.*\); asking again/);
    expect(readFileSync(file, 'utf8')).toBe(text);
    expect(judge.requests).toHaveLength(2);
  });

  it('is shared by two users at the same moment without damage', async () => {
    const judge = await startJudge(() => GOOD);
    const questions = Array.from({ length: 20 }, (_, i) => question(`cup ${i}`));
    const first = openEndpoint(judge.baseUrl);
    const second = openEndpoint(judge.baseUrl, { config: { cache_directory: first.cache } });
    await Promise.all([first.endpoint.askAll(questions), second.endpoint.askAll([...questions].reverse())]);
    const before = judge.requests.length;
    await openEndpoint(judge.baseUrl, { config: { cache_directory: first.cache } }).endpoint.askAll(
      questions,
    );
    expect(judge.requests).toHaveLength(before);
    expect(
      readdirSync(first.cache, { recursive: true }).filter((name) => String(name).endsWith('.tmp')),
    ).toEqual([]);
  });

  it('that cannot be made is an error that names it', async () => {
    const judge = await startJudge(() => GOOD);
    const file = join(temporaryDirectory(), 'file');
    writeFileSync(file, '');
    const error = await failureOf(
      openEndpoint(judge.baseUrl, { config: { cache_directory: file } }).endpoint.ask(question()),
    );
    expect(error).toBeInstanceOf(DataError);
    expect(error.message).toContain(file);
    expect(judge.requests).toHaveLength(0);
  });
});

describe('a batch', () => {
  const questions = Array.from({ length: 12 }, (_, i) => question(`cup ${i}`));
  const graded = (text: string): Behaviour => ({
    content: `{"grade": ${(Number(text.split(' ')[1]) % 10) + 1}, "taste": 1}`,
  });

  it('keeps the order, reports progress and has never more requests under way than the limit', async () => {
    const judge = await startJudge(({ body }, n) => ({
      ...graded(body.messages[0].content),
      delaySeconds: n % 3 === 0 ? 0.06 : 0.02,
    }));
    const progress: string[] = [];
    const options = { onProgress: (done: number, total: number) => progress.push(`${done}/${total}`) };
    const { endpoint } = openEndpoint(judge.baseUrl, { config: { concurrency: 3 }, options });
    const answers = await endpoint.askAll(questions);
    expect(answers.map(({ grade }) => grade)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]);
    expect(judge.mostAtOnce).toBe(3);
    expect(progress).toEqual(questions.map((_, i) => `${i + 1}/12`));
  });

  it('obeys the limit when questions come one by one, too', async () => {
    const judge = await startJudge(() => ({ ...GOOD, delaySeconds: 0.03 }));
    const { endpoint } = openEndpoint(judge.baseUrl, { config: { concurrency: 2 } });
    await Promise.all(questions.map((each) => endpoint.ask(each)));
    expect(judge.mostAtOnce).toBe(2);
    expect(judge.requests).toHaveLength(12);
  });

  it('asks what stands in it several times once', async () => {
    const judge = await startJudge(() => ({ ...GOOD, delaySeconds: 0.02 }));
    const { endpoint } = openEndpoint(judge.baseUrl);
    const answers = await endpoint.askAll([
      question(),
      question('coffee'),
      question(),
      question(),
      question(),
    ]);
    expect(answers).toHaveLength(5);
    expect(judge.requests).toHaveLength(2);
  });

  it('keeps what was judged before a failure, begins nothing after it, and goes on in the next run', async () => {
    let broken = true;
    const judge = await startJudge(({ body }) => {
      const text = body.messages[0].content;
      return broken && text === 'cup 4'
        ? { status: 400, body: '{}' }
        : { ...graded(text), delaySeconds: 0.02 };
    });
    const { endpoint, cache } = openEndpoint(judge.baseUrl, { config: { concurrency: 2 } });
    expect(await failureOf(endpoint.askAll(questions))).toBeInstanceOf(ConfigError);
    const kept = cacheFiles(cache).length;
    expect(kept).toBeGreaterThanOrEqual(4);
    expect(kept).toBeLessThan(8);
    expect(judge.requests).toHaveLength(kept + 1);
    broken = false;
    const again = openEndpoint(judge.baseUrl, { config: { cache_directory: cache } });
    expect(await again.endpoint.askAll(questions)).toHaveLength(12);
    expect(judge.requests).toHaveLength(12 + 1);
  });

  it('stops with the reason of the signal, under way or waiting to ask again', async () => {
    for (const behaviour of [{ ...GOOD, delaySeconds: 3 }, { status: 500 }]) {
      const abort = new AbortController();
      const reason = new Error('enough');
      const judge = await startJudge(() => behaviour);
      const options = { signal: abort.signal, sleep: undefined };
      const { endpoint } = openEndpoint(judge.baseUrl, { config: { concurrency: 2 }, options });
      const running = failureOf(endpoint.askAll(questions));
      setTimeout(() => abort.abort(reason), 100);
      expect(await running).toBe(reason);
      expect(judge.requests.length).toBeLessThanOrEqual(2);
    }
  });

  it('of nothing asks nothing', async () => {
    const { endpoint, cache } = openEndpoint('http://127.0.0.1:9/v1');
    expect(await endpoint.askAll([])).toEqual([]);
    expect(readdirSync(cache)).toEqual([]);
  });
});
