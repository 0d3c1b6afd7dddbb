/**
 * The remote policy against a real server: `TINKER_URL=http://localhost:8000 TINKER_MODEL=DIR npm run test:remote`, where DIR
 * is the directory of the model that the server has (float32, small enough to be run here, too).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readModelConfig } from '../../src/model/config';
import type { GrpoLoss, Loss } from '../../src/optim/losses';
import { LocalPolicy } from '../../src/policy/local';
import type { Policy, Prompt, RolloutGroup, Sequence } from '../../src/policy/policy';
import { TinkerPolicy } from '../../src/policy/tinker';
import { TinkerClient } from '../../src/policy/tinker-client';
import { datum, modelAnswer, tinker } from '../../src/policy/tinker-protocol';
import { Random } from '../../src/runtime/random';

function needed(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '')
    throw new Error(
      `${name} is not set: TINKER_URL is the server's address, TINKER_MODEL its model's directory`,
    );
  return value;
}

const baseUrl = needed('TINKER_URL');
const model = needed('TINKER_MODEL');
const config = readModelConfig(model);
const work = mkdtempSync(path.join(tmpdir(), 'grpolab-remote-'));
const RANK = 8;
const GROUP = 4;
const TOKENS = 16;

const open = (checkpointDirectory?: string): Promise<TinkerPolicy> =>
  TinkerPolicy.open({
    ...{ connection: { baseUrl }, config, rank: RANK, seed: 1, stopTokenIds: config.eosTokenIds },
    checkpointDirectory,
  });

const prompts = Array.from({ length: 4 }, (_, p): Prompt => {
  const random = new Random(1, 'prompt', p);
  return { id: `p${p}`, tokenIds: Array.from({ length: 8 + p }, () => random.integer(config.vocabSize)) };
});

const sequencesOf = (groups: readonly RolloutGroup[]): Sequence[] =>
  groups.flatMap(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => ({ promptIds: prompt.tokenIds, completionIds: tokenIds })),
  );

const difference = (a: readonly Float32Array[], b: readonly Float32Array[]): number =>
  Math.max(...a.flatMap((row, i) => Array.from(row, (x, t) => Math.abs(x - b[i][t]))));

/** Change of every log-probability. */
const change = (before: readonly Float32Array[], after: readonly Float32Array[]): number[] =>
  after.flatMap((row, i) => Array.from(row, (x, t) => x - before[i][t]));

function correlation(a: readonly number[], b: readonly number[]): number {
  const mean = (x: readonly number[]): number => x.reduce((sum, v) => sum + v, 0) / x.length;
  const [ma, mb] = [mean(a), mean(b)];
  const product = (x: readonly number[], mx: number, y: readonly number[], my: number): number =>
    x.reduce((sum, v, i) => sum + (v - mx) * (y[i] - my), 0);
  return product(a, ma, b, mb) / Math.sqrt(product(a, ma, a, ma) * product(b, mb, b, mb));
}

const grpo: GrpoLoss = {
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0.1, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: TOKENS },
};

/** One update on the groups, in two micro-batches. */
async function update(
  policy: Policy,
  groups: readonly RolloutGroup[],
  reference: readonly Float32Array[],
  loss: Loss,
  learningRate: number,
  moments = false,
): Promise<{ loss: number; gradNorm: number }> {
  let row = 0;
  const training = groups.map(({ prompt, completions }) => ({
    promptIds: prompt.tokenIds,
    rows: completions.map(({ tokenIds }) => {
      const i = row++;
      const advantage = (((i % (prompts.length * GROUP)) * 7) % 5) - 2;
      const referenceLogProbs = loss.kind === 'grpo' && loss.beta > 0 ? reference[i] : undefined;
      return { tokenIds, advantage, referenceLogProbs, weights: tokenIds.map(() => advantage / 50) };
    }),
  }));
  const rows = training.flatMap((group) => group.rows);
  const totals = {
    totalRows: rows.length,
    totalTokens: rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    totalMicroBatches: 2,
  };
  let total = 0;
  for (const part of [training.slice(0, 2), training.slice(2)])
    total += (await policy.forwardBackward({ groups: part, ...totals }, loss)).loss;
  // Without moments, and with a large eps, the change is that of the gradient itself.
  const plain = { betas: [0, 0] as const, eps: 1 };
  const { gradNorm } = await policy.optimStep({ learningRate, ...(moments ? {} : plain) });
  return { loss: total, gradNorm };
}

/** A policy that has moved away from its start, with what it drew there, and the same adapter here. */
interface Pair {
  remote: TinkerPolicy;
  local: LocalPolicy;
  directory: string;
  groups: RolloutGroup[];
  sequences: Sequence[];
  reference: Float32Array[];
}

let pair: Pair;
let opened: TinkerPolicy | undefined;

beforeAll(async () => {
  const remote = (opened = await open());
  const groups = await remote.sample(prompts, {
    groupSize: GROUP,
    temperature: 1,
    maxNewTokens: TOKENS,
    seed: 3,
  });
  const sequences = sequencesOf(groups);
  const reference = await remote.logProbs(sequences, { of: 'reference' });
  await update(remote, groups, reference, grpo, 1e-3, true);
  const directory = path.join(work, 'start');
  await remote.save(directory);
  const local = LocalPolicy.load({ modelDirectory: model, adapterDirectory: directory });
  pair = { remote, local, directory, groups, sequences, reference };
});

afterAll(async () => {
  rmSync(work, { recursive: true, force: true });
  await opened?.dispose();
  pair.local.dispose();
});

