import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { CheckpointError, ConfigError, ShapeError } from '../runtime/errors';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import { cachedEmbedder } from './embeddings';
import type { Embedder } from './embeddings';
import {
  initialParameters,
  LEARNED_FILES,
  learnedLogits,
  learnedReward,
  learnedShapes,
  readLearned,
  saveLearned,
} from './learned';
import type { LearnedModel } from './learned';

const folder = mkdtempSync(join(tmpdir(), 'learned-'));
afterAll(() => rmSync(folder, { recursive: true }));

const D = 3;
/** Not an embedding of meaning: numbers that differ from text to text. */
const embedder: Embedder = cachedEmbedder({
  ...{ name: 'toy', duplicateCosine: 0.9, cosineRange: [0, 1] as const },
  embed: async (text) => Float32Array.from({ length: D }, (_, i) => new Random(1, text, i).normal()),
});

function model(seed = 1): LearnedModel {
  return {
    description: {
      ...{ type: 'learned', version: 2, objective: 'rank', training: {}, evaluation: {}, versions: {} },
      data: { file: null, records: 0, test_fraction: 0.2, seed: 1 },
      embedding: { name: 'toy', source: null, dimensions: D },
    },
    parameters: initialParameters(2 * D, seed),
  };
}

/** The network in plain arithmetic, in double precision. */
function logitOf(parameters: ReadonlyMap<string, Float32Array>, input: readonly number[]): number {
  let values = [...input];
  for (let layer = 0; layer < 3; layer++) {
    const weight = parameters.get(`layers.${layer}.weight`) as Float32Array;
    const bias = parameters.get(`layers.${layer}.bias`) as Float32Array;
    const width = values.length;
    const outputs = [...bias].map((b, o) => values.reduce((sum, v, i) => sum + v * weight[o * width + i], b));
    values = layer === 2 ? outputs : outputs.map((x) => Math.max(0, x));
  }
  return values[0];
}

describe('the network', () => {
  it('has the layers 256, 128 and 1', () => {
    expect([...learnedShapes(2 * D)]).toEqual([
      ['layers.0.weight', [256, 6]],
      ['layers.0.bias', [256]],
      ['layers.1.weight', [128, 256]],
      ['layers.1.bias', [128]],
      ['layers.2.weight', [1, 128]],
      ['layers.2.bias', [1]],
    ]);
  });

  it('starts uniform within 1 / sqrt(inputs), the biases of a layer like its weights', () => {
    const parameters = initialParameters(100, 7);
    for (const [name, fanIn] of [
      ['layers.0.weight', 100],
      ['layers.0.bias', 100],
      ['layers.1.weight', 256],
      ['layers.2.bias', 128],
    ] as const) {
      const values = parameters.get(name) as Float32Array;
      const largest = Math.max(...values.map(Math.abs));
      expect(largest).toBeLessThanOrEqual(1 / Math.sqrt(fanIn));
      if (values.length > 100) expect(largest).toBeGreaterThan(0.9 / Math.sqrt(fanIn));
    }
    expect(initialParameters(100, 7)).toEqual(parameters);
    expect(initialParameters(100, 8)).not.toEqual(parameters);
  });

  it('computes what plain arithmetic does', () => {
    const { parameters } = model();
    const shapes = learnedShapes(2 * D);
    const inputs = Array.from({ length: 4 }, (_, n) =>
      Array.from({ length: 2 * D }, (__, i) => new Random(2, n, i).normal()),
    );
    const logits = tf.tidy(() => {
      const tensors = [...parameters].map(([name, values]) => tf.tensor(values, shapes.get(name)));
      return learnedLogits(tensors, tf.tensor2d(inputs)).arraySync() as number[];
    });
    logits.forEach((logit, n) => expect(logit).toBeCloseTo(logitOf(parameters, inputs[n]), 5));
  });

  it('drops hidden units in training only, and keeps the mean', () => {
    const { parameters } = model();
    const shapes = learnedShapes(2 * D);
    const rows = 4000;
    const [dropped, plain] = tf.tidy(() => {
      const tensors = [...parameters].map(([name, values]) => tf.tensor(values, shapes.get(name)));
      const x = tf.tile(tf.tensor2d([[1, -1, 0.5, 2, 0, 1]]), [rows, 1]);
      const keys = tf.tensor1d(
        Int32Array.from({ length: rows }, (_, i) => (i * 2654435761) | 0),
        'int32',
      );
      const mean = (masks?: { keys: typeof keys; rate: number }) =>
        learnedLogits(tensors, x, masks).dataSync() as Float32Array;
      return [mean({ keys, rate: 0.1 }), mean()];
    });
    expect(new Set(plain).size).toBe(1);
    expect(new Set(dropped).size).toBeGreaterThan(rows / 2);
    const average = dropped.reduce((sum, x) => sum + x, 0) / rows;
    expect(Math.abs(average - plain[0])).toBeLessThan(0.02);
  });
});

