/**
 * The learned reward: a small network on frozen embeddings of tweet and reply, trained on likes (`learned-training.ts`).
 * On disk it is a directory with `reward.json` (what it is, how it was trained and judged) and `reward.safetensors`.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { openSafetensors } from '../model/safetensors';
import { writeSafetensors } from '../model/safetensors-writer';
import { dropout } from '../model/dropout';
import { CheckpointError, ShapeError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory, readJsonFile, strictJson } from '../runtime/files';
import { Random } from '../runtime/random';
import { parseStrict } from '../runtime/strict';
import type { Tensor } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { Embedder } from './embeddings';
import type { Reward, RewardResult } from './reward';
import { scoreEach } from './reward';

/** Files of a learned reward. */
export const LEARNED_FILES = { description: 'reward.json', weights: 'reward.safetensors' } as const;

/** Widths of the hidden layers. */
const HIDDEN = [256, 128] as const;

/** Names and shapes of the parameters for an input of this width, weights as [outputs, inputs]. */
export function learnedShapes(inputs: number): Map<string, number[]> {
  const widths = [inputs, ...HIDDEN, 1];
  const shapes = new Map<string, number[]>();
  for (let i = 0; i + 1 < widths.length; i++) {
    shapes.set(`layers.${i}.weight`, [widths[i + 1], widths[i]]);
    shapes.set(`layers.${i}.bias`, [widths[i + 1]]);
  }
  return shapes;
}

/**
 * Parameters before training: uniform within 1 / sqrt(inputs of the layer).
 * Source: torch.nn.Linear; He et al., arXiv 1502.01852, with a = sqrt(5).
 */
export function initialParameters(inputs: number, seed: number): Map<string, Float32Array> {
  const shapes = [...learnedShapes(inputs)];
  return new Map(
    shapes.map(([name, shape], i) => {
      const random = new Random(seed, 'learned reward', name);
      const fanIn = shapes[i - (i % 2)][1][1];
      const bound = 1 / Math.sqrt(fanIn);
      const length = shape.reduce((a, b) => a * b, 1);
      return [name, Float32Array.from({ length }, () => (2 * random.uniform() - 1) * bound)];
    }),
  );
}

/** Dropout of the hidden layers: one key for each row, and the share that is dropped. */
export interface HiddenDropout {
  keys: Tensor;
  rate: number;
}

/**
 * The network: inputs -> 256 -> 128 -> 1 with ReLU, dropout after each hidden layer in training.
 *
 * @param parameters  in the order of `learnedShapes`
 * @param x           [N, 2D] embeddings of tweet and reply, side by side
 * @returns           [N] logits; the reward is their sigmoid
 */
export function learnedLogits(parameters: readonly Tensor[], x: Tensor, masks?: HiddenDropout): Tensor {
  return tf.tidy(() => {
    let hidden = x;
    const layers = parameters.length / 2;
    for (let i = 0; i < layers; i++) {
      const [weight, bias] = [parameters[2 * i] as never, parameters[2 * i + 1]];
      hidden = tf.add(tf.matMul(hidden as never, weight, false, true), bias);
      if (i + 1 === layers) break;
      hidden = tf.relu(hidden);
      if (masks !== undefined) hidden = dropout(hidden, masks.keys, masks.rate, i + 1);
    }
    return tf.squeeze(hidden, [1]);
  });
}

/** How a learned reward came about: what `reward.json` holds. */
export const learnedSchema = z.strictObject({
  type: z.literal('learned'),
  version: z.literal(2),
  embedding: z.strictObject({
    name: z.string(),
    source: z
      .strictObject({
        kind: z.enum(['lexical', 'directory', 'hub']),
        model: z.string(),
        fingerprint: z.string(),
      })
      .nullable()
      .describe('null for an embedding of the caller'),
    dimensions: z.int().positive(),
  }),
  objective: z.enum(['rank', 'regression']),
  data: z.strictObject({
    file: z.string().nullable(),
    records: z.int(),
    test_fraction: z.number(),
    seed: z.int(),
  }),
  versions: z.record(z.string(), z.string()),
  training: z.record(z.string(), z.unknown()),
  evaluation: z.record(z.string(), z.unknown()),
});

/** `reward.json` of a learned reward: its network, its embedding, how it was trained. */
export type LearnedDescription = z.output<typeof learnedSchema>;

/** A trained network and its description. */
export interface LearnedModel {
  description: LearnedDescription;
  parameters: ReadonlyMap<string, Float32Array>;
}

