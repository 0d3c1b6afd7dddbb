/** What the invariance tests share: the tiny model with its adapter, seeded tokens, and comparisons of gradients. */
import { expect } from 'vitest';
import type { GrpoLoss, Loss } from '../src/optim/losses';
import { LocalPolicy } from '../src/policy/local';
import type {
  ForwardBackwardResult,
  MicroBatch,
  Sequence,
  TrainingGroup,
  TrainingRow,
} from '../src/policy/policy';
import type { ExecutionMode } from '../src/runtime/compile';
import { Random } from '../src/runtime/random';
import { goldenPath, readGolden } from './golden';
import { relativeDifference } from './golden-model';

/** The directory of the model that the golden adapter belongs to. */
export const modelDirectory = goldenPath(readGolden<{ base: string }>('lora', 'lora.json').base);
export const adapterDirectory = goldenPath(readGolden<{ adapter: string }>('lora', 'grpo.json').adapter);

const open: LocalPolicy[] = [];

/** Takes care that a policy is disposed by `disposeAll`. */
export function keep(policy: LocalPolicy): LocalPolicy {
  open.push(policy);
  return policy;
}

/** The tiny model with the golden adapter, whose B is not zero. */
export function loadPolicy(mode?: ExecutionMode): LocalPolicy {
  return keep(LocalPolicy.load({ modelDirectory, adapterDirectory, mode }));
}

export function disposeAll(): void {
  open.splice(0).forEach((policy) => policy.dispose());
}

/** Seeded tokens below `vocabulary`, the same for the same name. */
export function tokens(name: string, length: number, vocabulary: number): number[] {
  const random = new Random(17, 'tokens', name);
  return Array.from({ length }, () => random.integer(vocabulary));
}

export const grpoLoss: GrpoLoss = {
  kind: 'grpo',
  type: 'grpo',
  epsilonLow: 0.2,
  epsilonHigh: 0.2,
  beta: 0,
  klBiasCorrection: true,
  ratioLevel: 'token',
  maxCompletionLength: 20,
};

const countedTokens = (groups: readonly TrainingGroup[]): number =>
  groups
    .flatMap(({ rows }) => rows)
    .reduce((sum, { tokenIds, mask }) => sum + tokenIds.filter((_, t) => (mask?.[t] ?? 1) === 1).length, 0);

/** A step's groups as micro-batches of `size` groups, with the totals of the whole step. */
export function split(groups: readonly TrainingGroup[], size: number): MicroBatch[] {
  const parts = Array.from({ length: Math.ceil(groups.length / size) }, (_, i) =>
    groups.slice(i * size, (i + 1) * size),
  );
  const totals = {
    totalRows: groups.reduce((sum, { rows }) => sum + rows.length, 0),
    totalTokens: countedTokens(groups),
    totalMicroBatches: parts.length,
  };
  return parts.map((part) => ({ groups: part, ...totals }));
}

/** The temperature of the losses in these tests. */
export const temperature = 0.8;

/** A row with all that any loss asks for; log-probabilities of others are the policy's own, moved a little. */
function row(name: string, length: number, own: Float32Array, truncated = false): TrainingRow {
  const random = new Random(3, 'row', name);
  const near = (scale: number): number[] => Array.from(own, (value) => value + scale * random.normal());
  return {
    tokenIds: tokens(name, length, 600),
    advantage: random.normal(),
    weights: Array.from(own, () => random.normal() / 10),
    oldLogProbs: near(0.2),
    referenceLogProbs: near(0.3),
    ...(truncated ? { mask: new Float32Array(length) } : {}),
  };
}

/** A step's groups: for each its prompt's length and its completions' lengths. */
export type GroupShapes = readonly [number, number[]][];

