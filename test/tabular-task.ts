/** A task small enough to enumerate: three prompts, four tokens, a reward with a known optimum, and a policy that remembers. */
import type { GrpoLoss, Loss } from '../src/optim/losses';
import type {
  FullForwardBackwardResult,
  MicroBatch,
  OptimStepOptions,
  OptimStepResult,
} from '../src/policy/policy';
import type { DrawnCompletion, Prompt, RolloutGroup, SampleOptions } from '../src/policy/policy';
import { TabularPolicy } from '../src/policy/tabular';
import type { ScoreCompletions } from '../src/rewards/replies';
import { Random } from '../src/runtime/random';
import type { GrpoSettings } from '../src/train/grpo';

const END = 3;
export const PROMPTS = [[0], [1], [2]];
export const prompts = PROMPTS.map((tokenIds, i) => ({ id: `p${i}`, tokenIds }));
export const LENGTH = 3;

export const loss: GrpoLoss = {
  ...{ kind: 'grpo', type: 'grpo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: LENGTH },
};
/** Settings that a test starts from. */
export const settings: GrpoSettings = {
  ...{ learningRate: 0.1, schedule: 'cosine', warmupRatio: 0, betas: [0.9, 0.999], eps: 1e-8 },
  ...{ weightDecay: 0, clipNorm: 1, epochs: 60, batchSize: 3, accumulation: 1, groupSize: 16, seed: 4 },
  ...{ temperature: 1, topP: 1, topK: 0, maxNewTokens: LENGTH, minNewTokens: 0, lossTemperature: 1 },
  ...{ numIterations: 1, advantageScale: 'group', advantageClip: 10, maskTruncated: false, loss },
};

/** Remembers what the loop asked for, and the gradient that each update applied. */
export class RecordingPolicy extends TabularPolicy {
  readonly batches: {
    batch: MicroBatch;
    loss: Loss;
    temperature?: number;
    result: FullForwardBackwardResult;
  }[] = [];
  readonly sampled: {
    prompts: readonly Prompt[];
    options: SampleOptions;
    groups: RolloutGroup<DrawnCompletion>[];
  }[] = [];
  readonly gradients: number[][] = [];
  readonly asked: { of?: string; temperature?: number }[] = [];
  states: [number[], number[]][] = [];

  override async sample(
    asked: readonly Prompt[],
    options: SampleOptions,
  ): Promise<RolloutGroup<DrawnCompletion>[]> {
    const groups = await super.sample(asked, options);
    this.sampled.push({ prompts: asked, options, groups });
    return groups;
  }

  override logProbs(...args: Parameters<TabularPolicy['logProbs']>): Promise<Float32Array[]> {
    this.asked.push(args[1] ?? {});
    return super.logProbs(...args);
  }

  override async forwardBackward(
    batch: MicroBatch,
    asked: Loss,
    options: { temperature?: number } = {},
  ): Promise<FullForwardBackwardResult> {
    const result = await super.forwardBackward(batch, asked, options);
    this.batches.push({ batch, loss: asked, temperature: options.temperature, result });
    return result;
  }

  override optimStep(options: OptimStepOptions): Promise<OptimStepResult> {
    this.gradients.push(
      this.states.flatMap(([promptIds, prefix]) => this.pendingGradient(promptIds, prefix)),
    );
    return super.optimStep(options);
  }
}

const initialLogits = (promptIds: readonly number[], prefix: readonly number[]): number[] => {
  const random = new Random(1, promptIds.join(), prefix.join());
  return Array.from({ length: 4 }, () => random.normal());
};

/** @param stops  without end tokens every completion has the full length */
export function makePolicy(stops: readonly number[] = [END], maxLength = LENGTH): RecordingPolicy {
  const policy = new RecordingPolicy({
    ...{ prompts: PROMPTS, vocabularySize: 4, maxLength, stopTokenIds: stops, initialLogits },
  });
  const prefixes = new Map<string, [number[], number[]]>();
  for (const promptIds of PROMPTS)
    for (const { tokenIds } of policy.enumerate(promptIds))
      tokenIds.forEach((_, t) => prefixes.set(`${promptIds.join()} ${tokenIds.slice(0, t).join()}`, [promptIds, tokenIds.slice(0, t)])); // prettier-ignore
  policy.states = [...prefixes.values()];
  return policy;
}

/** Each prompt wants another token, best three times. */
export const rewardOf = (promptIds: readonly number[], tokenIds: readonly number[]): number =>
  tokenIds.reduce((sum, id, t) => sum + (id === promptIds[0] ? 1 : 0) / (t + 2), 0) / (13 / 12);

export const score: ScoreCompletions = (pairs) =>
  Promise.resolve(
    pairs.map(({ prompt, completion }) => {
      const total = rewardOf(prompt.tokenIds, completion.tokenIds);
      return { total, components: { match: total } };
    }),
  );

export function expectedReward(policy: TabularPolicy): number {
  const values = PROMPTS.map(
    (promptIds) =>
    policy.enumerate(promptIds).reduce((sum, { tokenIds, probability }) => sum + probability * rewardOf(promptIds, tokenIds), 0), // prettier-ignore
  );
  return values.reduce((a, b) => a + b, 0) / values.length;
}