/** Writes `reward.json` last: a directory that has it is whole. @throws DataError when the disk refuses */
export async function saveLearned(
  directory: string,
  { description, parameters }: LearnedModel,
): Promise<void> {
  await ensureDirectory(directory);
  const shapes = learnedShapes(2 * description.embedding.dimensions);
  const tensors = new Map(
    [...parameters].map(([name, data]) => [name, { shape: shapes.get(name) as number[], data }]),
  );
  await writeSafetensors(join(directory, LEARNED_FILES.weights), tensors);
  await atomicWriteFile(join(directory, LEARNED_FILES.description), `${strictJson(description, 2)}\n`);
}

/** @throws ConfigError, CheckpointError  when a file is missing, damaged, holds NaN, or its shapes do not fit */
export function readLearned(directory: string): LearnedModel {
  const path = join(directory, LEARNED_FILES.description);
  const description = parseStrict(learnedSchema, readJsonFile(path, CheckpointError), path);
  const file = openSafetensors(join(directory, LEARNED_FILES.weights));
  try {
    const parameters = new Map<string, Float32Array>();
    for (const [name, shape] of learnedShapes(2 * description.embedding.dimensions)) {
      const found = file.tensors.get(name)?.shape.join() ?? 'missing';
      if (found !== shape.join()) {
        throw new CheckpointError(
          `${file.path}: ${name} is ${found}; expected [${shape.join()}], as ${LEARNED_FILES.description} says. Train the reward again.`,
        );
      }
      const values = file.read(name);
      if (!values.every(Number.isFinite)) {
        throw new CheckpointError(
          `${file.path}: ${name} holds a number that is not finite. Train the reward again.`,
        );
      }
      parameters.set(name, values);
    }
    return { description, parameters };
  } finally {
    file.close();
  }
}

/** [1, 2D] the embeddings of tweet and reply, side by side. */
async function features(
  embedder: Embedder,
  dimensions: number,
  tweet: string,
  reply: string,
): Promise<Float32Array> {
  const vectors = [await embedder.embed(tweet), await embedder.embed(reply)];
  const values = new Float32Array(2 * dimensions);
  vectors.forEach((vector, i) => {
    if (vector.length !== dimensions) {
      throw new ShapeError(
        `the embedding "${embedder.name}" has ${vector.length} dimensions; the learned reward expects ${dimensions}.`,
      );
    }
    values.set(vector, i * dimensions);
  });
  return values;
}

/**
 * The reward of a trained network: sigmoid of its logit, alone in the component `learned`. A blank reply scores 0. Pairs
 * go through the network one at a time, so that none depends on its company.
 *
 * @throws CheckpointError  when the embedding is not the one that it was trained on: another name or fingerprint
 */
export function learnedReward(model: LearnedModel, embedder: Embedder, name = 'learned'): Reward {
  const { embedding } = model.description;
  if (embedder.name !== embedding.name) {
    throw new CheckpointError(
      `${name}: trained on the embedding "${embedding.name}", but got "${embedder.name}". Give the one that it was trained on.`,
    );
  }
  const [trainedOn, given] = [embedding.source?.fingerprint, embedder.source?.fingerprint];
  if (trainedOn !== given) {
    const short = (fingerprint: string | undefined): string => fingerprint?.slice(0, 12) ?? 'none';
    throw new CheckpointError(
      `${name}: trained on the embedding ${embedding.source?.model ?? embedding.name} with the fingerprint ${short(trainedOn)}, ` +
        `but ${embedder.source?.model ?? embedder.name} has ${short(given)}: other weights. Give the embedding that it was trained on.`,
    );
  }
  const shapes = learnedShapes(2 * embedding.dimensions);
  const parameters = [...model.parameters].map(([key, values]) =>
    tf.tensor(values, shapes.get(key) as number[]),
  );
  const score = async (tweet: string, reply: string): Promise<RewardResult> => {
    if (reply.trim() === '') return { total: 0, components: { learned: 0 } };
    const values = await features(embedder, embedding.dimensions, tweet, reply.trim());
    const value = tf.tidy(() =>
      tf.sigmoid(learnedLogits(parameters, tf.tensor2d(values, [1, values.length]))),
    );
    const [total] = value.dataSync();
    value.dispose();
    return { total, components: { learned: total } };
  };
  const degraded = embedder.degraded === undefined ? [] : [`embedding: ${embedder.degraded}`];
  return {
    name,
    degraded,
    score,
    scoreBatch: (pairs) => scoreEach(score, pairs),
    dispose: () => tf.dispose(parameters),
  };
}
