import { describe, expect, it } from 'vitest';
import { cacheFiles, failureOf, GOOD, openEndpoint, question, startJudge } from '../../test/judge-server';
import type { Behaviour } from '../../test/judge-server';
import { ConfigError, GrpolabError } from '../runtime/errors';
import { JudgeError } from './judge-error';
import { backOffSeconds } from './chat-endpoint';

describe('what is asked again', () => {
  const transient: [string, Behaviour][] = [
    ['429 without Retry-After', { status: 429, body: '{"error": {"message": "slow down"}}' }],
    ['408', { status: 408, body: '{}' }],
    ['409', { status: 409, body: '{}' }],
    ['500', { status: 500, body: '{"error": {"message": "oh"}}' }],
    [
      '503 with a web page',
      { status: 503, headers: { 'content-type': 'text/html' }, body: '<html>busy</html>' },
    ],
    ['a reset connection', { reset: 'at once' }],
    ['a connection that breaks in the body', { reset: 'in the body', ...GOOD }],
    ['a body cut short', { body: '{"choices": [{"mess' }],
    ['an empty body', { body: '' }],
    [
      'a web page with status 200',
      { headers: { 'content-type': 'text/html' }, body: '<!doctype html><p>Hi' },
    ],
    ['a completion without choices', { body: '{"choices": []}' }],
    ['a completion without text', { body: '{"choices": [{"message": {"content": null}}]}' }],
    ['an answer cut off at max_tokens', { ...GOOD, finishReason: 'length' }],
    ['prose', { content: 'I would give it a seven.' }],
    ['broken JSON', { content: '{"grade": 7, "taste": ' }],
    ['a missing criterion', { content: '{"grade": 7}' }],
    ['a grade of 11', { content: '{"grade": 11, "taste": 3}' }],
    ['a grade of 0', { content: '{"grade": 0, "taste": 3}' }],
    ['a grade of 7.5', { content: '{"grade": 7.5, "taste": 3}' }],
    ['a grade of "10/10"', { content: '{"grade": "10/10", "taste": 3}' }],
    ['a grade in a string', { content: '{"grade": "7", "taste": 3}' }],
    ['two objects', { content: '{"grade": 10, "taste": 10}\n{"grade": 7, "taste": 3}' }],
  ];

  it.each(transient)('%s', async (_name, behaviour) => {
    const judge = await startJudge((_request, n) => (n === 0 ? behaviour : GOOD));
    const { endpoint, slept, notices } = openEndpoint(judge.baseUrl);
    expect(await endpoint.ask(question())).toEqual({ grade: 7, taste: 3 });
    expect(judge.requests).toHaveLength(2);
    expect(slept).toHaveLength(1);
    expect(slept[0]).toBeGreaterThanOrEqual(0.25);
    expect(slept[0]).toBeLessThan(0.5);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain('asking again');
  });

  it('a server that takes longer than the time-out', async () => {
    const judge = await startJudge((_request, n) => (n === 0 ? { ...GOOD, delaySeconds: 3 } : GOOD));
    const { endpoint, notices } = openEndpoint(judge.baseUrl, { config: { timeout_seconds: 0.15 } });
    expect(await endpoint.ask(question())).toEqual({ grade: 7, taste: 3 });
    expect(notices).toEqual([`${judge.baseUrl}: no answer within 0.15 s; asking again (said once)`]);
  });

  it('with the reminder after a malformed answer, and without it after a failed request', async () => {
    const judge = await startJudge((_request, n) => [{ status: 500 }, { content: 'seven' }, GOOD][n]);
    await openEndpoint(judge.baseUrl).endpoint.ask(question());
    const sent = judge.requests.map(({ body }) => body.messages.map(({ content }) => content));
    expect(sent).toEqual([['tea'], ['tea'], ['tea', 'Only the JSON object.']]);
  });

  it('after the pause of Retry-After, in seconds or as a date', async () => {
    const now = Date.parse('2026-01-02T03:04:05Z');
    const after = ['7', 'Fri, 02 Jan 2026 03:04:25 GMT'];
    const judge = await startJudge((_request, n) =>
      n < 2 ? { status: 429, headers: { 'retry-after': after[n] }, body: '{}' } : GOOD,
    );
    const { endpoint, slept } = openEndpoint(judge.baseUrl, { options: { now: () => now } });
    await endpoint.ask(question());
    expect(slept).toEqual([7, 20]);
  });

  it('with waits that double, and are the same in the next run', async () => {
    const judge = await startJudge(() => ({ status: 500 }));
    const runs = await Promise.all(
      [0, 1].map(async () => {
        const { endpoint, slept } = openEndpoint(judge.baseUrl, { config: { max_retries: 3 } });
        await failureOf(endpoint.ask(question()));
        return slept;
      }),
    );
    expect(runs[0]).toHaveLength(3);
    expect(runs[1]).toEqual(runs[0]);
    runs[0].forEach((wait, attempt) => {
      expect(wait).toBeGreaterThanOrEqual(0.25 * 2 ** attempt);
      expect(wait).toBeLessThan(0.5 * 2 ** attempt);
    });
  });

  it('ends with an error that says how often and why, and stores nothing', async () => {
    const judge = await startJudge(() => ({ content: '{"grade": 11, "taste": 3}' }));
    const { endpoint, cache } = openEndpoint(judge.baseUrl, { config: { max_retries: 2 } });
    const error = await failureOf(endpoint.ask(question()));
    expect(error).toBeInstanceOf(GrpolabError);
    expect(error).toBeInstanceOf(JudgeError);
    expect(error).not.toBeInstanceOf(ConfigError);
    expect(error.message).toContain(`${judge.baseUrl}: no answer after 3 requests`);
    expect(error.message).toMatch(/an answer of the wrong form \(grade: Too big/);
    expect(error.message).toContain(`kept in ${cache}: run again`);
    expect(judge.requests).toHaveLength(3);
    expect(cacheFiles(cache)).toEqual([]);
  });

  it('ends at once when the server asks for a pause of more than ten minutes', async () => {
    const judge = await startJudge(() => ({ status: 429, headers: { 'retry-after': '3600' }, body: '{}' }));
    const { endpoint, slept } = openEndpoint(judge.baseUrl);
    const error = await failureOf(endpoint.ask(question()));
    expect(error.message).toMatch(/after one request.*status 429.*a pause of 3600 s/);
    expect(slept).toEqual([]);
  });

  it('names the reason when nobody listens at the address', async () => {
    const { endpoint } = openEndpoint('http://127.0.0.1:9/v1', { config: { max_retries: 1 } });
    const error = await failureOf(endpoint.ask(question()));
    expect(error.message).toMatch(/after 2 requests, at last: the connection failed \(\w/);
  });
});

describe('what is not asked again', () => {
  it.each([
    [400, {}, /status 400 \(no such thing\)\. Check base_url, model, temperature/],
    [401, {}, /status 401 .* Check the key in the environment variable OPENAI_API_KEY/],
    [401, { api_key_env: 'none' }, /wants a key: name its environment variable by api_key_env/],
    [403, {}, /status 403 .* Check the key/],
    [404, {}, /status 404 .* Check base_url, which often ends in \/v1, and the model's name "m"/],
    [422, {}, /status 422 .* seed \(send_seed: false, send_top_p: false leave them out\)/],
  ])('status %i: one error with the address and the remedy', async (status, config, message) => {
    const judge = await startJudge(() => ({ status, body: '{"error": {"message": "no such thing"}}' }));
    const error = await failureOf(openEndpoint(judge.baseUrl, { config }).endpoint.ask(question()));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
    expect(error.message.startsWith(`${judge.baseUrl}: `)).toBe(true);
    expect(judge.requests).toHaveLength(1);
  });
});

describe('a redirect', () => {
  it.each([301, 302, 307, 308])(
    'with status %i is not followed: the texts go nowhere else',
    async (status) => {
      const other = await startJudge(() => GOOD);
      const judge = await startJudge(() => ({
        status,
        headers: { location: `${other.baseUrl}/chat/completions` },
        body: '',
      }));
      const error = await failureOf(openEndpoint(judge.baseUrl).endpoint.ask(question()));
      expect(error).toBeInstanceOf(ConfigError);
      expect(error.message).toMatch(/leads on to another address, which is not followed/);
      expect([judge.requests.length, other.requests.length]).toEqual([1, 0]);
    },
  );
});

describe('backOffSeconds', () => {
  it('never waits longer than half a minute, and differs by question', () => {
    expect(backOffSeconds(40, 1, 'a')).toBeLessThanOrEqual(30);
    expect(backOffSeconds(2, 1, 'a')).not.toBe(backOffSeconds(2, 1, 'b'));
  });
});
