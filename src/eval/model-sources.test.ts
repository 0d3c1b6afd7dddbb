import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { jsonLines, parseLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { LocalPolicy } from '../policy/local';
import { CheckpointError, ConfigError, DataError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import type { ModelReplies, TweetReplies } from './model-replies';
import {
  openModelReplies,
  parseModelSource,
  parseModelSources,
  parseReplySource,
  repliesFile,
} from './model-sources';
import type { ModelSource, OpenRepliesOptions } from './model-sources';

describe('a model on the command line', () => {
  it('is a name with a model, and with an adapter where there is one', () => {
    expect(parseModelSource('base=data/model')).toEqual({
      name: 'base',
      model: 'data/model',
      adapter: undefined,
      shots: 0,
    });
    expect(parseModelSource('grpo=Qwen/Qwen3-0.6B+runs/a=b+c')).toEqual({
      name: 'grpo',
      model: 'Qwen/Qwen3-0.6B',
      adapter: 'runs/a=b+c',
      shots: 0,
    });
    expect(parseModelSource(' my model =m').name).toBe('my model');
  });

  it.each(['base', 'base=', '=data/model', ' =data/model', 'base=+runs/grpo', 'base=data/model+'])(
    'is refused as %j with an example',
    (text) => {
      expect(() => parseModelSource(text)).toThrow(ConfigError);
      expect(() => parseModelSource(text)).toThrow(
        `--models ${text}: expected NAME=MODEL or NAME=MODEL+ADAPTER`,
      );
    },
  );

  it('is a name with a file of replies', () => {
    expect(parseReplySource('grpo=a=b+c.jsonl')).toEqual({ name: 'grpo', replies: 'a=b+c.jsonl' });
  });

  it.each(['replies.jsonl', '=replies.jsonl', ' =replies.jsonl', 'grpo='])(
    'is refused as replies %j with an example',
    (text) => {
      expect(() => parseReplySource(text)).toThrow(ConfigError);
      expect(() => parseReplySource(text)).toThrow(`--replies ${text}: expected NAME=FILE`);
    },
  );
});

describe('models of a YAML file', () => {
  const parse = (text: string): ModelSource[] => parseModelSources(text, 'models.yaml');

  it('are models with adapter, shots and seed, files of replies, and lists of runs, in their order', () => {
    const yaml = `
models:
  zero-shot: { model: data/model }
  few-shot: { model: data/model, shots: 3 }
  grpo:
    - { model: data/model, adapter: runs/a, seed: 42 }
    - { replies: runs/b.jsonl, seed: 123 }
  people: { replies: people.jsonl }
  half: { model: data/model, dtype: bfloat16, matmul_precision: bfloat16 }
`;
    expect(parse(yaml)).toEqual([
      { name: 'zero-shot', model: 'data/model', shots: 0 },
      { name: 'few-shot', model: 'data/model', shots: 3 },
      { name: 'grpo', model: 'data/model', adapter: 'runs/a', shots: 0, seed: 42 },
      { name: 'grpo', replies: 'runs/b.jsonl', seed: 123 },
      { name: 'people', replies: 'people.jsonl' },
      { name: 'half', model: 'data/model', dtype: 'bfloat16', matmul_precision: 'bfloat16', shots: 0 },
    ]);
  });

  it.each([
    ['model: {}', 'unknown key "model"; did you mean "models"?'],
    [
      'models: { a: { model: m, adaptor: x } }',
      'models.yaml: models.a: unknown key "adaptor"; did you mean "adapter"?',
    ],
    [
      'models: { a: { model: m, shot: 2 } }',
      'models.yaml: models.a: unknown key "shot"; did you mean "shots"?',
    ],
    [
      'models: { a: { replies: f, sed: 2 } }',
      'models.yaml: models.a: unknown key "sed"; did you mean "seed"?',
    ],
    ['models: { a: { replis: f } }', 'unknown key "replis"; did you mean "replies"?'],
    ['models: { a: [{ model: m, seed: 1 }, { modl: m, seed: 2 }] }', 'models.a[1]'],
    [
      'models: { a: { base_urll: "http://x", model: m } }',
      'unknown key "base_urll"; did you mean "base_url"?',
    ],
    ['models: { a: [{ modl: m, seed: 2 }] }', 'unknown key "modl"; did you mean "model"?'],
    ['models: { a: { replies: f, model: m } }', 'unknown key "model"'],
    ['models: { a: data/model }', 'models.yaml: models.a: the value is "data/model": expected'],
    ['models: { a: }', 'models.yaml: models.a: the value is null: expected'],
    ['models: { a: { model: m, shots: -1 } }', 'models.yaml: models.a: shots is -1'],
    ['models: { a: { model: m, seed: 1.5 } }', 'models.yaml: models.a: seed is 1.5'],
    [
      'models: { a: { model: m, matmul_precision: bfloat16 } }',
      'models.yaml: models.a: matmul_precision: is bfloat16, but dtype is float32; ',
    ],
    [
      'models: { a: { model: m, dtype: bfloat16, matmul_precision: f16 } }',
      'models.yaml: models.a: matmul_precision is "f16"',
    ],
    ['models: { a: { shots: 1 } }', 'models.yaml: models.a: model is missing'],
    ['models: [m]', 'models.yaml: models is ["m"]'],
    ['', 'models.yaml: the value is null'],
    ['models: { a: { model: m }', 'models.yaml: not YAML: line 1'],
  ])('are refused as %j in one line that says what to do', (text, message) => {
    expect(() => parse(text)).toThrow(ConfigError);
    expect(() => parse(text)).toThrow(message);
    expect(() => parse(text)).not.toThrow(/\n/);
  });

  it('are refused where a list of runs is empty', () => {
    expect(() => parse('models: { a: { model: m }, b: [] }')).toThrow(
      'models.yaml: models.b is []; expected at least one run',
    );
  });
});

describe('the file of replies of a run', () => {
  it('has a name that any file system takes, with the seed where there is one', () => {
    expect(repliesFile('d', { name: 'grpo' })).toBe(path.join('d', 'grpo.jsonl'));
    expect(repliesFile('d', { name: 'grpo', seed: 0 })).toBe(path.join('d', 'grpo-seed_0.jsonl'));
    for (const name of ['../../etc/x', 'a/b', 'a\\b', 'a b', 'ä:*?"<>|', 'a\0b'])
      expect(path.basename(repliesFile('d', { name })), name).toMatch(/^[\w.-]+\.jsonl$/);
    expect(path.dirname(repliesFile('d', { name: '../x' }))).toBe('d');
  });
});

describe('opening replies', () => {
  const model = goldenPath('tiny-qwen3', 'untied-f32');
  const adapter = goldenPath('lora', 'adapter');
  const tweets = ['I love tea', 'Rain again'].map((tweet, t) => ({ tweet_id: `t${t}`, tweet }));
  const options: Omit<OpenRepliesOptions, 'directory'> = {
    ...{ generations: 2, temperature: 1, topP: 1, maxNewTokens: 6, seed: 4 },
  };
  const open = (
    source: Partial<ModelSource> & { name: string },
    own: Partial<OpenRepliesOptions> = {},
  ): Promise<ModelReplies> =>
    openModelReplies({ model, shots: 0, ...source } as ModelSource, tweets, {
      ...options,
      directory: temporaryDirectory(),
      ...own,
    });
  const texts = ({ tweets: rows }: ModelReplies) =>
    rows.map(({ generations, greedy }) => [...generations, greedy]);

  it('reads those on file, under the name and the seed of the source', async () => {
    const replies = temporaryFile('r.jsonl', jsonLines([{ ...tweets[0], generations: ['x'] }]));
    const source: ModelSource = { name: 'people', replies, seed: 5 };
    expect(await openModelReplies(source, [], { ...options, directory: '/nowhere' })).toEqual({
      ...{ name: 'people', seed: 5, tweets: [{ ...tweets[0], generations: ['x'] }] },
    });
  });

  it('generates them into a file that reads back, and frees the model', async () => {
    const directory = path.join(temporaryDirectory(), 'replies');
    const before = tf.memory().numTensors;
    const { tweets: rows, name, seed } = await open({ name: 'tiny' }, { directory });
    expect(tf.memory().numTensors).toBe(before);
    expect([name, seed]).toEqual(['tiny', undefined]);
    expect(parseLines<TweetReplies>(readFileSync(path.join(directory, 'tiny.jsonl'), 'utf8'))).toEqual(rows);
    expect(rows.map(({ tweet_id, tweet, generations }) => [tweet_id, tweet, generations.length])).toEqual(
      tweets.map(({ tweet_id, tweet }) => [tweet_id, tweet, 2]),
    );
  });

  it('draws from the seed of the source before that of the evaluation', async () => {
    const plain = await open({ name: 'm' }, { seed: 9 });
    const seeded = await open({ name: 'm', seed: 9 });
    expect(texts(seeded)).toEqual(texts(plain));
    expect(seeded.seed).toBe(9);
    expect(texts(await open({ name: 'm' }))).not.toEqual(texts(plain));
  });

  it('changes with the adapter, and with the examples that the prompt shows', async () => {
    const examples = [
      { tweet: 'Sun?', reply: 'Hats.' },
      { tweet: 'Snow?', reply: 'Boots.' },
    ];
    const plain = await open({ name: 'm' }, { examples });
    const others = await Promise.all([
      open({ name: 'm', adapter }),
      open({ name: 'm', shots: 1 }, { examples }),
      open({ name: 'm', shots: 2 }, { examples }),
      open({ name: 'm', shots: 1 }, { examples: [...examples].reverse() }),
    ]);
    const all = [plain, ...others].map((one) => JSON.stringify(texts(one)));
    expect(new Set(all).size).toBe(5);
    expect(texts(await open({ name: 'm' }))).toEqual(texts(plain));
  });

  const examples = ['Hats.', 'Boots.'].map((reply, i) => ({ tweet: `shown ${i}`, reply }));
  const referencesOf = (reply: string, engagement = 1) => new Map([['t0', { replies: [reply], engagement }]]);

  /** Opens a model in one place again and again, with an adapter that may be damaged. */
  function openAgain() {
    const [directory, own] = [temporaryDirectory(), path.join(temporaryDirectory(), 'adapter')];
    cpSync(adapter, own, { recursive: true });
    const run = (source: Partial<ModelSource> = {}, other: Partial<OpenRepliesOptions> = {}) =>
      open(
        { name: 'm', adapter: own, shots: 1, seed: 9, ...source },
        { directory, references: referencesOf('Good tea'), examples, resume: true, ...other },
      );
    const settings = (): unknown =>
      JSON.parse(readFileSync(path.join(directory, 'm-seed_9.settings.json'), 'utf8'));
    return { own, run, settings };
  }

  it('says beside them what they were written with, and goes on with the same', async () => {
    const { own, run, settings } = openAgain();
    const written = await run();
    const digest = expect.stringMatching(/^[0-9a-f]{64}$/) as string;
    expect(settings()).toEqual({
      ...{ seed: 9, shots: examples.slice(0, 1), model_sha256: digest, adapter_sha256: digest },
      ...{ generations: 2, temperature: 1, top_p: 1, max_new_tokens: 6 },
      named: { model, adapter: own },
    });
    expect(await run()).toEqual(written);
    // The seed of the evaluation is not used, engagement does not touch replies.
    expect(await run({}, { seed: 5, references: referencesOf('Good tea', 5) })).toEqual(written);
  });

  it('says beside them the type of weights and products where these are not the default, and asks for the same', async () => {
    const load = vi.spyOn(LocalPolicy, 'load');
    onTestFinished(() => load.mockRestore());
    const { run, settings } = openAgain();
    await run({ dtype: 'bfloat16', matmul_precision: 'bfloat16' });
    expect(settings()).toMatchObject({ dtype: 'bfloat16', matmul_precision: 'bfloat16' });
    expect(load.mock.lastCall?.[0]).toMatchObject({ dtype: 'bfloat16', matmulPrecision: 'bfloat16' });
    await expect(run({ dtype: 'bfloat16', matmul_precision: 'float32' })).rejects.toThrow(
      'was written with matmul_precision "bfloat16"; this evaluation has nothing',
    );
  });

  it('does not go on with another adapter, other bytes of it, other examples or other references', async () => {
    const { own, run, settings } = openAgain();
    await run();
    const before = settings();
    const refused = async (running: Promise<unknown>, key: string): Promise<void> => {
      await expect(running).rejects.toThrow(DataError);
      await expect(running).rejects.toThrow(`m-seed_9.jsonl: was written with ${key}`);
    };
    await refused(run({ adapter: undefined }), 'adapter_sha256 "');
    await refused(run({ model: goldenPath('tiny-qwen3', 'untied-bf16') }), 'model_sha256 "');
    await refused(run({ shots: 2 }), 'shots [');
    await refused(run({}, { examples: [...examples].reverse() }), 'shots [');
    await refused(run({}, { temperature: 0.5 }), 'temperature 1; this evaluation has 0.5.');
    for (const references of [undefined, referencesOf('Bad tea')])
      await expect(run({}, { references })).rejects.toThrow(
        /m-seed_9\.jsonl: .* is of other references than/,
      );
    const weights = path.join(own, 'adapter_model.safetensors');
    const bytes = readFileSync(weights);
    bytes[bytes.length - 1] ^= 1;
    writeFileSync(weights, bytes);
    await refused(run(), 'adapter_sha256 "');
    bytes[bytes.length - 1] ^= 1;
    writeFileSync(weights, bytes);
    // The same weights are another adapter when they are scaled in another way.
    const config = path.join(own, 'adapter_config.json');
    writeFileSync(config, readFileSync(config, 'utf8').replace(/"lora_alpha": \d+/, '"lora_alpha": 5'));
    await refused(run(), 'adapter_sha256 "');
    expect(settings()).toEqual(before);
  });

  it('goes on with an adapter that was moved', async () => {
    const { own, run } = openAgain();
    const written = await run();
    const elsewhere = path.join(temporaryDirectory(), 'moved');
    cpSync(own, elsewhere, { recursive: true });
    expect(await run({ adapter: elsewhere, model: `${model}/` })).toEqual(written);
  });

  it('is refused where there are fewer examples than shots, the model is not there, or a file stands in the way', async () => {
    await expect(open({ name: 'few', shots: 2 }, { examples: [{ tweet: 'a', reply: 'b' }] })).rejects.toThrow(
      'few: shots is 2, but there are 1 examples; expected as many.',
    );
    await expect(open({ name: 'm', model: '/nowhere/model' })).rejects.toThrow(CheckpointError);
    await expect(open({ name: 'm', adapter: '/nowhere/adapter' })).rejects.toThrow(CheckpointError);
    const before = tf.memory().numTensors;
    await expect(open({ name: 'm' }, { directory: temporaryFile('file', 'x') })).rejects.toThrow(DataError);
    expect(tf.memory().numTensors).toBe(before);
  });
});
