/** `grpolab bench`: seconds of a GRPO step, an SFT step or sampling, on random token prompts of a given shape. */
import { LocalPolicy } from '../policy/local';
import type { RolloutGroup, TrainingGroup } from '../policy/policy';
import type { GrpoLoss } from '../optim/losses';
import { groupAdvantages } from '../optim/advantages';
import { strictJson } from '../runtime/files';
import { defaultMode } from '../runtime/compile';
import { describeMachine } from '../runtime/machine';
import { profiled } from '../runtime/profile';
import type { OpProfile } from '../runtime/profile';
import { Progress } from '../runtime/progress';
import { Random } from '../runtime/random';
import { binding } from '../runtime/tf';
import { Stopwatch } from '../train/loop';
import type { ModelConfig } from '../model/config';
import { planMemory } from '../model/memory';
import type { PassOptions, StepShape } from '../model/memory';
import { LORA_TARGETS } from '../model/peft';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { baseWeights } from './load-policy';
import { loadBar, openModelDirectory } from './open-model';
import { parseShape } from './shape';

/** Of the adapter. */
const RANK = 16;

const loss = (shape: StepShape): GrpoLoss => ({
  ...{ kind: 'grpo', type: 'dapo', epsilonLow: 0.2, epsilonHigh: 0.2, beta: 0.1, klBiasCorrection: true },
  ...{ ratioLevel: 'token', maxCompletionLength: shape.Tc },
});

const update = { learningRate: 1e-5, weightDecay: 0.01, clipNorm: 1 };

const totalsOf = ({ P, G, Tc }: StepShape) => ({
  totalRows: P * G,
  totalTokens: P * G * Tc,
  totalMicroBatches: 1,
});

/** One SFT step on P * G sequences. */
async function sftStep(
  policy: LocalPolicy,
  shape: StepShape,
  ids: (n: number) => number[],
  watch: Stopwatch,
): Promise<void> {
  const groups = Array.from({ length: shape.P * shape.G }, () => ({
    promptIds: ids(shape.Tp),
    rows: [{ tokenIds: ids(shape.Tc) }],
  }));
  const batch = { groups, ...totalsOf(shape) };
  await watch.measure('forward_backward', () => policy.forwardBackward(batch, { kind: 'cross_entropy' }));
  await watch.measure('optimizer', () => policy.optimStep(update));
}

/** Completions of exactly Tc tokens. */
function generate(
  policy: LocalPolicy,
  shape: StepShape,
  ids: (n: number) => number[],
  step: number,
): Promise<RolloutGroup[]> {
  const prompts = Array.from({ length: shape.P }, (_, p) => ({
    id: `${step} ${p}`,
    tokenIds: ids(shape.Tp),
  }));
  return policy.sample(prompts, {
    ...{
      groupSize: shape.G,
      temperature: 0.8,
      topP: 0.9,
      maxNewTokens: shape.Tc,
      minNewTokens: shape.Tc,
      seed: step,
    },
    stopTokenIds: [],
  });
}

/** Reference log-probabilities, forward and backward, and the update, on rollouts with a cheap reward. */
async function grpoUpdate(
  policy: LocalPolicy,
  shape: StepShape,
  rollouts: RolloutGroup[],
  watch: Stopwatch,
): Promise<void> {
  const sequences = rollouts.flatMap(({ prompt, completions }) =>
    completions.map(({ tokenIds }) => ({ promptIds: prompt.tokenIds, completionIds: tokenIds })),
  );
  const options = { of: 'reference', temperature: 0.8 } as const;
  const reference = await watch.measure('reference', () => policy.logProbs(sequences, options));
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
  const batch = { groups, ...totalsOf(shape) };
  await watch.measure('forward_backward', () =>
    policy.forwardBackward(batch, loss(shape), { temperature: 0.8 }),
  );
  await watch.measure('optimizer', () => policy.optimStep(update));
}