describe('the model on the server', () => {
  it('gives the log-probabilities of this one, and those of its samples', async () => {
    const { remote, local, sequences } = pair;
    const here = await local.logProbs(sequences);
    expect(difference(await remote.logProbs(sequences), here)).toBeLessThan(1e-4);
    const drawn = await remote.sample(prompts, {
      groupSize: GROUP,
      temperature: 1,
      maxNewTokens: TOKENS,
      seed: 5,
    });
    const told = drawn.flatMap(({ completions }) => completions.map(({ logProbs }) => logProbs));
    expect(difference(told, await local.logProbs(sequencesOf(drawn)))).toBeLessThan(1e-4);
  });

  it('draws the same for the same seed, and something else for another', async () => {
    const options = { groupSize: GROUP, temperature: 1, maxNewTokens: TOKENS, seed: 7 };
    const tokens = async (seed: number): Promise<number[][]> =>
      sequencesOf(await pair.remote.sample(prompts, { ...options, seed })).map((one) => [
        ...one.completionIds,
      ]);
    const first = await tokens(7);
    expect(await tokens(7)).toEqual(first);
    expect(await tokens(8)).not.toEqual(first);
  });

  it('has the bare model as its reference', async () => {
    const bare = LocalPolicy.load({ modelDirectory: model });
    expect(difference(pair.reference, await bare.logProbs(pair.sequences))).toBeLessThan(1e-4);
    bare.dispose();
  });
});

describe('one step', () => {
  const losses: [string, Loss][] = [
    ...(['grpo', 'dr_grpo', 'dapo', 'bnpo'] as const).map((type): [string, Loss] => [
      type,
      { ...grpo, type },
    ]),
    ['cispo', { ...grpo, type: 'cispo', epsilonHigh: 5 }],
    ['dapo without KL', { ...grpo, beta: 0 }],
    ['KL without the ratio', { ...grpo, klBiasCorrection: false }],
    ['cross-entropy', { kind: 'cross_entropy' }],
    ['weighted', { kind: 'weighted' }],
  ];

  it.each(losses)('changes what it changes here: %s', async (name, loss) => {
    const { remote, directory, groups, sequences, reference } = pair;
    await remote.load(directory);
    const local = LocalPolicy.load({ modelDirectory: model, adapterDirectory: directory });
    const before = await local.logProbs(sequences);
    const there = await update(remote, groups, reference, loss, 1e-2);
    const here = await update(local, groups, reference, loss, 1e-2);
    const [a, b] = [await remote.logProbs(sequences), await local.logProbs(sequences)];
    const [theirs, ours] = [change(before, a), change(before, b)];
    const agreement = correlation(theirs, ours);
    const size = Math.hypot(...theirs) / Math.hypot(...ours);
    console.log(
      `${name}: loss ${there.loss} there, ${here.loss} here; correlation of changes ${agreement}, sizes ${size}`,
    );
    expect(there.loss).toBeCloseTo(here.loss, 4);
    expect(agreement).toBeGreaterThan(0.99);
    // SkyRL tx has one A for q, k and v, and one for gate and up: its gradient there is the sum of ours.
    expect(Math.abs(size - 1)).toBeLessThan(0.1);
    local.dispose();
  });

  it('is the same for a batch that is given twice: a mean over rows', async () => {
    const { remote, directory, groups, reference } = pair;
    await remote.load(directory);
    const once = await update(remote, groups, reference, { ...grpo, type: 'grpo' }, 0);
    const twice = await update(
      remote,
      [...groups, ...groups],
      [...reference, ...reference],
      { ...grpo, type: 'grpo' },
      0,
    );
    expect(twice.gradNorm / once.gradNorm).toBeCloseTo(1, 3);
  });
});

describe('a checkpoint', () => {
  it('has the moments: the step after it is that of the run that went on', async () => {
    const { remote, groups, sequences, reference } = pair;
    await update(remote, groups, reference, grpo, 1e-3, true);
    const directory = path.join(work, 'moments');
    await remote.save(directory);
    await update(remote, groups, reference, grpo, 1e-3, true);
    const expected = await remote.logProbs(sequences);
    const other = await open(directory);
    await update(other, groups, reference, grpo, 1e-3, true);
    expect(difference(await other.logProbs(sequences), expected)).toBeLessThan(1e-5);
    await other.dispose();
  });

  it('is not touched by a gradient that a killed client has left behind', async () => {
    const { groups, sequences, reference, directory } = pair;
    const step = async (): Promise<Float32Array[]> => {
      const policy = await open(directory);
      await update(policy, groups, reference, grpo, 1e-2);
      const after = await policy.logProbs(sequences);
      await policy.dispose();
      return after;
    };
    const expected = await step();
    const client = await TinkerClient.open({ baseUrl });
    const operation = tinker.createModel(client.session, (await client.models())[0], { rank: RANK, seed: 9 });
    const { ticket, answer } = await client.start(operation, modelAnswer);
    await client.finish(operation, ticket);
    const rows = sequences.map((one) =>
      datum(one, {
        logprobs: one.completionIds.map(() => 0),
        advantages: one.completionIds.map(() => 100),
      }),
    );
    await client.run(tinker.importanceSampling(answer.model_id, rows));
    await client.run(tinker.unloadModel(answer.model_id));
    client.close();
    expect(difference(await step(), expected)).toBeLessThan(1e-5);
  });
});

describe('a server that lacks something', () => {
  it('is told apart: no such model, no such weights', async () => {
    const wrong = {
      connection: { baseUrl },
      config,
      rank: RANK,
      seed: 1,
      stopTokenIds: [],
      baseModel: 'nobody/none',
    };
    await expect(TinkerPolicy.open(wrong)).rejects.toThrow(/has no model "nobody\/none"; it has/);
    await expect(pair.remote.load(work)).rejects.toThrow(/has no tinker.json/);
  });
});
