/**
 * The operations of the Tinker protocol that a policy needs: their bodies, and the forms of their results.
 * Source: the API of SkyRL tx 0.3.0, and of the `tinker` package 0.24.
 */
import { z } from 'zod';
import type { OptimStepOptions, Sequence } from './policy';
import type { Operation } from './tinker-client';

/** The server's scale is alpha / rank with this alpha, whatever is asked for. */
export const TINKER_ALPHA = 32;

/** What comes at once when a model is asked for. */
export const modelAnswer = z.object({ model_id: z.string().min(1) });

const nothing = z.unknown();
const lora = z.object({ rank: z.number().optional(), alpha: z.number().optional() });
const modelResult = z.object({ lora_config: lora.optional() });
const passResult = z.object({
  loss_fn_outputs: z.array(z.object({ logprobs: z.object({ data: z.array(z.number()) }) })),
});
const stepResult = z.object({ metrics: z.record(z.string(), z.number().nullable()).nullish() });
const stateResult = z.object({ path: z.string().startsWith('tinker://') });
const samplerResult = z.object({ sampling_session_id: z.string().min(1) });
const sampleResult = z.object({
  sequences: z.array(z.object({ tokens: z.array(z.int()), logprobs: z.array(z.number()) })),
});

/** A row for a pass. */
export type Datum = Record<string, unknown>;

function modelInput(tokens: readonly number[]): Record<string, unknown> {
  return { chunks: [{ type: 'encoded_text', tokens: [...tokens] }] };
}

/**
 * Inputs t[0..n-2], targets t[1..n-1], and arrays of that length which are 0 on the prompt. The weights are always sent:
 * without them a server counts the prompt, too.
 * @param values  [T] by name, such as `advantages`
 */
export function datum(
  { promptIds, completionIds }: Sequence,
  values: Record<string, ArrayLike<number>> = {},
): Datum {
  const tokens = [...promptIds, ...completionIds];
  const before = new Array<number>(promptIds.length - 1).fill(0);
  const padded = (own: ArrayLike<number>) => ({ data: [...before, ...Array.from(own)] });
  return {
    model_input: modelInput(tokens.slice(0, -1)),
    loss_fn_inputs: {
      target_tokens: { data: tokens.slice(1) },
      weights: padded(completionIds.map(() => 1)),
      ...Object.fromEntries(Object.entries(values).map(([name, own]) => [name, padded(own)])),
    },
  };
}

/** One request for completions of a prompt. */
export interface SampleRequest {
  tokens: readonly number[];
  count: number;
  /** of the first completion; the next ones have the next numbers */
  seed: number;
  maxTokens: number;
  temperature: number;
  topP: number;
  /** 0 keeps all */
  topK: number;
  stop: readonly number[];
  /** What `saveForSampling` gave. */
  sampler: string;
  /** A number of its own within the sampler. */
  sequence: number;
}

/** Operations are made once, and started once; only the `repeatable` ones may be sent twice. */
export const tinker = {
  createModel: (session: string, baseModel: string, config: { rank: number; seed: number }) =>
    operation(
      'create_model',
      { session_id: session, base_model: baseModel, lora_config: config },
      modelResult,
    ),

  unloadModel: (model: string) => repeatable('unload_model', { model_id: model }, nothing),

  /** Adapter and optimiser. A name is taken once an attempt arrived, so each has another. */
  saveWeights: (model: string, name: () => string) =>
    repeatable('save_weights', () => ({ model_id: model, path: name() }), stateResult),

  loadWeights: (model: string, path: string) =>
    repeatable('load_weights', { model_id: model, path, optimizer: true }, nothing),

  /** A copy for the sampler, which a server need not keep on its disk. */
  saveForSampling: (model: string, number: () => number) =>
    repeatable(
      'save_weights_for_sampler',
      () => {
        const own = number();
        return { model_id: model, sampling_session_seq_id: own, seq_id: own };
      },
      samplerResult,
    ),

  /** A copy that can be downloaded. */
  saveForDownload: (model: string, name: () => string) =>
    repeatable('save_weights_for_sampler', () => ({ model_id: model, path: name() }), nothing),

  sample: (request: SampleRequest) =>
    repeatable(
      'asample',
      {
        prompt: modelInput(request.tokens),
        num_samples: request.count,
        sampling_session_id: request.sampler,
        seq_id: request.sequence,
        sampling_params: {
          max_tokens: request.maxTokens,
          temperature: request.temperature,
          top_p: request.topP,
          top_k: request.topK === 0 ? -1 : request.topK,
          seed: request.seed,
          stop: [...request.stop],
        },
      },
      sampleResult,
    ),

  forward: (model: string, data: readonly Datum[]) =>
    repeatable('forward', { model_id: model, forward_input: { data, loss_fn: 'cross_entropy' } }, passResult),

  importanceSampling: (model: string, data: readonly Datum[]) => {
    const input = { data, loss_fn: 'importance_sampling' };
    return operation('forward_backward', { model_id: model, forward_backward_input: input }, nothing);
  },

  /** Every number of AdamW is sent: the server's own defaults are others than ours. */
  optimStep: (
    model: string,
    { learningRate, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0 }: OptimStepOptions,
  ) => {
    const [beta1, beta2] = betas;
    const adam = { learning_rate: learningRate, beta1, beta2, eps, weight_decay: weightDecay };
    return operation('optim_step', { model_id: model, adam_params: adam }, stepResult);
  },
};

function operation<T>(name: string, body: Operation<T>['body'], result: z.ZodType<T>): Operation<T> {
  return { name, body, result };
}

function repeatable<T>(name: string, body: Operation<T>['body'], result: z.ZodType<T>): Operation<T> {
  return { name, body, result, repeatable: true };
}
