/**
 * Qwen3 as functions of its weights. One layout serves everything: P prompts of Tp tokens, each followed by G completions
 * of Tc tokens. The prompt's tokens are computed once and shared by its completions, in the forward and in the backward
 * pass; the completions attend to the prompt's keys and values and causally to themselves. With G = 1 this is a plain
 * batch of sequences.
 *
 * Source: Qwen3 Technical Report, arXiv 2505.09388; layer order and names as in transformers' Qwen3ForCausalLM.
 */
import { takesOwnOps } from '../runtime/compile';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { ModelConfig } from './config';
import { fusedAttention, fusedLora } from './fused';
import type { LoraAdapter, LoraFactors, LoraModule } from './lora';
import { LORA_TARGETS } from './peft';
import type { Matrix } from './matrix';
import { PanelMatrix, columns, matMul, product } from './matrix';
import { gate, gatherRows, recomputed, rmsNorm, rotaryTable, rotate } from './ops';
import type { OutputHead } from './ops';
import {
  attendCompletion,
  attendPrompt,
  blocked,
  causalBias,
  joinRows,
  paddingBias,
  splitRows,
} from './attention';
import type { KeyValues } from './attention';

/** Weights of one layer; matrices are [in, out]. */
export interface LayerWeights {
  inputNorm: Tensor;
  /** Queries, keys and values side by side: [H, (heads + 2 kvHeads) * D]. */
  qkv: Matrix;
  qNorm: Tensor;
  kNorm: Tensor;
  o: Matrix;
  postNorm: Tensor;
  /** Gate and up side by side: [H, 2 F]. */
  gateUp: Matrix;
  down: Matrix;
}

/** The tensors of a Qwen3 model. */
export interface QwenWeights {
  /** [V, H], or [H, V] in bfloat16. */
  embedding: Tensor | PanelMatrix;
  layers: LayerWeights[];
  finalNorm: Tensor;
  head: OutputHead;
}

/** Inverted dropout on an adapter's input; the caller makes the mask so that it depends on the example, not the batch. */
export type AdapterDropout = (x: Tensor, layer: number, module: LoraModule) => Tensor;

/** What a forward pass runs on. */
export interface Network {
  config: ModelConfig;
  weights: QwenWeights;
  adapter: LoraAdapter | null;
  /** `apply` takes the keys as an argument: a layer that is computed twice gets them twice. */
  dropout?: { keys: Tensor; apply: (keys: Tensor) => AdapterDropout };
  /** Keep only each layer's input for the backward pass, which then computes the layer again. Values do not change. */
  recompute?: boolean;
}

/** x W, plus the adapter's part for each named slice of the output. */
function linear(net: Network, x: Tensor, w: Matrix, layer: number, modules: readonly LoraModule[]): Tensor {
  const { adapter, dropout } = net;
  const factors = modules.map((module) => adapter?.get(layer, module));
  if (adapter === null || factors.every((f) => f === undefined)) return product(x, w);
  const widths = modules.map((module) => outputWidth(net.config, module));
  if (takesOwnOps() && dropout === undefined) {
    const offsets = widths.map((_, i) => widths.slice(0, i).reduce((sum, width) => sum + width, 0));
    const parts = factors.map((f, i) => ({ factors: f as LoraFactors, offset: offsets[i] }));
    return fusedLora(x, w, parts.filter((_, i) => factors[i] !== undefined), adapter.scale); // prettier-ignore
  }
  const parts = modules.map((module, i) => {
    const f = factors[i];
    if (f === undefined) return tf.zeros([x.shape[0], widths[i]]);
    const input = dropout === undefined ? x : dropout.apply(dropout.keys)(x, layer, module);
    return matMul(matMul(input, f.a), f.b);
  });
  const delta = parts.length === 1 ? parts[0] : tf.concat(parts, 1);
  return tf.add(product(x, w), tf.mul(delta, adapter.scale));
}

function outputWidth(config: ModelConfig, module: LoraModule): number {
  if (module === 'q_proj') return config.numAttentionHeads * config.headDim;
  if (module === 'k_proj' || module === 'v_proj') return config.numKeyValueHeads * config.headDim;
  return module === 'gate_proj' || module === 'up_proj' ? config.intermediateSize : config.hiddenSize;
}

/** Queries, keys and values of a flat list of tokens, side by side: [N, (heads + 2 kvHeads) D]. */
function projectQkv(net: Network, x: Tensor, layer: number): Tensor {
  const w = net.weights.layers[layer];
  const h = rmsNorm(x, w.inputNorm, net.config.rmsNormEps);
  return linear(net, h, w.qkv, layer, ['q_proj', 'k_proj', 'v_proj']);
}

