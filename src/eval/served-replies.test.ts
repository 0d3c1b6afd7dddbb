import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { parseLines, temporaryDirectory } from '../../test/cli';
import { cacheFiles, failureOf, startJudge } from '../../test/judge-server';
import type { Behaviour, ChatRequest, JudgeServer } from '../../test/judge-server';
import { JudgeError } from '../rewards/judge-error';
import { chatEndpointSchema } from '../rewards/chat-request';
import { ConfigError, DataError } from '../runtime/errors';
import { parseStrict } from '../runtime/strict';
import { servedAnswerer } from './answerers';
import type { AnswerOptions, Shot } from './answerers';
import type { TweetReplies } from './model-replies';
import { openModelReplies, parseModelSources } from './model-sources';
import type { ModelSource, OpenRepliesOptions } from './model-sources';

const tweets = ['I love tea', 'Rain again', 'My cab is late'].map((tweet, t) => ({
  tweet_id: `t${t}`,
  tweet,
}));
const options = { generations: 3, temperature: 0.8, topP: 0.95, maxNewTokens: 40, seed: 4 };
const QUESTION = 'Generate an engaging Twitter reply to this tweet:\n\n';

/** The tweet that a request asks about: the last one of its turns. */
const tweetOf = ({ body }: ChatRequest): string =>
  (body.messages.filter(({ role }) => role === 'user').at(-1)?.content ?? '')
    .replace(QUESTION, '')
    .replace('\n\nReply:', '');
/** Says what it was asked. */
const talking = (request: ChatRequest): Behaviour => ({
  content: `  to ${tweetOf(request)}, ${request.body.temperature === 0 ? 'greedy' : request.body.seed}\n`,
});

interface Opened {
  rows: TweetReplies[];
  directory: string;
  cache: string;
}

/** A source as a YAML file gives it. */
function sourceOf(server: { baseUrl: string }, cache: string, extra = ''): ModelSource {
  const keys = `base_url: "${server.baseUrl}", model: big, api_key_env: none, cache_directory: "${cache}"`;
  return parseModelSources(`models: { served: { ${keys}${extra} } }`, 'models.yaml')[0];
}
async function open(
  server: JudgeServer,
  own: Partial<OpenRepliesOptions> & { cache?: string; extra?: string } = {},
): Promise<Opened> {
  const { cache = temporaryDirectory(), extra = '', directory = temporaryDirectory(), ...rest } = own;
  const given = { ...options, directory, onNotice: () => undefined, ...rest };
  const { tweets: rows } = await openModelReplies(sourceOf(server, cache, extra), tweets, given);
  return { rows, directory, cache };
}

/** Bodies of the requests about a tweet, in the order in which they were sent. */
const bodiesOf = ({ requests }: JudgeServer, tweet: string): ChatRequest['body'][] =>
  requests.filter((request) => tweetOf(request) === tweet).map(({ body }) => body);
const seedsOf = (server: JudgeServer, tweet: string): unknown[] =>
  bodiesOf(server, tweet)
    .filter(({ temperature }) => temperature > 0)
    .map(({ seed }) => seed);

