/** What the fake Tinker server takes and answers; unknown keys of a body are ignored, as by the real one. */
import { z } from 'zod';
import type { Datum, Pass } from './tinker-engine';

export interface Answer {
  status: number;
  /** Bytes and texts as they are, all else as JSON. */
  body: unknown;
  headers?: Record<string, string>;
}

export type Route = (body: unknown) => unknown;

/** Ends a route with an answer that is no result. */
export class Refusal extends Error {
  constructor(readonly answer: Answer) {
    super();
  }
}

/** As the real server tells of its own errors. */
export const failure: Answer = { status: 500, body: 'Internal Server Error' };

export const refuse = (status: number, detail: unknown): Refusal => new Refusal({ status, body: { detail } });

/** @throws Refusal  422 */
export function route<T>(form: z.ZodType<T>, handle: (body: T) => unknown): Route {
  return (body) => {
    const checked = form.safeParse(body);
    if (checked.success) return handle(checked.data);
    const issues = checked.error.issues.map(({ path, message }) => ({
      loc: ['body', ...path],
      msg: message,
    }));
    throw refuse(422, issues);
  };
}

const modelInput = z.object({
  chunks: z.array(z.object({ type: z.literal('encoded_text'), tokens: z.array(z.int()) })),
});
const tensor = z.object({ data: z.array(z.number()) });

/** The real server cuts or fills up arrays of other lengths without a word, which no client should count on. */
const datum = z
  .object({
    model_input: modelInput,
    loss_fn_inputs: z.object({
      target_tokens: z.object({ data: z.array(z.int()) }).optional(),
      weights: tensor.optional(),
      logprobs: tensor.optional(),
      advantages: tensor.optional(),
    }),
  })
  .superRefine(({ model_input: input, loss_fn_inputs: inputs }, context) => {
    const tokens = tokensOf(input);
    for (const [name, values] of Object.entries(inputs))
      if (values !== undefined && values.data.length !== tokens.length)
        context.addIssue(
          `${name} has ${values.data.length} values for an input of ${tokens.length} tokens; expected as many`,
        );
    const targets = inputs.target_tokens?.data ?? [];
    if (targets.slice(0, -1).some((target, t) => target !== tokens[t + 1]))
      context.addIssue('target_tokens are not the inputs moved by one');
  });

const thresholds = ['clip_low_threshold', 'clip_high_threshold'];

const passInput = z
  .object({
    data: z.array(datum).min(1),
    loss_fn: z.enum(['cross_entropy', 'importance_sampling', 'ppo', 'cispo']),
    loss_fn_config: z.record(z.string(), z.number()).nullish(),
  })
  .superRefine(({ data, loss_fn: loss, loss_fn_config: config }, context) => {
    const known = loss === 'ppo' || loss === 'cispo' ? thresholds : [];
    for (const key of Object.keys(config ?? {}))
      if (!known.includes(key)) context.addIssue(`loss_fn='${loss}' does not accept ${key}`);
    if (loss === 'cross_entropy') return;
    for (const { loss_fn_inputs: inputs } of data)
      if (inputs.logprobs === undefined || inputs.advantages === undefined)
        context.addIssue(`loss_fn='${loss}' needs logprobs and advantages`);
  });

const name = z
  .string()
  .regex(/^[a-zA-Z0-9_-]+$/)
  .max(255);
const share = z.number().min(0).lt(1);
const model = { model_id: z.string() };

export const bodies = {
  session: z.object({
    tags: z.array(z.string()),
    user_metadata: z.record(z.string(), z.unknown()).nullish(),
    sdk_version: z.string(),
  }),
  heartbeat: z.object({ session_id: z.string() }),
  createModel: z.object({
    ...{ session_id: z.string(), base_model: z.string() },
    lora_config: z.object({ rank: z.int(), seed: z.int().nullish() }),
  }),
  model: z.object(model),
  forwardBackward: z.object({ ...model, forward_backward_input: passInput }),
  forward: z.object({ ...model, forward_input: passInput }),
  optimStep: z.object({
    ...model,
    adam_params: z.object({
      ...{ learning_rate: z.number().min(0).default(1e-4), beta1: share.default(0.9) },
      ...{ beta2: share.default(0.95), eps: z.number().positive().default(1e-12) },
      weight_decay: z.number().min(0).default(0),
    }),
  }),
  save: z.object({ ...model, path: name }),
  load: z.object({ ...model, path: z.string() }),
  saveForSampler: z
    .object({
      ...{ ...model, path: name.nullish() },
      ...{ sampling_session_seq_id: z.int().nullish(), seq_id: z.int().nullish() },
    })
    .refine(
      ({ path, sampling_session_seq_id: own, seq_id: number }) =>
        path != null || (own != null && number != null),
      "Either 'path' or both 'sampling_session_seq_id' and 'seq_id' must be provided",
    ),
  sample: z
    .object({
      num_samples: z.int().min(1).default(1),
      prompt: modelInput,
      sampling_params: z.object({
        ...{ max_tokens: z.int().nullish(), seed: z.int().nullish(), stop: z.array(z.int()).nullish() },
        ...{ temperature: z.number().default(1), top_k: z.int().default(-1), top_p: z.number().default(1) },
      }),
      ...{ base_model: z.string().nullish(), model_path: z.string().nullish() },
      ...{ sampling_session_id: z.string().nullish(), seq_id: z.int().nullish() },
      prompt_logprobs: z.boolean().nullish(),
    })
    .refine(
      ({ base_model: base, model_path: path, sampling_session_id: session, seq_id: number }) =>
        session != null ? number != null : (base == null) !== (path == null),
      "expected sampling_session_id with seq_id, or one of 'base_model' and 'model_path'",
    ),
  future: z.object({ request_id: z.string() }),
  weights: z.object({ tinker_path: z.string() }),
};

export function tokensOf({ chunks }: z.output<typeof modelInput>): number[] {
  return chunks.flatMap(({ tokens }) => tokens);
}

/** @returns null when a sequence has no targets, which the real server takes for a failure of its own */
export function passOf({
  data,
  loss_fn: loss,
  loss_fn_config: config,
}: z.output<typeof passInput>): Pass | null {
  const rows = data.map(({ model_input: input, loss_fn_inputs: inputs }): Datum | null => {
    const tokens = tokensOf(input);
    const targets = inputs.target_tokens?.data;
    if (targets === undefined) return null;
    return {
      tokens: [...tokens, targets[targets.length - 1]],
      weights: inputs.weights?.data ?? tokens.map(() => 1),
      logprobs: inputs.logprobs?.data ?? [],
      advantages: inputs.advantages?.data ?? [],
    };
  });
  if (rows.includes(null)) return null;
  const { clip_low_threshold: low = 0.8, clip_high_threshold: high = 1.2 } = config ?? {};
  return { data: rows as Datum[], loss, low, high };
}