/** Queries, keys (both normalised and rotated) and values: [N, heads, D] each. */
function splitQkv(net: Network, qkv: Tensor, layer: number, rotary: { cos: Tensor; sin: Tensor }) {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, rmsNormEps } = net.config;
  const w = net.weights.layers[layer];
  const [q, k, values] = tf.split(
    tf.reshape(qkv, [-1, heads + 2 * kvHeads, headDim]),
    [heads, kvHeads, kvHeads],
    1,
  );
  return {
    queries: rotate(rmsNorm(q, w.qNorm, rmsNormEps), rotary),
    keys: rotate(rmsNorm(k, w.kNorm, rmsNormEps), rotary),
    values,
  };
}

/** The rest of a layer after attention: output projection, residual, feed-forward. [N, heads*D], [N, H] -> [N, H]. */
function finishLayer(net: Network, x: Tensor, attended: Tensor, layer: number): Tensor {
  const w = net.weights.layers[layer];
  const residual = tf.add(x, linear(net, attended, w.o, layer, ['o_proj']));
  const h = rmsNorm(residual, w.postNorm, net.config.rmsNormEps);
  const gated = gate(linear(net, h, w.gateUp, layer, ['gate_proj', 'up_proj']));
  return tf.add(residual, linear(net, gated, w.down, layer, ['down_proj']));
}

/** The vectors of tokens: [N] int32 -> [N, H]. */
function embed({ embedding }: QwenWeights, ids: Tensor): Tensor {
  return embedding instanceof PanelMatrix ? columns(embedding, ids) : gatherRows(embedding, ids);
}

const flat = (x: Tensor): Tensor => tf.reshape(x, [x.size]);

/** A padded batch of prompts. */
export interface PromptBatch {
  /** [P, Tp] int32 */
  ids: Tensor;
  /** [P, Tp] float32, 1 where there is a token; padding may stand on either side. */
  mask: Tensor;
  /** [P, Tp] float32, the token's place in its sequence. */
  positions: Tensor;
}

/** [P, 1, 1, Tp, Tp] additive mask of prompts: causal and padding. */
function promptSelfBias(prompt: PromptBatch): Tensor {
  const [rows, length] = prompt.ids.shape as [number, number];
  const bias = tf.add(causalBias(length), tf.expandDims(paddingBias(prompt.mask), 1));
  return tf.reshape(bias, [rows, 1, 1, length, length]);
}

/**
 * Prompts alone.
 * @returns hidden [P*Tp, H] after the last norm, and each layer's keys and values
 */
export function forwardPrompts(net: Network, prompt: PromptBatch): { hidden: Tensor; cache: KeyValues[] } {
  const rows = prompt.ids.shape[0];
  const rotary = rotaryTable(flat(prompt.positions), net.config.headDim, net.config.ropeTheta);
  const bias = promptSelfBias(prompt);
  let x = embed(net.weights, flat(prompt.ids));
  const cache: KeyValues[] = [];
  for (let layer = 0; layer < net.config.numHiddenLayers; layer++) {
    const { queries, keys, values } = splitQkv(net, projectQkv(net, x, layer), layer, rotary);
    const kv = { keys: splitRows(keys, rows), values: splitRows(values, rows) };
    cache.push(kv);
    x = finishLayer(net, x, joinRows(attendPrompt(net.config, splitRows(queries, rows), kv, bias)), layer);
  }
  return { hidden: rmsNorm(x, net.weights.finalNorm, net.config.rmsNormEps), cache };
}

/** What all layers of a pass over prompts and completions share; the tensors are constants of the pass. */
interface SharedPass {
  cos: Tensor;
  sin: Tensor;
  /** [P, Tp] */
  mask: Tensor;
  /** [P, 1, 1, Tp, Tp] */
  bias: Tensor;
  /** [P, 1, 1, 1, 1, Tp] */
  promptBias: Tensor;
  /** [Tc, Tc] */
  ownBias: Tensor;
}