/** Runs one step of what is measured and adds up its phases. */
async function runStep(
  what: string,
  policy: LocalPolicy,
  shape: StepShape,
  step: number,
  watch: Stopwatch,
): Promise<void> {
  const random = new Random(1, 'bench', step);
  const ids = (n: number): number[] =>
    Array.from({ length: n }, () => random.integer(policy.config.vocabSize));
  if (what === 'sft') return sftStep(policy, shape, ids, watch);
  const rollouts = await watch.measure('generate', () => generate(policy, shape, ids, step));
  if (what === 'grpo') await grpoUpdate(policy, shape, rollouts, watch);
}

/** The plan of what is measured; of sampling alone there is none. */
function plannedBytes(what: string, config: ModelConfig, shape: StepShape, pass: PassOptions): number | null {
  if (what === 'generate') return null;
  const options = { ...pass, fused: defaultMode() === 'graph' && !binding.isUsingGpuDevice() };
  if (what === 'grpo') return planMemory(config, shape, RANK, options).total;
  return planMemory(config, { ...shape, P: shape.P * shape.G, G: 1 }, RANK, { ...options, sampled: [] })
    .total;
}

const peakBytes = (): number => process.resourceUsage().maxRSS * 1024;

/** What is in use of the first GPU, where the weights are, by this process and others; null on a CPU. */
function gpuBytes(): number | null {
  if (!binding.isUsingGpuDevice()) return null;
  const [gpu] = describeMachine().gpus;
  return gpu === undefined ? null : gpu.memoryTotalBytes - gpu.memoryFreeBytes;
}

