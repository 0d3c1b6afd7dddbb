import { afterAll, describe, expect, it } from 'vitest';
import { readGolden } from '../../test/golden';
import { RecordingPolicy, settings as grpoSettings } from '../../test/tabular-task';
import { meanPairwiseDistance } from '../metrics/diversity';
import type { Completion, DrawnCompletion, Prompt, RolloutGroup } from '../policy/policy';
import { TabularPolicy } from '../policy/tabular';
import type { TabularOptions } from '../policy/tabular';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import { freshState } from './loop';
import {
  distinct2,
  oneMinusSelfBleu,
  semanticDistances,
  semanticDiversity,
  trainPolychromic,
} from './polychromic';
import type { PolychromicHooks, PolychromicSettings } from './polychromic';

interface Toy {
  one_step: {
    logits: number[];
    diversity: {
      n: number;
      distance: number[][];
      expected_D: number;
      polychromic: { lambda: number; target: number; grad: number[] };
    };
  };
  two_steps: {
    step1_logits: number[];
    step2_logits_given_step1: number[][];
    sequences: number[][];
    distance: number[][];
    n: number;
    grad_expected_D_step1: number[];
    grad_expected_D_step2: number[][];
  };
}

const { one_step: one, two_steps: two } = readGolden<Toy>('toy-grpo.json');
const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

const PROMPT = [7];
const IMPOSSIBLE = -1e9;

/** Every step has the diversity term, of one prompt, and moves nothing. */
const settings: PolychromicSettings = {
  ...{ ...grpoSettings, learningRate: 0, clipNorm: 0, batchSize: 1, maxSteps: 1 },
  ...{ lambda: 1, diversityEvery: 1, diversityExamples: 1, generations: 3 },
  ...{ temperature: 1, topP: 1, maxNewTokens: 2, credit: 'leave_one_out' },
};

/** "Draws" the completions that it is told to. */
class ChosenPolicy extends RecordingPolicy {
  chosen: number[][] = [];

  override sample(prompts: readonly Prompt[]): Promise<RolloutGroup<DrawnCompletion>[]> {
    const none = new Float32Array();
    const completions = this.chosen.map((tokenIds): DrawnCompletion => ({
      ...{ tokenIds, logProbs: none, temperedLogProbs: none, drawLogProbs: none, finishReason: 'length' },
    }));
    return Promise.resolve(prompts.map((prompt) => ({ prompt, completions })));
  }
}

/** Every group of n completions, with its probability; impossible ones are left out. */
function everyGroup(
  policy: TabularPolicy,
  n: number,
  temperature = 1,
): { members: number[][]; probability: number }[] {
  if (n === 0) return [{ members: [], probability: 1 }];
  const completions = policy.enumerate(PROMPT, { temperature }).filter((one) => one.probability > 0);
  return everyGroup(policy, n - 1, temperature).flatMap(({ members, probability }) =>
    completions.map((completion) => ({
      members: [...members, completion.tokenIds],
      probability: probability * completion.probability,
    })),
  );
}

/** E over all groups of the gradient that one step of the trainer applies, for logits of `prefixes` in turn. */
async function expectedGradient(
  table: TabularOptions,
  prefixes: number[][],
  target: number[],
  asked: PolychromicSettings,
  hooks: PolychromicHooks,
): Promise<number[]> {
  const examples = [{ id: 'e', promptIds: PROMPT, completionIds: target }];
  const policy = new ChosenPolicy(table);
  policy.states = prefixes.map((prefix) => [PROMPT, prefix]);
  const groups = everyGroup(policy, asked.generations, asked.temperature);
  for (const { members } of groups) {
    policy.chosen = members;
    await trainPolychromic(policy, examples, asked, hooks);
  }
  return policy.gradients[0].map((_, i) =>
    groups.reduce((sum, { probability }, g) => sum + probability * policy.gradients[g][i], 0),
  );
}