/** Queries, keys and values of P prompts and P*G completions, [N, (heads + 2 kvHeads) D], to what they attend to, [N, heads D]. */
function attendShared(net: Network, qkv: Tensor, layer: number, pass: SharedPass): Tensor {
  const { bias, promptBias, ownBias } = pass;
  const [prompts, tp] = [bias.shape[0], bias.shape[3] as number];
  const nPrompt = prompts * tp;
  const nCompletion = qkv.shape[0] - nPrompt;
  const rows = nCompletion / ownBias.shape[0];
  const split = (y: Tensor): [Tensor, Tensor] => {
    const [a, b] = tf.split(y, [nPrompt, nCompletion], 0);
    return [splitRows(a, prompts), splitRows(b, rows)];
  };
  const { queries, keys, values } = splitQkv(net, qkv, layer, pass);
  const [qp, qc] = split(queries);
  const [kp, kc] = split(keys);
  const [vp, vc] = split(values);
  const shared = { keys: kp, values: vp };
  const own = { keys: kc, values: vc };
  return tf.concat(
    [
      joinRows(attendPrompt(net.config, qp, shared, bias)),
      joinRows(attendCompletion(net.config, qc, shared, own, promptBias, ownBias)),
    ],
    0,
  );
}

/** Of P prompts and their completions only what predicts a completion's token: each prompt's last state, then all completions'. */
function predictingStates(x: Tensor, { mask }: SharedPass): Tensor {
  const [prompts, tp] = mask.shape as [number, number];
  const width = x.shape[1] as number;
  const [xp, xc] = tf.split(x, [prompts * tp, x.shape[0] - prompts * tp], 0);
  const last = tf.slice(tf.reshape(xp, [prompts, tp, width]), [0, tp - 1, 0], [prompts, 1, width]);
  return tf.concat([tf.reshape(last, [prompts, width]), xc], 0);
}

/**
 * One layer on P prompts and P*G completions: [P*Tp + P*G*Tc, H] -> the same; of the last layer [P + P*G*Tc, H], since no state of
 * a prompt but its last is looked at after its keys and values are.
 */
function sharedLayer(net: Network, x: Tensor, layer: number, pass: SharedPass): Tensor {
  const attended = attend(net, projectQkv(net, x, layer), layer, pass);
  if (layer < net.config.numHiddenLayers - 1) return finishLayer(net, x, attended, layer);
  const { dropout } = net;
  const keysOf = (keys: Tensor): Tensor => flat(predictingStates(tf.reshape(keys, [keys.size, 1]), pass));
  const rest = dropout === undefined ? net : { ...net, dropout: { ...dropout, keys: keysOf(dropout.keys) } };
  return finishLayer(rest, predictingStates(x, pass), predictingStates(attended, pass), layer);
}

/** `attendShared`, by the binding's own op where it may stand. */
function attend(net: Network, qkv: Tensor, layer: number, pass: SharedPass): Tensor {
  if (!takesOwnOps()) return attendShared(net, qkv, layer, pass);
  const { mask, cos, sin, ownBias } = pass;
  const { rmsNormEps: eps, numKeyValueHeads: kvHeads } = net.config;
  const { qNorm, kNorm } = net.weights.layers[layer];
  const group = (qkv.shape[0] - mask.size) / ownBias.shape[0] / mask.shape[0];
  return fusedAttention(qkv, { qNorm, kNorm, eps, kvHeads, cos, sin, mask, group });
}

/** What is trained of a layer: its adapter's factors, or its weights. */
function layerVariables({ weights, adapter }: Network, layer: number): Tensor[] {
  const factors = LORA_TARGETS.map((module) => adapter?.get(layer, module));
  const own = [
    ...factors.flatMap((f) => (f === undefined ? [] : [f.a, f.b])),
    ...Object.values(weights.layers[layer]),
  ];
  return own.filter((tensor): tensor is Variable => tensor instanceof tf.Variable && tensor.trainable);
}

/** As `sharedLayer`, keeping only `x` for the backward pass. */
function recomputedLayer(net: Network, x: Tensor, layer: number, pass: SharedPass): Tensor {
  const { cos, sin, mask, bias, promptBias, ownBias } = pass;
  const { dropout } = net;
  const run = (input: Tensor, constants: Tensor[]): Tensor => {
    const [c, s, m, b, p, o, keys] = constants;
    const own = dropout === undefined ? net : { ...net, dropout: { ...dropout, keys } };
    return sharedLayer(own, input, layer, { cos: c, sin: s, mask: m, bias: b, promptBias: p, ownBias: o });
  };
  const keys = dropout === undefined ? [] : [dropout.keys];
  return recomputed(run, x, [cos, sin, mask, bias, promptBias, ownBias, ...keys], layerVariables(net, layer));
}

/**
 * The states before each completion's tokens: the last of its prompt, then its own but the last.
 * @param x  [P + P*G*Tc, H] -> [P*G*Tc, H]
 */