describe('replies of a served model', () => {
  it('are asked for with the settings of the evaluation, each sample by a seed of its own, once greedily', async () => {
    const server = await startJudge(talking);
    const { rows } = await open(server, { extra: ', concurrency: 1' });
    expect(server.requests).toHaveLength(3 * 4);
    for (const [t, { tweet, tweet_id }] of tweets.entries()) {
      const bodies = bodiesOf(server, tweet);
      const messages = [{ role: 'user', content: `${QUESTION}${tweet}\n\nReply:` }];
      const [sampled, greedy] = [true, false].map((hot) =>
        bodies.filter((body) => body.temperature > 0 === hot),
      );
      expect(greedy).toEqual([
        { model: 'big', messages, temperature: 0, max_tokens: 40, seed: expect.any(Number) as number },
      ]);
      expect(sampled).toHaveLength(3);
      for (const { seed, ...body } of sampled) {
        expect(body).toEqual({ model: 'big', messages, temperature: 0.8, top_p: 0.95, max_tokens: 40 });
        expect(Number.isSafeInteger(seed)).toBe(true);
      }
      const seeds = seedsOf(server, tweet);
      expect(new Set(seeds).size).toBe(3);
      expect(rows[t]).toEqual({
        ...{ tweet_id, tweet, greedy: `to ${tweet}, greedy` },
        generations: seeds.map((seed) => `to ${tweet}, ${String(seed)}`),
      });
    }
    for (const { headers } of server.requests) expect(headers).not.toHaveProperty('authorization');
  });

  it('have draws that depend on seed and tweet alone: the same ones in a new run and in other company', async () => {
    const runs = await Promise.all(
      [{}, {}, { seed: 5 }, { generations: 2 }].map(async (own) => {
        const server = await startJudge(talking);
        return { server, ...(await open(server, own)) };
      }),
    );
    const all = runs.map(({ rows }) => rows.map(({ generations }) => generations));
    expect(all[1]).toEqual(all[0]);
    expect(all[2].flat().filter((text) => all[0].flat().includes(text))).toEqual([]);
    expect(all[3]).toEqual(all[0].map((row) => row.slice(0, 2)));
    const seeds = tweets.flatMap(({ tweet }) => seedsOf(runs[0].server, tweet));
    expect(new Set(seeds).size).toBe(9);
  });

  it('keep their order where the first to be asked is the last to answer', async () => {
    const late = await startJudge((request, n) => ({
      ...talking(request),
      delaySeconds: (9 - (n % 9)) / 50,
    }));
    const [{ rows }, inTurn] = [
      await open(late, { extra: ', concurrency: 9' }),
      await open(await startJudge(talking), { extra: ', concurrency: 1' }),
    ];
    expect(late.mostAtOnce).toBeGreaterThan(3);
    expect(rows).toEqual(inTurn.rows);
  });

  it('follow the seed of the source before that of the evaluation', async () => {
    const server = await startJudge(talking);
    const [own, given] = [await open(server, { extra: ', seed: 9' }), await open(server, { seed: 9 })];
    expect(own.rows).toEqual(given.rows);
    expect(existsSync(path.join(own.directory, 'served-seed_9.jsonl'))).toBe(true);
  });

  it('are asked for after the examples, as turns of user and assistant', async () => {
    const server = await startJudge(talking);
    const examples: Shot[] = ['Boats.', 'Hats.', 'Boots.'].map((reply, i) => ({
      tweet: `shown ${i}`,
      reply,
    }));
    await open(server, { extra: ', shots: 2', examples });
    const asked = (tweet: string) => ({ role: 'user', content: `${QUESTION}${tweet}\n\nReply:` });
    const turns = examples
      .slice(0, 2)
      .flatMap(({ tweet, reply }) => [asked(tweet), { role: 'assistant', content: reply }]);
    for (const { tweet } of tweets) {
      const bodies = bodiesOf(server, tweet);
      expect(bodies).toHaveLength(4);
      for (const { messages } of bodies) expect(messages).toEqual([...turns, asked(tweet)]);
    }
    const few = open(server, { extra: ', shots: 2', examples: examples.slice(0, 1) });
    await expect(few).rejects.toThrow('served: shots is 2, but there are 1 examples');
  });

  it('are kept: the same evaluation elsewhere asks nothing, one with a reply more asks for that alone', async () => {
    const server = await startJudge(talking);
    const { rows, cache } = await open(server);
    expect(cacheFiles(cache)).toHaveLength(12);
    expect((await open(server, { cache })).rows).toEqual(rows);
    expect(server.requests).toHaveLength(12);
    await open(server, { cache, generations: 4 });
    expect(server.requests).toHaveLength(12 + 3);
    for (const own of [{ temperature: 0.5 }, { topP: 1 }, { maxNewTokens: 41 }]) {
      const before = server.requests.length;
      await open(server, { cache, ...own });
      // Greedy replies depend on neither temperature nor top-p.
      expect(server.requests.length - before, JSON.stringify(own)).toBe('maxNewTokens' in own ? 12 : 9);
    }
  });
});

