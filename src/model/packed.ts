/**
 * A model laid out for decoding on the CPU, and the ops of the binding that run on it (native/decode.cc). Of float32 weights a
 * copy: every matrix as panels of 16 columns, with the adapter merged in. Weights in fewer bits are panels as they are, and an
 * adapter merged into them would be rounded away: it stays beside them, in float32.
 */
import type { OpAttribute, Tensor, TensorInfo } from '../runtime/tf';
import {
  backend,
  binding,
  boolAttribute,
  floatAttribute,
  intAttribute,
  tf,
  typeAttribute,
} from '../runtime/tf';
import type { ModelConfig } from './config';
import { fusedModules } from './load';
import type { LoraAdapter, LoraModule } from './lora';
import { moduleShape } from './lora';
import type { Matrix } from './matrix';
import { PanelMatrix } from './matrix';
import { PANEL_WIDTH } from './panels';
import type { QwenWeights } from './qwen3';

/** Lengths of caches are multiples of a panel's width. */
const roundUp = (n: number): number => Math.ceil(n / PANEL_WIDTH) * PANEL_WIDTH;

/** gate and up are padded each by itself: a tile of one meets the same tile of the other. */
const partsOf = (modules: readonly LoraModule[]): number => (modules.includes('gate_proj') ? 2 : 1);

interface PackOptions {
  transposed?: boolean;
  /** The columns are so many equal parts, each padded to whole panels. */
  parts?: number;
  scale?: number;
  /** The first column of each pair of factors. */
  offsets?: readonly number[];
}

/** [k, n] -> [panels, k, 16], with scale A B added for each pair of factors. */
function pack(matrix: Tensor, factors: readonly Tensor[] = [], options: PackOptions = {}): Tensor {
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
  /** Of float32 weights, the adapter merged in: of each layer qkv, o, gate and up, down; and the output head. */
  private matrices: Tensor[] = [];
  private head: Tensor | null = null;
  /** Beside weights in fewer bits: of each of those matrices the adapter's A and B. */
  private factors: Tensor[] = [];

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: QwenWeights,
    private readonly adapter: LoraAdapter | null,
  ) {}

  private get isPanels(): boolean {
    return this.weights.head.matrix instanceof PanelMatrix;
  }

  /** Lays everything out anew: to be called when the adapter, or trained weights, have changed. */
  refresh(): void {
    tf.dispose([...this.matrices, ...this.factors]);
    [this.matrices, this.factors] = [[], []];
    this.weights.layers.forEach((w, layer) => {
      for (const [key, modules] of fusedModules) {
        const matrix = w[key];
        if (!(matrix instanceof PanelMatrix))
          this.matrices.push(tf.tidy(() => this.merged(matrix, layer, modules)));
        else if (this.adapter !== null)
          this.factors.push(...tf.tidy(() => this.beside(matrix, layer, modules)));
      }
    });
    const { matrix, transposed, trainable } = this.weights.head;
    if (matrix instanceof PanelMatrix || (this.head !== null && !trainable)) return;
    this.head?.dispose();
    this.head = tf.tidy(() => pack(matrix, [], { transposed }));
  }

  /** The adapted modules of a matrix, with their first columns. */
  private adapted(layer: number, modules: readonly LoraModule[]): { a: Tensor; b: Tensor; offset: number }[] {
    let column = 0;
    return modules.flatMap((module) => {
      const offset = column;
      column += moduleShape(this.config, module)[1];
      const pair = this.adapter?.get(layer, module);
      return pair === undefined ? [] : [{ a: pair.a as Tensor, b: pair.b as Tensor, offset }];
    });
  }

  private merged(w: Tensor, layer: number, modules: readonly LoraModule[]): Tensor {
    const adapted = this.adapted(layer, modules);
    const factors = adapted.flatMap(({ a, b }) => [a, b]);
    const offsets = adapted.map(({ offset }) => offset);
    return pack(w, factors, { parts: partsOf(modules), scale: this.adapter?.scale, offsets });
  }

  /** scale x A of all modules side by side, and B of each in its own rows and columns: their product is the adapter's. */
  private beside({ shape }: PanelMatrix, layer: number, modules: readonly LoraModule[]): Tensor[] {
    const adapted = this.adapted(layer, modules);
    const parts = partsOf(modules);
    if (adapted.length === 0)
      return [pack(tf.zeros([shape[0], 1])), pack(tf.zeros([1, shape[1]]), [], { parts })];
    const a = tf.concat(adapted.map((module) => module.a), 1); // prettier-ignore
    const rows = adapted.map(({ b, offset }) =>
      tf.pad(b, [
        [0, 0],
        [offset, shape[1] - offset - (b.shape[1] as number)],
      ]),
    );
    return [pack(tf.mul(a, this.adapter?.scale ?? 1)), pack(tf.concat(rows, 0), [], { parts })];
  }

  private run(op: string, group: number, inputs: readonly TensorInfo[]): Tensor {
    const { embedding, finalNorm, layers, head } = this.weights;
    const vectors = layers.flatMap((w) => [w.inputNorm, w.qNorm, w.kNorm, w.postNorm]);
    const inPlace = layers.flatMap((w) => fusedModules.map(([key]) => w[key]));
    const matrices: Matrix[] = [
      ...[embedding, this.head ?? head.matrix],
      ...(this.isPanels ? inPlace : this.matrices),
    ];
    const attributes = [
      floatAttribute('eps', this.config.rmsNormEps),
      floatAttribute('theta', this.config.ropeTheta),
      intAttribute('group', group),
      intAttribute('vocabulary', this.config.vocabSize),
      intAttribute('N', 1 + vectors.length),
      intAttribute('M', matrices.length),
      intAttribute('F', this.factors.length),
      typeAttribute('T', this.isPanels ? binding.TF_INT32 : binding.TF_FLOAT),
      boolAttribute('rounded', head.matrix instanceof PanelMatrix && head.matrix.isRounded),
    ];
    const tensors = matrices.map((m) => (m instanceof PanelMatrix ? m.panels : m));
    return backend.executeSingleOutput(op, attributes, [
      ...[...inputs, finalNorm, ...vectors],
      ...[...tensors, ...this.factors],
    ]);
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
    tf.dispose([...this.matrices, ...this.factors]);
    this.head?.dispose();
    [this.matrices, this.factors, this.head] = [[], [], null];
  }
}
