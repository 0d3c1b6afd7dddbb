/**
 * A model laid out for decoding on the CPU: its matrices as panels of 16 columns with the adapter merged in, and the ops of
 * the binding that run on them (native/decode.cc). A copy of every matrix, of the output head too.
 */
import type { OpAttribute, Tensor, TensorInfo } from '../runtime/tf';
import { backend, binding, boolAttribute, floatAttribute, intAttribute, tf } from '../runtime/tf';
import type { ModelConfig } from './config';
import { fusedModules } from './load';
import type { LoraAdapter, LoraModule } from './lora';
import { moduleShape } from './lora';
import type { QwenWeights } from './qwen3';

/** Columns of a panel; lengths of caches are multiples of it. */
const WIDTH = 16;

const roundUp = (n: number): number => Math.ceil(n / WIDTH) * WIDTH;

interface PackOptions {
  transposed?: boolean;
  /** The columns are so many equal parts, each padded to whole panels. */
  parts?: number;
  scale?: number;
  /** The first column of each pair of factors. */
  offsets?: readonly number[];
}

/** [k, n] -> [panels, k, 16], with scale A B added for each pair of factors. */
function pack(matrix: Tensor, factors: readonly Tensor[], options: PackOptions = {}): Tensor {
  const { transposed = false, parts = 1, scale = 1, offsets = [] } = options;
  const attributes: OpAttribute[] = [
    boolAttribute('transposed', transposed),
    intAttribute('parts', parts),
    floatAttribute('scale', scale),
    { name: 'offsets', type: binding.TF_ATTR_INT, value: [...offsets] },
    intAttribute('N', factors.length),
  ];
  return backend.executeSingleOutput('GrpolabPack', attributes, [matrix, ...factors]);
}

/** Keys and values of `rows` sequences of up to `length` tokens: [layers, 2, rows, kvHeads, T, D], T and D padded. */
export function packedCache(config: ModelConfig, rows: number, length: number): Tensor {
  const { numHiddenLayers, numKeyValueHeads, headDim } = config;
  return tf.fill([numHiddenLayers, 2, rows, numKeyValueHeads, roundUp(length), roundUp(headDim)], 0);
}

/** Owns its tensors but not the weights and the adapter that it was made from. */
export class PackedModel {
  private readonly matrices: (Tensor | null)[];
  private head: Tensor | null = null;

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: QwenWeights,
    private readonly adapter: LoraAdapter | null,
  ) {
    this.matrices = weights.layers.flatMap(() => fusedModules.map(() => null));
  }

  /** Lays everything out anew: to be called when the adapter, or trained weights, have changed. */
  refresh(): void {
    const replace = (old: Tensor | null, make: () => Tensor): Tensor => {
      old?.dispose();
      return tf.tidy(make);
    };
    this.weights.layers.forEach((w, layer) =>
      fusedModules.forEach(([key, modules], i) => {
        const at = layer * fusedModules.length + i;
        this.matrices[at] = replace(this.matrices[at], () => this.packed(w[key], layer, modules));
      }),
    );
    const { matrix, transposed, trainable } = this.weights.head;
    if (this.head === null || trainable)
      this.head = replace(this.head, () => pack(matrix, [], { transposed }));
  }

  private packed(w: Tensor, layer: number, modules: readonly LoraModule[]): Tensor {
    const { adapter } = this;
    const offsets: number[] = [];
    const factors: Tensor[] = [];
    let column = 0;
    for (const module of modules) {
      const pair = adapter?.get(layer, module);
      if (pair !== undefined) {
        offsets.push(column);
        factors.push(pair.a, pair.b);
      }
      column += moduleShape(this.config, module)[1];
    }
    return pack(w, factors, {
      parts: modules.includes('gate_proj') ? 2 : 1,
      ...{ scale: adapter?.scale, offsets },
    });
  }

  private run(op: string, group: number, inputs: readonly TensorInfo[]): Tensor {
    const { embedding, finalNorm, layers } = this.weights;
    const weights = layers.flatMap((w, layer) => {
      const [qkv, o, gateUp, down] = this.matrices.slice(layer * fusedModules.length) as Tensor[];
      return [w.inputNorm, qkv, w.qNorm, w.kNorm, o, w.postNorm, gateUp, down];
    });
    const all = [embedding, finalNorm, this.head as Tensor, ...weights];
    const attributes = [
      floatAttribute('eps', this.config.rmsNormEps),
      floatAttribute('theta', this.config.ropeTheta),
      intAttribute('group', group),
      intAttribute('N', all.length),
    ];
    return backend.executeSingleOutput(op, attributes, [...inputs, ...all]);
  }

  /**
   * Reads prompts and fills their cache.
   *
   * @param tokens   all prompts, one after the other
   * @param lengths  of each prompt
   * @returns [P, V] logits after each prompt's last token
   */
  prefill(tokens: Int32Array, lengths: Int32Array, cache: Tensor): Tensor {
    return tf.tidy(() =>
      this.run('GrpolabPrefill', 1, [tf.tensor1d(tokens, 'int32'), tf.tensor1d(lengths, 'int32'), cache]),
    );
  }

  /**
   * One token more for some rows of completions.
   *
   * @param tokens   [B] drawn last
   * @param rows     [B] their rows in the completions' cache, ascending; row r continues prompt floor(r / group)
   * @param lengths  [P] of the prompts
   * @param step     the tokens' place in the completions
   * @returns [B, V] logits
   */
  decode(
    tokens: Int32Array,
    rows: Int32Array,
    lengths: Int32Array,
    step: number,
    group: number,
    caches: { prompt: Tensor; own: Tensor },
  ): Tensor {
    return tf.tidy(() => {
      const lists = [tokens, lengths, rows].map((values) => tf.tensor1d(values, 'int32'));
      const inputs = [...lists, tf.scalar(step, 'int32'), caches.prompt, caches.own];
      return this.run('GrpolabDecode', group, inputs);
    });
  }

  dispose(): void {
    for (const tensor of [...this.matrices, this.head]) tensor?.dispose();
    this.matrices.fill(null);
    this.head = null;
  }
}