describe('learnedReward', () => {
  it('is the sigmoid of the logit on the embeddings of tweet and trimmed reply', async () => {
    const { parameters } = model();
    const [tweet, reply] = ['Rain again', 'Bring boats'];
    const input = [...(await embedder.embed(tweet)), ...(await embedder.embed(reply))];
    const { total, components } = await learnedReward(model(), embedder).score(tweet, `  ${reply}\n`);
    expect(total).toBeCloseTo(1 / (1 + Math.exp(-logitOf(parameters, input))), 6);
    expect(components).toEqual({ learned: total });
  });

  it('scores a blank reply 0, and a batch exactly as the single pairs', async () => {
    const reward = learnedReward(model(), embedder);
    const pairs = ['one', 'two', ' ', 'three'].map((reply) => ({ tweet: 'T', reply }));
    const batch = await reward.scoreBatch(pairs);
    expect(batch[2]).toEqual({ total: 0, components: { learned: 0 } });
    for (const [i, { tweet, reply }] of pairs.entries()) {
      expect(await reward.score(tweet, reply)).toEqual(batch[i]);
    }
  });

  it('holds its parameters only, and frees them', async () => {
    const before = tf.memory().numTensors;
    const reward = learnedReward(model(), embedder);
    await reward.score('a', 'b');
    expect(tf.memory().numTensors).toBe(before + 6);
    reward.dispose?.();
    expect(tf.memory().numTensors).toBe(before);
  });

  it('refuses an embedding of the same name and size with other weights', async () => {
    const source = { kind: 'directory', model: '/models/encoder', fingerprint: 'a'.repeat(64) } as const;
    const trained = model();
    trained.description.embedding.source = source;
    const same = learnedReward(trained, { ...embedder, source: { ...source, model: '/elsewhere' } });
    expect((await same.score('a', 'b')).total).toBe(
      (await learnedReward(model(), embedder).score('a', 'b')).total,
    );
    for (const other of [undefined, { ...source, fingerprint: 'b'.repeat(64) }]) {
      expect(() => learnedReward(trained, { ...embedder, source: other })).toThrow(CheckpointError);
      expect(() => learnedReward(trained, { ...embedder, source: other })).toThrow(
        /fingerprint aaaaaaaaaaaa/,
      );
    }
  });

  it('says of a stand-in embedding that it is one, not that it computed a relevance', () => {
    const degraded = 'lexical embedding instead of all-MiniLM-L6-v2';
    const reward = learnedReward(model(), { ...embedder, degraded });
    expect(reward.degraded).toEqual([`embedding: ${degraded}`]);
  });

  it('refuses another embedding, by name or by size', async () => {
    expect(() => learnedReward(model(), { ...embedder, name: 'other' })).toThrow(CheckpointError);
    const longer = { ...embedder, embed: async () => new Float32Array(D + 1) };
    await expect(learnedReward(model(), longer).score('a', 'b')).rejects.toThrow(ShapeError);
  });
});

describe('the files', () => {
  it('give the same reward back', async () => {
    const directory = join(folder, 'saved');
    await saveLearned(directory, model());
    const read = readLearned(directory);
    expect(read.description).toEqual(model().description);
    const [before, after] = [learnedReward(model(), embedder), learnedReward(read, embedder)];
    expect(await after.score('Rain', 'Boats')).toEqual(await before.score('Rain', 'Boats'));
  });

  it.each([
    ['a missing description', (d: string) => rmSync(join(d, LEARNED_FILES.description)), /no such file/],
    ['missing weights', (d: string) => rmSync(join(d, LEARNED_FILES.weights)), /cannot be opened/],
    [
      'weights of another size',
      (d: string) => {
        const path = join(d, LEARNED_FILES.description);
        writeFileSync(path, readFileSync(path, 'utf8').replace('"dimensions": 3', '"dimensions": 4'));
      },
      /layers.0.weight is 256,6; expected \[256,8\].*Train the reward again/,
    ],
    [
      'a weight that is not a number',
      (d: string) => {
        const path = join(d, LEARNED_FILES.weights);
        const bytes = readFileSync(path);
        bytes.writeFloatLE(NaN, bytes.length - 4);
        writeFileSync(path, bytes);
      },
      /reward\.safetensors: layers\.\d\.\w+ holds a number that is not finite/,
    ],
    [
      'an unknown key',
      (d: string) => {
        const path = join(d, LEARNED_FILES.description);
        writeFileSync(path, readFileSync(path, 'utf8').replace('"objective"', '"objectiv"'));
      },
      /unknown key "objectiv"; did you mean "objective"/,
    ],
  ])('say what is wrong with %s', async (_, damage, message) => {
    const [source, directory] = [join(folder, 'whole'), mkdtempSync(join(folder, 'damaged-'))];
    await saveLearned(source, model());
    cpSync(source, directory, { recursive: true });
    damage(directory);
    let error: unknown;
    try {
      readLearned(directory);
    } catch (thrown) {
      error = thrown;
    }
    expect(error instanceof CheckpointError || error instanceof ConfigError).toBe(true);
    expect((error as Error).message).toMatch(message);
  });
});
