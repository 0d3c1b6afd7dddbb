/**
 * The seam between a training loop and a model: six verbs, and nothing else is known of the model. Implementations:
 * local (Qwen3 on TensorFlow), tabular (small enough to enumerate, for proofs), tinker (a server that trains).
 */
import type { Loss } from '../optim/losses';

/** A prompt to continue. `id` and `visit` (epoch or resample count) decide its random draws, not its place in a batch. */
export interface Prompt {
  id: string;
  tokenIds: readonly number[];
  visit?: number;
}

/** How to sample. */
export interface SampleOptions {
  /** Completions a prompt. */
  groupSize: number;
  /** 0 takes the likeliest token (greedy). */
  temperature: number;
  /** Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all. */
  topP?: number;
  /** Keep this many likeliest tokens; 0 keeps all. */
  topK?: number;
  /** Tokens a completion, at most. */
  maxNewTokens: number;
  /** End tokens are not drawn before this many tokens. */
  minNewTokens?: number;
  /** Tokens that end a completion (and are part of it); default: the model's end tokens. */
  stopTokenIds?: readonly number[];
  seed: number;
  /** Names the use, so that evaluation and training draw different numbers at one seed. */
  stream?: string;
  /** Called with the share of the work that is done, 0..1. */
  onProgress?: (share: number) => void;
  signal?: AbortSignal;
}

/** One sampled completion. Every log-probability is natural. */
export interface Completion {
  /** The drawn tokens, the end token included when there is one. */
  tokenIds: number[];
  /** [T] log-probabilities at temperature 1 over the whole vocabulary. */
  logProbs: Float32Array;
  /** `stop`: an end token was drawn; `length`: the limit was reached. */
  finishReason: 'stop' | 'length';
}

/** One with all that is known of its draws where we draw ourselves; a server tells less. */
export interface DrawnCompletion extends Completion {
  /** [T] log-probabilities of logits / temperature over the whole vocabulary. */
  temperedLogProbs: Float32Array;
  /** [T] log-probabilities with which the tokens were really drawn: after temperature, top-k and top-p. */
  drawLogProbs: Float32Array;
}

/** The completions of one prompt. */
export interface RolloutGroup<C extends Completion = Completion> {
  prompt: Prompt;
  completions: C[];
}

/** A prompt and what follows it; log-probabilities are of the completion's tokens. */
export interface Sequence {
  promptIds: readonly number[];
  completionIds: readonly number[];
}

/** One row of a micro-batch: a completion with what its loss needs. */
export interface TrainingRow {
  tokenIds: readonly number[];
  /** 1 for tokens that count in the loss, 0 for others; default all 1. */
  mask?: ArrayLike<number>;
  /** Per-token weights of a `weighted` loss. */
  weights?: ArrayLike<number>;
  advantage?: number;
  /** Log-probabilities under the policy that sampled; absent: those of this very pass (one update a batch). */
  oldLogProbs?: ArrayLike<number>;
  /** Log-probabilities under the reference; needed when the loss has beta > 0. */
  referenceLogProbs?: ArrayLike<number>;
}

/** The rows of one prompt; their prompt is computed once. */
export interface TrainingGroup {
  /** Decides the dropout masks; default: no dropout. */
  dropoutKey?: { seed: number; example: string; visit: number };
  promptIds: readonly number[];
  rows: TrainingRow[];
}

/** A part of an optimiser step's batch. The totals are those of the whole step, so that splitting changes nothing. */
export interface MicroBatch {
  groups: TrainingGroup[];
  totalRows: number;
  totalTokens: number;
  totalMicroBatches: number;
}

/** What a forward and backward pass tells. */
export interface ForwardBackwardResult {
  /** This micro-batch's share of the step's loss. */
  loss: number;
  /** The loss's own parts and diagnostics, e.g. `policy_loss`, `kl_loss`, `clip_fraction`. */
  metrics: Record<string, number>;
  /** [groups][rows] log-probabilities of the completion tokens at the loss's temperature. */
  logProbs: Float32Array[][];
  /** [groups][rows] entropies (nats) of the distributions of the completion tokens; null where a server does not tell. */
  entropies: Float32Array[][] | null;
}

/** The result where distributions are seen whole. */
export type FullForwardBackwardResult = ForwardBackwardResult & { entropies: Float32Array[][] };

/** One AdamW step. */
export interface OptimStepOptions {
  learningRate: number;
  betas?: readonly [number, number];
  eps?: number;
  weightDecay?: number;
  /** Gradients are scaled down to this global norm; 0 leaves them. */
  clipNorm?: number;
}

/** What a step of the optimiser did. */
export interface OptimStepResult {
  /** Global norm before clipping. */
  gradNorm: number;
  /** True when the gradient was not finite and nothing was updated. */
  skipped: boolean;
}

/**
 * What a training loop knows of a model: six verbs. Gradients add up over `forwardBackward` until `optimStep`, which
 * applies and clears them.
 */
export interface Policy {
  sample(prompts: readonly Prompt[], options: SampleOptions): Promise<RolloutGroup[]>;
  /**
   * @returns for each sequence [T], natural log-probabilities of the completion's tokens
   * `reference` is the frozen warm start, or the bare model when there is none.
   */
  logProbs(
    sequences: readonly Sequence[],
    options?: { of?: 'policy' | 'reference'; temperature?: number },
  ): Promise<Float32Array[]>;
  /** Adds this micro-batch's gradient to the pending one. `temperature` divides the logits first. */
  forwardBackward(
    batch: MicroBatch,
    loss: Loss,
    options?: { temperature?: number },
  ): Promise<ForwardBackwardResult>;
  /** Applies the pending gradient and clears it. */
  optimStep(options: OptimStepOptions): Promise<OptimStepResult>;
  /** Writes what was trained. With `optimiser` its moments too, so that `load` goes on to the same bits. */
  save(directory: string, options?: { optimiser?: boolean }): Promise<void>;
  load(directory: string, options?: { optimiser?: boolean }): Promise<void>;
}

/** A policy that a run opens, and frees when it is done. */
export interface RunPolicy extends Policy {
  /** Makes what the policy is now the reference of `logProbs(..., {of: 'reference'})`. Before the first step. */
  freezeReference(): void;
  dispose(): void | Promise<void>;
}
