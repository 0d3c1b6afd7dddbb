/** `grpolab bench`: seconds of a GRPO step, an SFT step or sampling, on random token prompts of a given shape. */
import { LocalPolicy } from '../policy/local';
import type { SampleOptions, TrainingGroup } from '../policy/policy';
import type { GrpoLoss } from '../optim/losses';
import { groupAdvantages } from '../optim/advantages';
import { strictJson } from '../runtime/files';
import { defaultMode } from '../runtime/compile';
import { Progress } from '../runtime/progress';
import { Random } from '../runtime/random';
import { binding } from '../runtime/tf';
import { Stopwatch } from '../train/loop';
import { LORA_TARGETS } from '../model/peft';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { openModelDirectory } from './open-model';

interface Shape {
  P: number;
  G: number;
  Tp: number;
  Tc: number;
}

/** `P=4,G=4,Tp=96,Tc=48`: prompts, completions a prompt, tokens of a prompt, tokens of a completion. */
export function parseShape(text: string): Shape {
  const shape: Record<string, number> = {};
  for (const part of text.split(',')) {
    const match = /^(P|G|Tp|Tc)=(\d+)$/.exec(part.trim());
    if (match === null || Number(match[2]) < 1)
      throw new UsageError(`--shape is "${text}"; expected P=4,G=4,Tp=96,Tc=48 with integers >= 1`, 'bench');
    shape[match[1]] = Number(match[2]);
  }
  for (const name of ['P', 'G', 'Tp', 'Tc'])
    if (shape[name] === undefined)
      throw new UsageError(`--shape lacks ${name}; expected P=4,G=4,Tp=96,Tc=48`, 'bench');
  return shape as unknown as Shape;
}

const loss = (shape: Shape): GrpoLoss => ({
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0.1, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: shape.Tc },
});

const update = { learningRate: 1e-5, weightDecay: 0.01, clipNorm: 1 };

/** Runs one step of what is measured and adds up its phases; completions have exactly Tc tokens. */
async function runStep(
  what: string,
  policy: LocalPolicy,
  shape: Shape,
  step: number,
  watch: Stopwatch,
): Promise<void> {
  const random = new Random(1, 'bench', step);
  const vocabulary = policy.config.vocabSize;
  const ids = (n: number): number[] => Array.from({ length: n }, () => random.integer(vocabulary));
  const prompts = Array.from({ length: shape.P }, (_, p) => ({
    id: `${step} ${p}`,
    tokenIds: ids(shape.Tp),
  }));
  const totals = {
    totalRows: shape.P * shape.G,
    totalTokens: shape.P * shape.G * shape.Tc,
    totalMicroBatches: 1,
  };
  if (what === 'sft') {
    const groups = prompts.flatMap(({ tokenIds }) =>
      Array.from({ length: shape.G }, () => ({ promptIds: tokenIds, rows: [{ tokenIds: ids(shape.Tc) }] })),
    );
    await watch.measure('forward_backward', () =>
      policy.forwardBackward({ groups, ...totals }, { kind: 'cross_entropy' }),
    );
    await watch.measure('optimizer', () => policy.optimStep(update));
    return;
  }
  const options: SampleOptions = {
    ...{
      groupSize: shape.G,
      temperature: 0.8,
      topP: 0.9,
      maxNewTokens: shape.Tc,
      minNewTokens: shape.Tc,
      seed: step,
    },
    stopTokenIds: [],
  };
  const rollouts = await watch.measure('generate', () => policy.sample(prompts, options));
  if (what === 'generate') return;
  const sequences = rollouts.flatMap(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => ({ promptIds: prompt.tokenIds, completionIds: tokenIds })),
  );
  const reference = await watch.measure('reference', () =>
    policy.logProbs(sequences, { of: 'reference', temperature: 0.8 }),
  );
  const rewards = rollouts.map(({ completions }) =>
    completions.map(({ tokenIds }) => (tokenIds[0] % 1000) / 1000),
  );
  const advantages = shape.G > 1 ? groupAdvantages(rewards) : rewards;
  const groups: TrainingGroup[] = rollouts.map(({ prompt, completions }, p) => ({
    promptIds: prompt.tokenIds,
    rows: completions.map(({ tokenIds }, g) => ({
      ...{ tokenIds, advantage: advantages[p][g], referenceLogProbs: reference[p * shape.G + g] },
    })),
  }));
  await watch.measure('forward_backward', () =>
    policy.forwardBackward({ groups, ...totals }, loss(shape), { temperature: 0.8 }),
  );
  await watch.measure('optimizer', () => policy.optimStep(update));
}

function summary(seconds: readonly number[]): { median_s: number; min_s: number; all_s: number[] } {
  const sorted = [...seconds].sort((a, b) => a - b);
  const middle =
    (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  return { median_s: middle, min_s: sorted[0], all_s: [...seconds] };
}

export async function bench(args: Arguments, io: Io): Promise<number> {
  const what = args.choice('what', ['grpo', 'sft', 'generate']);
  const shape = parseShape(args.required('shape'));
  const steps = args.integer('steps', { min: 1 });
  const modelDirectory = await openModelDirectory(args, io);
  const lora = {
    ...{ base_model_name_or_path: null, r: 16, lora_alpha: 16, lora_dropout: 0, use_rslora: false },
    target_modules: [...LORA_TARGETS],
  };
  const policy = LocalPolicy.load({ modelDirectory, lora });
  policy.freezeReference();
  const warmup = 2;
  const progress = new Progress({
    label: `bench ${what}`,
    unit: 'steps',
    total: steps + warmup,
    stream: io.stderr,
    quiet: args.flag('quiet'),
  });
  const watches: Stopwatch[] = [];
  try {
    for (let step = 0; step < steps + warmup; step++) {
      checkInterrupt(io);
      const watch = new Stopwatch();
      await runStep(what, policy, shape, step, watch);
      if (step >= warmup) watches.push(watch);
      progress.update(step + 1);
    }
    progress.finish();
  } finally {
    progress.close();
    policy.dispose();
  }
  const phases = Object.keys(watches[0].seconds);
  const step = summary(watches.map(({ seconds }) => Object.values(seconds).reduce((a, b) => a + b, 0)));
  const result = {
    ...{ what, shape, backend: binding.isUsingGpuDevice() ? 'gpu' : 'cpu', mode: defaultMode(), step },
    phases: Object.fromEntries(
      phases.map((name) => [name, summary(watches.map(({ seconds }) => seconds[name]))]),
    ),
    tokens_per_s: (shape.P * shape.G * shape.Tc) / step.median_s,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
  };
  const output = new LineWriter(io.stdout);
  if (args.flag('json')) await output.line(strictJson(result));
  else {
    await output.line(
      `${what}, ${result.mode} on ${result.backend}: ${step.median_s.toFixed(3)} s a step (min ${step.min_s.toFixed(3)})`,
    );
    for (const [name, { median_s: median, min_s: min }] of Object.entries(result.phases))
      await output.line(`  ${name.padEnd(16)} ${median.toFixed(3)} s (min ${min.toFixed(3)})`);
    await output.line(
      `${result.tokens_per_s.toFixed(0)} completion tokens/s, peak RSS ${(result.peak_rss_bytes / 2 ** 30).toFixed(2)} GiB`,
    );
  }
  await output.flush();
  return 0;
}