describe('what a served model says', () => {
  const config = (server: JudgeServer, cache: string, extra = {}) =>
    parseStrict(
      chatEndpointSchema,
      {
        base_url: server.baseUrl,
        model: 'm',
        api_key_env: 'none',
        cache_directory: cache,
        max_retries: 2,
        ...extra,
      },
      'm',
    );
  const answering: AnswerOptions = { ...options, generations: 1 };
  const quiet = { sleep: () => Promise.resolve(), onNotice: () => undefined };
  const ask = async (script: Parameters<typeof startJudge>[0]) => {
    const [server, cache] = [await startJudge(script), temporaryDirectory()];
    const { answer } = servedAnswerer(config(server, cache), answering, quiet);
    return { server, cache, rows: () => answer(tweets.slice(0, 1)) };
  };

  it.each<[string, Behaviour, string]>([
    ['as it is, without white space around', { content: '\n Tea! \n\n' }, 'Tea!'],
    ['on several lines', { content: 'Tea!\n\nAnd milk.' }, 'Tea!\n\nAnd milk.'],
    ['cut off at max_tokens', { content: 'Tea is a', finishReason: 'length' }, 'Tea is a'],
    ['empty', { content: '' }, ''],
    ['after its thoughts', { content: '<think>\nTea? {"a": 1}\n</think>\n\nMilk!' }, 'Milk!'],
    ['after thoughts and cut off', { content: ' <think></think> Mil', finishReason: 'length' }, 'Mil'],
    ['with thoughts in the middle', { content: 'Tea <think>no</think>' }, 'Tea <think>no</think>'],
    ['that looks like JSON', { content: '{"a": 1, "a": 2}' }, '{"a": 1, "a": 2}'],
  ])('is its reply %s', async (_, behaviour, text) => {
    const { server, cache, rows } = await ask(() => behaviour);
    const expected = [{ ...tweets[0], generations: [text], greedy: text }];
    expect(await rows()).toEqual(expected);
    expect(server.requests).toHaveLength(2);
    // From the cache, too.
    const again = servedAnswerer(config(server, cache), answering, quiet);
    expect(await again.answer(tweets.slice(0, 1))).toEqual(expected);
    expect(server.requests).toHaveLength(2);
  });

  it('is refused where it repeats the key, and is kept nowhere', async () => {
    vi.stubEnv('SERVED_KEY', 'sk-0123456789abcdef');
    const server = await startJudge(({ headers }) => ({ content: `You sent ${headers.authorization}` }));
    const [cache, directory] = [temporaryDirectory(), temporaryDirectory()];
    const source = { ...sourceOf(server, cache), api_key_env: 'SERVED_KEY' };
    const given = { ...options, directory, onNotice: () => undefined };
    const error = await failureOf(openModelReplies(source, tweets, given));
    vi.unstubAllEnvs();
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toContain('an answer that repeats the key');
    expect(`${error.message} ${String(error.stack)}`).not.toContain('sk-0123');
    expect([cacheFiles(cache), readdirSync(directory)]).toEqual([[], ['served.settings.json']]);
  });

  it('is asked for without seed and top-p, and with further fields, where its server wants that', async () => {
    const server = await startJudge((_, n) => ({ content: `reply ${n}` }));
    const plain = sourceOf(server, temporaryDirectory());
    const extra_body = { chat_template_kwargs: { enable_thinking: false } };
    const source = { ...plain, send_seed: false, send_top_p: false, extra_body } as typeof plain;
    const { tweets: rows } = await openModelReplies(source, tweets.slice(0, 1), {
      ...{ ...options, directory: temporaryDirectory() },
    });
    expect(new Set(rows[0].generations).size).toBe(rows[0].generations.length);
    for (const { body } of server.requests) {
      expect(body).not.toHaveProperty('seed');
      expect(body).not.toHaveProperty('top_p');
      expect(body).toMatchObject(extra_body);
    }
  });

  it('names a refusal, which is no text', async () => {
    const body = { choices: [{ message: { content: null, refusal: 'I may not' }, finish_reason: 'stop' }] };
    const { rows } = await ask(() => ({ body: JSON.stringify(body) }));
    expect((await failureOf(rows())).message).toContain(
      'a message without a text (finish_reason stop, refusal',
    );
  });

  it('is no reply where it was cut off in its thoughts: it is asked again, then refused', async () => {
    const thinking = { content: '<think>\nWell, tea or', finishReason: 'length' };
    const { server, cache, rows } = await ask(() => thinking);
    const error = await failureOf(rows());
    expect(error).toBeInstanceOf(JudgeError);
    expect(error.message).toContain('after 3 requests');
    expect(error.message).toContain('cut off within its thoughts: allow more new tokens');
    expect(server.requests).toHaveLength(3);
    expect(cacheFiles(cache)).toEqual([]);
    const once = await ask((_request, n) => (n === 0 ? thinking : { content: 'Tea.' }));
    expect((await once.rows())[0].generations).toEqual(['Tea.']);
    const [first, second] = once.server.requests.map(({ body }) => body);
    expect(second.messages.slice(0, -1)).toEqual(first.messages);
    expect(second.messages.at(-1)?.content).toContain('the text of the reply alone');
    expect(second.seed).toBe(first.seed);
  });

  it('is not asked for at a temperature that no server takes', async () => {
    const server = await startJudge(talking);
    const hot = (): unknown => servedAnswerer(config(server, 'x'), { ...answering, temperature: 2.1 });
    expect(hot).toThrow(ConfigError);
    expect(hot).toThrow('temperature is 2.1; a server takes 0 to 2. Lower it.');
    expect(() => servedAnswerer(config(server, 'x'), { ...answering, temperature: 2 })).not.toThrow();
  });
});