/** Prompt lengths and completion lengths, uneven on purpose, around the bucket boundaries. */
export const unevenShapes: GroupShapes = [
  [1, [7]],
  [16, [1, 16, 3]],
  [5, [17, 4]],
  [17, [2, 2, 33, 16]],
];
/** Eight prompts with two completions each. */
export const eightShapes: GroupShapes = Array.from({ length: 8 }, (_, i): [number, number[]] => [
  3 + 4 * i,
  [1 + 3 * i, 20 - 2 * i],
]);

/** Groups of seeded tokens; all tokens of truncated rows are masked out. */
export async function makeGroups(
  policy: LocalPolicy,
  shapes: GroupShapes,
  isTruncated: (name: string) => boolean = () => false,
): Promise<TrainingGroup[]> {
  const groups: TrainingGroup[] = [];
  for (const [g, [promptLength, lengths]] of shapes.entries()) {
    const promptIds = tokens(`prompt ${g}`, promptLength, 600);
    const names = lengths.map((_, r) => `row ${g}.${r}`);
    const own = await policy.logProbs(
      lengths.map((length, r) => ({ promptIds, completionIds: tokens(names[r], length, 600) })),
      { temperature },
    );
    const rows = lengths.map((length, r) => row(names[r], length, own[r], isTruncated(names[r])));
    groups.push({ promptIds, rows });
  }
  return groups;
}

/** The completions of groups, in order. */
export function sequencesOf(groups: readonly TrainingGroup[]): Sequence[] {
  return groups.flatMap(({ promptIds, rows }) =>
    rows.map(({ tokenIds }) => ({ promptIds, completionIds: tokenIds })),
  );
}

/** A step as one micro-batch. */
export const whole = (groups: readonly TrainingGroup[]): MicroBatch[] => split(groups, groups.length);

export const withKl: GrpoLoss = { ...grpoLoss, beta: 0.1 };

/** What a whole step gave: the sums of its shares, its log-probabilities in the groups' order, and its gradient. */
export interface StepOutcome {
  loss: number;
  metrics: Record<string, number>;
  logProbs: Float32Array[];
  gradients: Map<string, Float32Array>;
}

/** Forward and backward over all micro-batches of a step; the pending gradient is cleared by an update of rate 0. */
export async function computeStep(
  policy: LocalPolicy,
  batches: readonly MicroBatch[],
  loss: Loss,
): Promise<StepOutcome> {
  const results: ForwardBackwardResult[] = [];
  for (const batch of batches) results.push(await policy.forwardBackward(batch, loss, { temperature }));
  const gradients = new Map(
    [...policy.pendingGradients()].map(([name, { values }]) => [name, values.slice()]),
  );
  await policy.optimStep({ learningRate: 0 });
  const names = Object.keys(results[0].metrics);
  const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
  return {
    loss: sum(results.map((result) => result.loss)),
    metrics: Object.fromEntries(
      names.map((name) => [name, sum(results.map(({ metrics }) => metrics[name]))]),
    ),
    logProbs: results.flatMap((result) => result.logProbs.flat()),
    gradients,
  };
}

/** Every factor's gradient agrees to `tolerance` (relative to its norm). @returns the largest difference */
export function expectSameGradients(
  actual: ReadonlyMap<string, Float32Array>,
  expected: ReadonlyMap<string, Float32Array>,
  tolerance: number,
): number {
  expect([...actual.keys()]).toEqual([...expected.keys()]);
  expect(expected.size).toBeGreaterThan(0);
  let largest = 0;
  for (const [name, values] of expected) {
    expect(Math.hypot(...values), `${name} has a gradient`).toBeGreaterThan(0);
    const difference = relativeDifference(actual.get(name) as Float32Array, values);
    expect(difference, name).toBeLessThan(tolerance);
    largest = Math.max(largest, difference);
  }
  return largest;
}

/** Every factor's values, copied. */
export function factorValues(policy: LocalPolicy): Map<string, Float32Array> {
  const named = policy.adapter?.named() ?? [];
  return new Map(named.map(([name, variable]) => [name, (variable.dataSync() as Float32Array).slice()]));
}