/** The gradient of the SFT part alone. */
function qualityGradient(...[table, prefixes, target, asked, hooks]: Parameters<typeof expectedGradient>) {
  return expectedGradient(table, prefixes, target, { ...asked, generations: 2, lambda: 0 }, hooks);
}

function expectClose(got: readonly number[], expected: readonly number[], tolerance = 1e-6): void {
  expect(got).toHaveLength(expected.length);
  expected.forEach((value, i) => expect(Math.abs(got[i] - value), `logit ${i}`).toBeLessThan(tolerance));
}

/** Distances of a table as hooks; `indexOf` finds a completion in it. */
function tableHooks(distance: number[][], indexOf: (tokenIds: number[]) => number): PolychromicHooks {
  const distances = (completions: readonly Completion[]): Promise<number[][]> => {
    const members = completions.map(({ tokenIds }) => indexOf(tokenIds));
    return Promise.resolve(members.map((a) => members.map((b) => distance[a][b])));
  };
  const diversity = async (completions: readonly Completion[]): Promise<number> => {
    const matrix = await distances(completions);
    const pairs = matrix.flatMap((row, i) => row.slice(i + 1));
    return pairs.reduce((a, b) => a + b, 0) / pairs.length;
  };
  return { diversity, distances };
}

describe('the step of polychromic training, averaged over all draws, against enumeration in torch', () => {
  const credits = ['leave_one_out', 'pairs'] as const;

  it.each(credits)('has the gradient of L_sft - lambda E[D]: %s', async (credit) => {
    const { n, distance, polychromic } = one.diversity;
    const table = { prompts: [PROMPT], vocabularySize: one.logits.length, maxLength: 1 };
    const asked = { ...settings, credit, generations: n, lambda: polychromic.lambda };
    const hooks = tableHooks(distance, ([action]) => action);
    const initialLogits = (): number[] => one.logits;
    const got = await expectedGradient({ ...table, initialLogits }, [[]], [polychromic.target], asked, hooks);
    expectClose(got, polychromic.grad);
  });

  it.each(credits)('has it for completions of two tokens: %s', async (credit) => {
    const size = two.step1_logits.length;
    const actions = two.step2_logits_given_step1[0].length;
    const fill = (logits: number[]): number[] =>
      Array.from({ length: size }, (_, id) => logits[id] ?? IMPOSSIBLE);
    const table: TabularOptions = {
      ...{ prompts: [PROMPT], vocabularySize: size, maxLength: 2 },
      initialLogits: (_prompt, prefix) =>
        fill(prefix.length === 0 ? two.step1_logits : two.step2_logits_given_step1[prefix[0]]),
    };
    const prefixes = [[], ...two.step2_logits_given_step1.map((_, first) => [first])];
    const keys = two.sequences.map((sequence) => sequence.join());
    const hooks = tableHooks(two.distance, (tokenIds) => keys.indexOf(tokenIds.join()));
    const asked = { ...settings, credit, generations: two.n, lambda: 0.7 };
    const exact = [two.grad_expected_D_step1, ...two.grad_expected_D_step2];
    const whole = await expectedGradient(table, prefixes, [0, 0], asked, hooks);
    const quality = await qualityGradient(table, prefixes, [0, 0], asked, hooks);
    const expected = exact.flatMap((row) => Array.from({ length: size }, (_, id) => -0.7 * (row[id] ?? 0)));
    expect(actions).toBeLessThan(size);
    expectClose(
      whole.map((g, i) => g - quality[i]),
      expected,
    );
  });
});