describe('a server that fails', () => {
  it('leaves what was written, and the next run goes on to what an uninterrupted one writes', async () => {
    let broken = true;
    const script = (request: ChatRequest): Behaviour =>
      broken && tweetOf(request) === tweets[2].tweet ? { status: 503, body: '{}' } : talking(request);
    const server = await startJudge(script);
    const source = sourceOf(server, temporaryDirectory(), ', max_retries: 0, concurrency: 1');
    const directory = temporaryDirectory();
    const given = { ...options, directory, onNotice: () => undefined };
    const file = path.join(directory, 'served.jsonl');
    await openModelReplies(source, tweets.slice(0, 1), given);
    const before = parseLines<TweetReplies>(readFileSync(file, 'utf8'));
    const error = await failureOf(openModelReplies(source, tweets, { ...given, resume: true }));
    expect(error).toBeInstanceOf(JudgeError);
    expect(error.message).toMatch(/no answer after one request, at last: status 503.*run again to go on/);
    // The second tweet was answered: it is on file, too, and not asked for again.
    const kept = parseLines<TweetReplies>(readFileSync(file, 'utf8'));
    expect(kept.map(({ tweet_id: id }) => id)).toEqual(['t0', 't1']);
    expect(kept[0]).toEqual(before[0]);
    expect(server.requests).toHaveLength(4 + 4 + 1);
    broken = false;
    const { tweets: rows } = await openModelReplies(source, tweets, { ...given, resume: true });
    expect(server.requests).toHaveLength(8 + 1 + 4);
    expect(parseLines<TweetReplies>(readFileSync(file, 'utf8'))).toEqual(rows);
    expect((await open(await startJudge(script))).rows).toEqual(rows);
  });

  it('is named where nobody listens, or it wants a key; nothing is written but the settings', async () => {
    const directory = temporaryDirectory();
    const source = sourceOf({ baseUrl: 'http://127.0.0.1:9/v1' }, temporaryDirectory(), ', max_retries: 0');
    const given = { ...options, directory, onNotice: () => undefined };
    const error = await failureOf(openModelReplies(source, tweets, given));
    expect(error).toBeInstanceOf(JudgeError);
    expect(error.message).toMatch(
      /^http:\/\/127\.0\.0\.1:9\/v1: no answer after one request.*the connection failed/,
    );
    expect(existsSync(path.join(directory, 'served.jsonl'))).toBe(false);
    const closed = await startJudge(() => ({ status: 401, body: '{}' }));
    await expect(open(closed)).rejects.toThrow(ConfigError);
    await expect(open(closed)).rejects.toThrow(/name its environment variable by api_key_env/);
  });

  it.each([
    [{ temperature: 0.5 }, 'temperature 0.8; this evaluation has 0.5'],
    [{ topP: 1 }, 'top_p 0.95; this evaluation has 1'],
    [{ maxNewTokens: 41 }, 'max_new_tokens 40; this evaluation has 41'],
    [{ seed: 5 }, 'seed 4; this evaluation has 5'],
  ])('is not asked to go on with %j in the middle of a file', async (own, message) => {
    const server = await startJudge(talking);
    const { directory, cache } = await open(server);
    const going = open(server, { directory, cache, resume: true, ...own });
    await expect(going).rejects.toThrow(DataError);
    await expect(going).rejects.toThrow(`served.jsonl: was written with ${message}`);
    expect(server.requests).toHaveLength(12);
  });
});