function statesBefore(x: Tensor, prompts: number, rows: number, tc: number): Tensor {
  const hidden = x.shape[1] as number;
  const [last, xc] = tf.split(x, [prompts, rows * tc], 0);
  const copies = tf.mul(tf.reshape(last, [prompts, 1, 1, hidden]), tf.ones([1, rows / prompts, 1, 1]));
  const first = tf.reshape(copies, [rows, 1, hidden]);
  if (tc === 1) return tf.reshape(first, [rows, hidden]);
  const others = tf.slice(tf.reshape(xc, [rows, tc, hidden]), [0, 0, 0], [rows, tc - 1, hidden]);
  return tf.reshape(tf.concat([first, others], 1), [rows * tc, hidden]);
}

/**
 * Prompts with their completions, prompts computed once. Prompts must be padded on the left.
 *
 * @param completionIds        [P*G, Tc] int32, padded on the right
 * @param completionPositions  [P*G, Tc] float32
 * @returns                    `[P*G*Tc, H]`, the state from which each completion token is predicted
 */
export function forwardSharedPrefix(
  net: Network,
  prompt: PromptBatch,
  completionIds: Tensor,
  completionPositions: Tensor,
): Tensor {
  const { config, weights } = net;
  const [prompts, tp] = prompt.ids.shape as [number, number];
  const [rows, tc] = completionIds.shape as [number, number];
  const positions = tf.concat([flat(prompt.positions), flat(completionPositions)], 0);
  const pass = {
    ...rotaryTable(positions, config.headDim, config.ropeTheta),
    mask: prompt.mask,
    bias: promptSelfBias(prompt),
    promptBias: tf.reshape(paddingBias(prompt.mask), [prompts, 1, 1, 1, 1, tp]),
    ownBias: causalBias(tc),
  };
  const runLayer = net.recompute === true ? recomputedLayer : sharedLayer;
  let x = embed(weights, tf.concat([flat(prompt.ids), flat(completionIds)], 0));
  for (let layer = 0; layer < config.numHiddenLayers; layer++) x = runLayer(net, x, layer, pass);
  return rmsNorm(statesBefore(x, prompts, rows, tc), weights.finalNorm, config.rmsNormEps);
}

/** The caches of a decoding batch: prompts' keys and values once a group, completions' in rows `[B*kv*T, D]`. */
export interface DecodeCache {
  prompt: KeyValues[];
  promptMask: Tensor;
  own: KeyValues[];
}

/**
 * One token more for every row.
 *
 * @param ids        [B] int32, the tokens drawn last
 * @param positions  [B] float32, their places in the sequences
 * @param step       [1] int32, their place in the completions' cache
 * @param cache      `own` is updated in place
 * @param writeRows  see ops.ts
 * @returns [B, H] after the last norm, and the new completions' cache
 */
export function forwardDecode(
  net: Network,
  ids: Tensor,
  positions: Tensor,
  step: Tensor,
  cache: DecodeCache,
  writeRows: (cache: Tensor, indices: Tensor, values: Tensor) => Tensor,
): { hidden: Tensor; own: KeyValues[] } {
  const { config, weights } = net;
  const rows = ids.shape[0];
  const { numKeyValueHeads: kv, headDim } = config;
  const length = cache.own[0].keys.shape[0] / (rows * kv);
  const [prompts, tp] = cache.promptMask.shape as [number, number];
  const promptBias = tf.reshape(paddingBias(cache.promptMask), [prompts, 1, 1, 1, 1, tp]);
  const later = tf.greater(tf.range(0, length, 1, 'int32'), step);
  const ownBias = tf.mul(tf.cast(later, 'float32'), blocked);
  const indices = tf.add(tf.mul(tf.range(0, rows * kv, 1, 'int32'), tf.scalar(length, 'int32')), step);
  const rotary = rotaryTable(positions, headDim, config.ropeTheta);
  let x = embed(weights, ids);
  const own: KeyValues[] = [];
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const { queries, keys, values } = splitQkv(net, projectQkv(net, x, layer), layer, rotary);
    const write = (old: Tensor, fresh: Tensor): Tensor =>
      writeRows(old, indices, tf.reshape(fresh, [rows * kv, headDim]));
    const updated = {
      keys: write(cache.own[layer].keys, keys),
      values: write(cache.own[layer].values, values),
    };
    own.push(updated);
    const asRows = (y: Tensor): Tensor => tf.reshape(y, [rows, kv, length, headDim]);
    const mine = { keys: asRows(updated.keys), values: asRows(updated.values) };
    const attended = attendCompletion(
      config,
      splitRows(queries, rows),
      cache.prompt[layer],
      mine,
      promptBias,
      ownBias,
    );
    x = finishLayer(net, x, joinRows(attended), layer);
  }
  return { hidden: rmsNorm(x, weights.finalNorm, config.rmsNormEps), own };
}
