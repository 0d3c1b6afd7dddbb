/**
 * A model laid out for decoding on the CPU, and the ops of the binding that run on it (native/decode.cc). Of float32 weights a
 * copy: every matrix as panels of 16 columns, in bfloat16 where they are a bfloat16 checkpoint's and nothing is lost. Weights in
 * fewer bits are panels as they are. An adapter stays beside them: merged into float32, it would have to be at every step of
 * training; into fewer bits, it would be rounded away.
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
}

const packAttributes = ({ transposed = false, parts = 1 }: PackOptions): OpAttribute[] => [
  boolAttribute('transposed', transposed),
  intAttribute('parts', parts),
];

/** [k, n] -> [panels, k, 16] */
const pack = (matrix: Tensor, options: PackOptions = {}): Tensor =>
  backend.executeSingleOutput('GrpolabPack', packAttributes(options), [matrix]);

/** Matrices in bfloat16, each [panels, k, 8] int32; null where one is not of such numbers. */
function packHalves(matrices: readonly (readonly [Tensor, PackOptions])[]): Tensor[] | null {
  const packed: Tensor[] = [];
  for (const [matrix, options] of matrices) {
    const attributes = packAttributes(options);
    const [panels, exact] = backend.executeMultipleOutputs('GrpolabPackHalves', attributes, [matrix], 2);
    packed.push(panels);
    const [isExact] = exact.dataSync<'int32'>();
    exact.dispose();
    if (isExact === 1) continue;
    tf.dispose(packed);
    return null;
  }
  return packed;
}

/** Keys and values of `rows` sequences of up to `length` tokens: [layers, 2, rows, kvHeads, T, D], T and D padded. */
export function packedCache(config: ModelConfig, rows: number, length: number): Tensor {
  const { numHiddenLayers, numKeyValueHeads, headDim } = config;
  return tf.fill([numHiddenLayers, 2, rows, numKeyValueHeads, roundUp(length), roundUp(headDim)], 0);
}

/** Owns its tensors but not the weights and the adapter that it was made from. */
export class PackedModel {
  /** Of float32 weights: of each layer qkv, o, gate and up, down; and the output head. In float32, or all in bfloat16. */
  private matrices: Tensor[] = [];
  private head: Tensor | null = null;
  /** The embedding, where those are in bfloat16. */
  private table: Tensor | null = null;
  /** Of each of a layer's matrices the adapter's A and B. */
  private factors: Tensor[] = [];

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: QwenWeights,
    private readonly adapter: LoraAdapter | null,
  ) {}

  private get isPanels(): boolean {
    return this.weights.head.matrix instanceof PanelMatrix;
  }

  /** Lays out what may have changed: to be called when the adapter has, or trained weights. */
  refresh(): void {
    if (this.adapter !== null) this.packFactors(this.adapter);
    const { matrix, trainable } = this.weights.head;
    if (matrix instanceof PanelMatrix || (this.head !== null && !trainable)) return;
    this.forgetMatrices();
    // Where there is no memory for one, nothing is left of the others.
    const [head, ...packed] = tf.tidy(() => this.packMatrices(matrix));
    const isHalf = head.dtype === 'int32';
    this.head = head;
    this.matrices = packed.slice(0, fusedModules.length * this.weights.layers.length);
    if (isHalf) this.table = this.weights.embedding === matrix ? head : (packed.at(-1) as Tensor);
  }

  /** The head, those of the layers, and an untied embedding: all in bfloat16; or in float32 without the embedding. */
  private packMatrices(matrix: Tensor): Tensor[] {
    const { embedding, head, layers } = this.weights;
    const all: [Tensor, PackOptions][] = [[matrix, { transposed: head.transposed }]];
    for (const w of layers)
      for (const [key, modules] of fusedModules) all.push([w[key] as Tensor, { parts: partsOf(modules) }]);
    const table: [Tensor, PackOptions] = [embedding as Tensor, { transposed: true }];
    const halves = head.trainable ? null : packHalves(embedding === matrix ? all : [...all, table]);
    return halves ?? all.map((one) => pack(...one));
  }

  private forgetMatrices(): void {
    tf.dispose(this.matrices);
    this.head?.dispose();
    if (this.table !== this.head) this.table?.dispose();
    [this.matrices, this.head, this.table] = [[], null, null];
  }

  private packFactors(adapter: LoraAdapter): void {
    tf.dispose(this.factors);
    this.factors = [];
    this.factors = tf.tidy(() =>
      this.weights.layers.flatMap((w, layer) =>
        fusedModules.flatMap(([key, modules]) => tf.tidy(() => this.beside(w[key], adapter, layer, modules))),
      ),
    );
  }

  /** scale x A of all modules side by side, and B of each in its own rows and columns: their product is the adapter's. */
  private beside(
    { shape }: Matrix,
    adapter: LoraAdapter,
    layer: number,
    modules: readonly LoraModule[],
  ): Tensor[] {
    const [inputs, outputs] = shape as [number, number];
    const parts = partsOf(modules);
    const as: Tensor[] = [];
    const bs: Tensor[] = [];
    let before = 0;
    for (const module of modules) {
      const width = moduleShape(this.config, module)[1];
      const pair = adapter.get(layer, module);
      const columns: [number, number] = [before, outputs - before - width];
      before += width;
      if (pair === undefined) continue;
      as.push(pair.a as Tensor);
      bs.push(tf.pad(pair.b as Tensor, [[0, 0], columns])); // prettier-ignore
    }
    if (as.length === 0) return [pack(tf.zeros([inputs, 1])), pack(tf.zeros([1, outputs]), { parts })];
    return [pack(tf.mul(tf.concat(as, 1), adapter.scale)), pack(tf.concat(bs, 0), { parts })];
  }

  private run(op: string, group: number, inputs: readonly TensorInfo[]): Tensor {
    const { embedding, finalNorm, layers, head } = this.weights;
    const vectors = layers.flatMap((w) => [w.inputNorm, w.qNorm, w.kNorm, w.postNorm]);
    const inPlace = layers.flatMap((w) => fusedModules.map(([key]) => w[key]));
    const matrices: Matrix[] = [
      ...[this.table ?? embedding, this.head ?? head.matrix],
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
      typeAttribute('T', this.isPanels || this.table !== null ? binding.TF_INT32 : binding.TF_FLOAT),
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
    this.forgetMatrices();
    tf.dispose(this.factors);
    this.factors = [];
  }
}