describe('a served model of a YAML file', () => {
  const KEY = 'sk-test-0123456789abcdefghij';
  const parse = (text: string): ModelSource[] => parseModelSources(`models: { a: ${text} }`, 'm.yaml');
  const address = 'base_url: "http://localhost:8000/v1"';

  it('has the defaults of an endpoint, a cache of its own, and shots and seed as other models', () => {
    expect(parse(`{ ${address}, model: big }`)).toEqual([
      {
        ...{ name: 'a', base_url: 'http://localhost:8000/v1', model: 'big', api_key_env: 'OPENAI_API_KEY' },
        ...{
          timeout_seconds: 60,
          max_retries: 5,
          concurrency: 4,
          cache_directory: '.cache/replies',
          shots: 0,
          ...{ send_seed: true, send_top_p: true, extra_body: {}, log_probs: false },
        },
      },
    ]);
    const runs = `[{ ${address}, model: big, seed: 1 }, { ${address}, model: big, seed: 2, shots: 3 }]`;
    expect(parse(runs)).toMatchObject([{ seed: 1 }, { seed: 2, shots: 3 }]);
  });

  it.each<[string, string | RegExp]>([
    [`{ ${address} }`, 'm.yaml: models.a: model is missing'],
    [`{ ${address}, model: m, shot: 2 }`, 'unknown key "shot"; did you mean "shots"?'],
    // Those are the evaluation's, the same for every model.
    [`{ ${address}, model: m, temperature: 1 }`, 'unknown key "temperature"'],
    [`{ ${address}, model: m, max_tokens: 9 }`, 'unknown key "max_tokens"'],
    [`{ ${address}, model: m, top_p: 1 }`, 'unknown key "top_p"'],
    [`{ ${address}, model: m, adapter: runs/a }`, 'unknown key "adapter"'],
    [`{ ${address}, model: m, replies: f }`, 'unknown key "replies"'],
    [`{ base_url: "ftp://x", model: m }`, 'base_url: expected an http or https address'],
    [`{ ${address}, model: m, api_key: ${KEY} }`, '"api_key" may not stand in a configuration'],
    [`[{ ${address}, model: m, seed: 1, token: ${KEY} }]`, 'm.yaml: models.a[0]: "token" may not stand'],
    [`{ ${address}, model: m, api_key_env: ${KEY} }`, /api_key_env.*Never put the key itself here/],
    [`{ base_url: "http://u:${KEY}@localhost/v1", model: m }`, 'without user name, password'],
    [`{ base_url: "http://localhost/v1?key=${KEY}", model: m }`, 'without user name, password'],
    [`{ model: m, api_key: ${KEY} }`, '"api_key" may not stand in a configuration'],
    [`{ replies: f, OPENAI_API_KEY: ${KEY} }`, '"OPENAI_API_KEY" may not stand in a configuration'],
    [
      `{ ${address}, model: m, headers: { Authorization: ${KEY} } }`,
      '"Authorization" may not stand in a configuration',
    ],
    [`{ replies: f } }\napi_key: { x: ${KEY}`, 'unknown key "api_key"'],
  ])('is refused as %s without showing a key', (text, message) => {
    const refuse = (): unknown => parse(text);
    expect(refuse).toThrow(ConfigError);
    expect(refuse).toThrow(message);
    expect(refuse).not.toThrow(/sk-test|\n/);
  });

  it('takes its key from the environment alone, and says which variable is not set', async () => {
    const server = await startJudge(talking);
    const keyed = (variable: string): Promise<unknown> => {
      const source = sourceOf(server, temporaryDirectory());
      const given = { ...options, generations: 1, directory: temporaryDirectory() };
      return openModelReplies({ ...source, api_key_env: variable } as ModelSource, tweets, given);
    };
    await expect(keyed('GRPOLAB_TEST_KEY')).rejects.toThrow(
      'the environment variable GRPOLAB_TEST_KEY is not set',
    );
    expect(server.requests).toHaveLength(0);
    process.env.GRPOLAB_TEST_KEY = KEY;
    try {
      await keyed('GRPOLAB_TEST_KEY');
    } finally {
      delete process.env.GRPOLAB_TEST_KEY;
    }
    for (const { headers } of server.requests) expect(headers.authorization).toBe(`Bearer ${KEY}`);
    expect(server.requests).toHaveLength(6);
  });
});