describe('the step of polychromic training, averaged over all draws, against finite differences of E[D]', () => {
  const END = 2;
  const words = ['rain', 'or sun and wind'];
  const textOf = ({ tokenIds }: Pick<Completion, 'tokenIds'>): string =>
    tokenIds.flatMap((id) => words[id] ?? []).join(' ');
  /** Counts of letters: no text but the empty one has zeros. */
  const embed = (text: string): Promise<number[]> =>
    Promise.resolve(['r', 's', 'w'].map((letter) => text.split(letter).length - 1));
  const prefixes = [[], [0], [1]];
  const temperature = 0.9;

  const table = (shift: readonly number[] = []): TabularOptions => ({
    ...{ prompts: [PROMPT], vocabularySize: 3, maxLength: 2, stopTokenIds: [END] },
    initialLogits: (_prompt, prefix) => {
      const random = new Random(3, prefix.join());
      const state = prefixes.findIndex((known) => known.join() === prefix.join());
      return [0, 1, 2].map((id) => random.normal() + (shift[state * 3 + id] ?? 0));
    },
  });

  /** D of a group of completions, by the trainer's own hook or by a direct computation. */
  type MeasureTokens = (members: number[][]) => Promise<number>;

  async function exactGradient(n: number, measure: MeasureTokens): Promise<number[]> {
    const values = new Map<string, number>();
    const expected = async (shift: number[]): Promise<number> => {
      let sum = 0;
      for (const { members, probability } of everyGroup(new TabularPolicy(table(shift)), n, temperature)) {
        const key = members.join(' / ');
        if (!values.has(key)) values.set(key, await measure(members));
        sum += probability * (values.get(key) as number);
      }
      return sum;
    };
    const h = 1e-4;
    const gradient: number[] = [];
    for (let i = 0; i < prefixes.length * 3; i++) {
      const shift = (by: number): number[] => Array.from({ length: i + 1 }, (_, j) => (i === j ? by : 0));
      gradient.push(((await expected(shift(h))) - (await expected(shift(-h)))) / (2 * h));
    }
    return gradient;
  }

  const semantic = semanticDiversity(textOf, embed);
  const squares = (group: readonly Completion[]): number =>
    new Set(group.map(({ tokenIds }) => tokenIds.join())).size ** 2;
  const cases: [string, PolychromicHooks, number, PolychromicSettings['credit']][] = [
    ['semantic', { diversity: semantic }, 3, 'leave_one_out'],
    ['1 - self-BLEU', { diversity: oneMinusSelfBleu(textOf) }, 3, 'leave_one_out'],
    ['distinct-2', { diversity: distinct2(textOf) }, 3, 'leave_one_out'],
    ['semantic by pairs', { diversity: semantic, distances: semanticDistances(textOf, embed) }, 3, 'pairs'],
    ['semantic of two', { diversity: semantic }, 2, 'leave_one_out'],
    ['1 - self-BLEU of two', { diversity: oneMinusSelfBleu(textOf) }, 2, 'leave_one_out'],
    ['different completions, squared', { diversity: squares }, 3, 'leave_one_out'],
  ];

  it.each(cases)(
    'is the gradient of -lambda E[D] at the sampling temperature: %s',
    async (_name, hooks, n, credit) => {
      const asked = { ...settings, temperature, generations: n, credit, lambda: 1.3 };
      // A running mean that groups before have left: it is the same for every group that is drawn now.
      const carried = { diversity_mean: 0.37, diversity_groups: 9 };
      const resumed = n === 2 ? { ...hooks, resume: { ...freshState, carried } } : hooks;
      const whole = await expectedGradient(table(), prefixes, [0, END], asked, resumed);
      const quality = await qualityGradient(table(), prefixes, [0, END], asked, hooks);
      const exact = await exactGradient(n, async (members) =>
        hooks.diversity(members.map((tokenIds) => ({ tokenIds }) as Completion)),
      );
      expect(Math.hypot(...exact)).toBeGreaterThan(0.02); // far above the tolerance
      expectClose(
        whole.map((g, i) => g - quality[i]),
        exact.map((g) => -1.3 * g),
      );
    },
  );

  it('measures the mean pairwise distance of what speaks', async () => {
    const members = [[0, END], [1, END], [1, 0]].map((tokenIds) => ({ tokenIds }) as Completion); // prettier-ignore
    const vectors = await Promise.all(members.map((completion) => embed(textOf(completion))));
    expect(await semantic(members)).toBeCloseTo(meanPairwiseDistance(vectors) as number, 12);
  });
});