function summary(seconds: readonly number[]): { median_s: number; min_s: number; all_s: number[] } {
  const sorted = [...seconds].sort((a, b) => a - b);
  const middle =
    (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  return { median_s: middle, min_s: sorted[0], all_s: [...seconds] };
}

/** Runs and measures `steps` steps after those that warm up. */
async function measureSteps(
  what: string,
  policy: LocalPolicy,
  shape: StepShape,
  steps: number,
  args: Arguments,
  io: Io,
): Promise<{ watches: Stopwatch[]; ops: OpProfile[] | undefined }> {
  const warmup = args.integer('warmup', { min: 0 });
  const total = steps + warmup;
  const progress = new Progress({
    label: `bench ${what}`,
    unit: 'steps',
    total,
    stream: io.stderr,
    quiet: args.flag('quiet'),
  });
  const watches: Stopwatch[] = [];
  try {
    for (let step = 0; step < total; step++) {
      checkInterrupt(io);
      const watch = new Stopwatch();
      await runStep(what, policy, shape, step, watch);
      if (step >= warmup) watches.push(watch);
      progress.update(step + 1);
    }
    progress.finish();
    if (!args.flag('profile')) return { watches, ops: undefined };
    const { ops } = await profiled(() => runStep(what, policy, shape, total, new Stopwatch()));
    return { watches, ops };
  } finally {
    progress.close();
  }
}

export async function bench(args: Arguments, io: Io): Promise<number> {
  const what = args.choice('what', ['grpo', 'sft', 'generate']);
  const shape = parseShape(args.required('shape'), 'bench');
  const steps = args.integer('steps', { min: 1 });
  const weights = baseWeights(args);
  const modelDirectory = await openModelDirectory(args, io);
  const lora = {
    ...{ base_model_name_or_path: null, r: RANK, lora_alpha: 16, lora_dropout: 0, use_rslora: false },
    target_modules: [...LORA_TARGETS],
  };
  const gradientCheckpointing = args.flag('recompute');
  const start = performance.now();
  const policy = LocalPolicy.load({
    onLoad: loadBar(args, io),
    modelDirectory,
    lora,
    ...weights,
    gradientCheckpointing,
  });
  const load = { seconds: (performance.now() - start) / 1000, peak_rss_bytes: peakBytes() };
  policy.freezeReference();
  const { watches, ops } = await measureSteps(what, policy, shape, steps, args, io).finally(() =>
    policy.dispose(),
  );
  const phases = Object.keys(watches[0].seconds);
  const step = summary(watches.map(({ seconds }) => Object.values(seconds).reduce((a, b) => a + b, 0)));
  const pass = { dtype: weights.dtype, recompute: gradientCheckpointing };
  const result = {
    ...{ what, shape, backend: binding.isUsingGpuDevice() ? 'gpu' : 'cpu', mode: defaultMode() },
    ...{ dtype: weights.dtype, matmul_precision: weights.matmulPrecision },
    ...{ recompute: gradientCheckpointing, load, step },
    phases: Object.fromEntries(
      phases.map((name) => [name, summary(watches.map(({ seconds }) => seconds[name]))]),
    ),
    tokens_per_s: (shape.P * shape.G * shape.Tc) / step.median_s,
    peak_rss_bytes: peakBytes(),
    gpu_bytes: gpuBytes(),
    planned_bytes: plannedBytes(what, policy.config, shape, pass),
    ...(ops === undefined ? {} : { ops }),
  };
  const output = new LineWriter(io.stdout);
  for (const line of args.flag('json') ? [strictJson(result)] : readable(result)) await output.line(line);
  await output.flush();
  return 0;
}

interface BenchResult {
  what: string;
  mode: string;
  backend: string;
  dtype: string;
  matmul_precision: string;
  recompute: boolean;
  load: { seconds: number; peak_rss_bytes: number };
  step: { median_s: number; min_s: number };
  phases: Record<string, { median_s: number; min_s: number }>;
  tokens_per_s: number;
  peak_rss_bytes: number;
  gpu_bytes: number | null;
  planned_bytes: number | null;
  ops?: OpProfile[];
}

/** The ops that take the most time, and what is left, as lines of a table. */
function profileLines(ops: readonly OpProfile[], shown = 15): string[] {
  const total = ops.reduce((sum, { seconds }) => sum + seconds, 0);
  const line = (op: string, count: number, seconds: number): string =>
    `  ${op.padEnd(24)} ${String(count).padStart(6)} ${(1000 * seconds).toFixed(2).padStart(10)} ms ` +
    `${((100 * seconds) / total).toFixed(1).padStart(5)} %`;
  const rest = ops.slice(shown);
  const sum = (key: 'count' | 'seconds'): number => rest.reduce((all, each) => all + each[key], 0);
  return [
    'one step by op (times run, sum of their times, share)',
    ...ops.slice(0, shown).map(({ op, count, seconds }) => line(op, count, seconds)),
    ...(rest.length === 0 ? [] : [line(`${rest.length} others`, sum('count'), sum('seconds'))]),
  ];
}

function readable({
  what,
  mode,
  backend,
  dtype,
  matmul_precision: precision,
  recompute,
  load,
  step,
  phases,
  tokens_per_s: rate,
  peak_rss_bytes: peak,
  gpu_bytes: onGpu,
  planned_bytes: planned,
  ops,
}: BenchResult): string[] {
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  const products = precision === 'float32' ? '' : `, products in ${precision}`;
  const used = onGpu === null ? '' : `, in use on the GPU ${gib(onGpu)}`;
  const how = `${mode} on ${backend}, weights in ${dtype}${products}${recompute ? ', layers recomputed' : ''}`;
  return [
    `loaded in ${load.seconds.toFixed(1)} s, peak RSS ${gib(load.peak_rss_bytes)}`,
    `${what}, ${how}: ${step.median_s.toFixed(3)} s a step (min ${step.min_s.toFixed(3)})`,
    ...Object.entries(phases).map(
      ([name, { median_s: median, min_s: min }]) =>
        `  ${name.padEnd(16)} ${median.toFixed(3)} s (min ${min.toFixed(3)})`,
    ),
    `${rate.toFixed(0)} completion tokens/s, peak RSS ${gib(peak)}${used}${planned === null ? '' : ` (planned ${gib(planned)})`}`,
    ...(ops === undefined ? [] : profileLines(ops)),
  ];
}
