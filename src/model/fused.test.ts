/** The fused ops against their formulas in double precision, and a whole pass on them against the plain graph. */
import { afterAll, describe, expect, it } from 'vitest';
import { relativeDifference } from '../../test/golden-model';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { ModelConfig } from './config';
import { fusedAttention, fusedGate, fusedLora, fusedRmsNorm } from './fused';
import { buildWeights, weightTensors } from './load';
import { LoraAdapter } from './lora';
import type { LoraFactors, LoraModule } from './lora';
import { tokenLogProbs } from './ops';
import { LORA_TARGETS } from './peft';
import { forwardSharedPrefix } from './qwen3';
import type { Network } from './qwen3';

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

const [eps, theta] = [1e-6, 10_000];

function normals(name: string, length: number, scale = 1): Float32Array {
  const random = new Random(1, 'fused test', name);
  return Float32Array.from({ length }, () => scale * random.normal());
}

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Random values; a variable, since only for those some gradients are computed. */
const random = (name: string, shape: number[], scale = 1): Variable =>
  tf.tidy(() => tf.variable(tf.tensor(normals(name, size(shape), scale), shape)));

type Op = (...args: Tensor[]) => Tensor;
type Ops = (...args: Tensor[]) => Tensor[];

/** Calls a function once, compiled, and frees what it takes and gives. */
function callOnce(fn: Ops, args: Tensor[], mode: ExecutionMode = 'graph'): Float32Array[] {
  const run = compile('fn', fn, { mode });
  const before = args.map((tensor) => tensor.dataSync().slice());
  const outputs = run(...args);
  const results = outputs.map((tensor) => tensor.dataSync() as Float32Array);
  expect(args.map((tensor) => tensor.dataSync())).toEqual(before);
  tf.dispose([...outputs, ...args]);
  run.dispose();
  return results;
}

/** The value of a function of tensors, and its gradients times dy. */
const valueAndGradients = (op: Op, args: Tensor[], dy: Tensor): Float32Array[] =>
  callOnce((direction, ...list) => [op(...list), ...tf.grads(op)(list, direction)], [dy, ...args]);

/** Each row of `width` values agrees, relative to its norm; zeros are zeros. */
function expectRows(actual: Float32Array, expected: ArrayLike<number>, width: number, name: string): void {
  expect(actual.length).toBe(expected.length);
  const exact = Array.from(expected);
  for (let at = 0; at < exact.length; at += width) {
    const [a, b] = [actual.slice(at, at + width), exact.slice(at, at + width)];
    if (b.every((value) => value === 0)) expect(Math.max(...a.map(Math.abs)), name).toBe(0);
    else expect(relativeDifference(a, b), `${name}, row ${at / width}`).toBeLessThan(1e-5);
  }
}

type Values = Float64Array;
type Formula = (...args: Values[]) => Values;

/** d (f() dy) / d values at some places, by central differences; f reads the values. */
function slopes(values: Values, places: number[], f: () => Values, dy: Float32Array): number[] {
  const step = (1e-4 * Math.hypot(...values)) / Math.sqrt(values.length);
  const loss = (): number => f().reduce((sum, y, j) => sum + y * dy[j], 0);
  return places.map((i) => {
    const original = values[i];
    const [above, below] = [step, -step].map((change) => {
      values[i] = original + change;
      return loss();
    });
    values[i] = original;
    return (above - below) / (2 * step);
  });
}

/** An op has the value of its formula in double precision, and its gradients: all elements, or some of many. */
function expectFormula(op: Op, formula: Formula, args: Tensor[], shape: number[]): void {
  const exact = args.map((tensor) => Float64Array.from(tensor.dataSync()));
  const dy = normals('dy', size(shape));
  const [value, ...gradients] = valueAndGradients(op, args, tf.tensor(dy, shape));
  expectRows(value, formula(...exact), shape[1], 'value');
  const most = Math.min(400, Math.ceil(6e5 / size(shape)));
  gradients.forEach((gradient, i) => {
    const places = new Random(2, 'places').shuffle([...gradient.keys()]).slice(0, most);
    const expected = slopes(exact[i], places, () => formula(...exact), dy);
    const actual = Float32Array.from(places, (place) => gradient[place]);
    expectRows(actual, expected, places.length, `gradient ${i}`);
  });
}

describe('fusedRmsNorm', () => {
  /** x w / sqrt(mean(x^2) + eps). */
  function formula(x: Values, w: Values): Values {
    const inverses = Array.from({ length: x.length / w.length }, (_, r) => {
      const row = x.subarray(r * w.length, (r + 1) * w.length);
      return 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / w.length + eps);
    });
    return x.map((v, i) => v * w[i % w.length] * inverses[Math.floor(i / w.length)]);
  }

  it.each([
    [1, 5, 1],
    [3, 16, 1e3],
    [33, 20, 1],
    [32, 48, 1],
    [70, 33, 1e-3],
  ])('has the value and gradients of its formula for [%d, %d] of size %d', (rows, n, scale) => {
    const args = [random('x', [rows, n], scale), random('w', [n])];
    expectFormula((x, w) => fusedRmsNorm(x, w, eps), formula, args, [rows, n]);
  });

  it('gives zeros for zeros, and the gradient dy w / sqrt(eps)', () => {
    const args = [tf.zeros([2, 5]), random('w', [5])];
    const [y, dx] = valueAndGradients((x, w) => fusedRmsNorm(x, w, eps), args, tf.ones([2, 5]));
    const slope = normals('w', 5).map((w) => w / Math.sqrt(eps));
    expectRows(y, new Float32Array(10), 5, 'y');
    expectRows(dx, [...slope, ...slope], 5, 'dx');
  });

  it('gives a frozen weight no gradient', () => {
    const args = [random('x', [3, 5]), tf.ones([5])];
    const [, dx, dw] = valueAndGradients((x, w) => fusedRmsNorm(x, w, eps), args, random('dy', [3, 5]));
    expect(Math.hypot(...dx)).toBeGreaterThan(0);
    expect([...dw]).toEqual([0, 0, 0, 0, 0]);
  });
});

describe('fusedGate', () => {
  it.each([
    [1, 1],
    [2, 5],
    [33, 16],
    [40, 36],
  ])('has the value and gradient of its formula for [%d, 2 * %d]', (rows, n) => {
    const formula = (x: Values): Values =>
      Float64Array.from({ length: rows * n }, (_, i) => {
        const at = 2 * n * Math.floor(i / n) + (i % n);
        return (x[at] / (1 + Math.exp(-x[at]))) * x[at + n];
      });
    expectFormula(fusedGate, formula, [random('gate', [rows, 2 * n], 3)], [rows, n]);
  });

  it('is the second half times the first where that is large, and 0 where that is very negative', () => {
    const [y, dx] = valueAndGradients(fusedGate, [tf.tensor2d([[100, -100, 3, 3]])], tf.ones([1, 2]));
    [300, 0, 3, 0, 100, 0].forEach((expected, i) => expect([...y, ...dx][i]).toBeCloseTo(expected, 5));
  });
});

describe('fusedLora', () => {
  /** [n, k] times [k, m]. */
  function times(a: Values, b: Values, k: number): Values {
    const m = b.length / k;
    const result = new Float64Array((a.length / k) * m);
    for (let i = 0; i < a.length; i++)
      for (let j = 0; j < m; j++) result[Math.floor(i / k) * m + j] += a[i] * b[(i % k) * m + j];
    return result;
  }

  it.each([
    { name: 'q, k and v', rows: 37, shape: [20, 30], at: [0, 18, 24], widths: [18, 6, 6], rank: 3 },
    { name: 'q and v', rows: 16, shape: [20, 30], at: [0, 24], widths: [18, 6], rank: 16 },
    { name: 'a whole matrix', rows: 5, shape: [36, 20], at: [0], widths: [20], rank: 20 },
    { name: 'the second half', rows: 33, shape: [20, 72], at: [36], widths: [36], rank: 3 },
    { name: 'panels of 16', rows: 32, shape: [32, 48], at: [0, 16], widths: [16, 32], rank: 16 },
    { name: 'one row', rows: 1, shape: [7, 5], at: [2], widths: [3], rank: 1 },
  ])('is x W + scale x A B, with its gradients: $name', ({ rows, shape, at, widths, rank }) => {
    const [[inputs, outputs], scale] = [shape, 0.7];
    const w = tf.tensor2d(normals('w', inputs * outputs), [inputs, outputs]);
    const frozen = Float64Array.from(w.dataSync());
    const factors = widths.flatMap((width, i) => [
      random(`a ${i}`, [inputs, rank]),
      random(`b ${i}`, [rank, width]),
    ]);
    const op = (x: Tensor, ...list: Tensor[]): Tensor => {
      const pair = (i: number): LoraFactors => ({ a: list[2 * i], b: list[2 * i + 1] }) as LoraFactors;
      const parts = at.map((offset, i) => ({ factors: pair(i), offset }));
      return fusedLora(x, w, parts, scale);
    };
    const formula = (x: Values, ...list: Values[]): Values => {
      const y = times(x, frozen, inputs);
      widths.forEach((width, i) =>
        times(times(x, list[2 * i], inputs), list[2 * i + 1], rank).forEach((value, j) => {
          y[Math.floor(j / width) * outputs + at[i] + (j % width)] += scale * value;
        }),
      );
      return y;
    };
    expectFormula(op, formula, [random('x', [rows, inputs]), ...factors], [rows, outputs]);
    w.dispose();
  });

  it('leaves the product x W as it is for others that use it', () => {
    const [x, w] = [random('x', [3, 20]), random('w', [20, 7])];
    const [a, b] = [random('a', [20, 2]), random('b', [2, 7])];
    const product = (): Tensor => tf.matMul(x as never, w as never) as Tensor;
    const expected = tf.tidy(() => product().dataSync());
    const shared = (): Tensor[] => [product(), fusedLora(x, w, [{ factors: { a, b }, offset: 0 }], 1)];
    const [base, adapted] = callOnce(shared, []);
    expect(relativeDifference(base, expected)).toBeLessThan(1e-6);
    expect(relativeDifference(adapted, expected)).toBeGreaterThan(0.1);
    tf.dispose([x, w, a, b]);
  });
});

/** Prompts of several lengths, padded on the left to the longest, with `group` completions of `length` each. */
interface Layout {
  prompts: number[];
  group: number;
  length: number;
}

/** What each token sees, itself last: prompts, then completions. Padding sees nothing. */
function visible({ prompts, group, length }: Layout): number[][] {
  const width = Math.max(...prompts);
  const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
  const whole = prompts.map((n, p) => range((p + 1) * width - n, (p + 1) * width));
  const own = (first: number): number[][] => range(0, length).map((t) => range(first, first + t + 1));
  return [
    ...whole.flatMap((all) =>
      range(1, width + 1).map((end) => all.slice(0, Math.max(0, end - width + all.length))),
    ),
    ...range(0, prompts.length * group).flatMap((row) =>
      own(prompts.length * width + row * length).map((some) => [...whole[Math.floor(row / group)], ...some]),
    ),
  ];
}

/** [P, Tp] ones where there is a prompt's token. */
const maskOf = ({ prompts }: Layout): Tensor => {
  const width = Math.max(...prompts);
  return tf.tensor2d(prompts.map((n) => Array.from({ length: width }, (_, t) => Number(t >= width - n))));
};

/** Each token's place in its sequence. */
const positionsOf = (layout: Layout): number[] =>
  visible(layout).map(({ length }) => Math.max(0, length - 1));

/** The angles of a position, for the first half of a head. */
const angles = (position: number, dim: number): number[] =>
  Array.from({ length: dim / 2 }, (_, i) => position * theta ** ((-2 * i) / dim));

interface AttentionCase extends Layout {
  heads: number;
  kvHeads: number;
  dim: number;
}

/** One head: RMSNorm, then rotation of the pairs (i, i + D / 2). */
function normRotate(x: Values, w: Values, position: number): Values {
  const n = x.length;
  const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / n + eps);
  const normed = x.map((v, i) => (v * w[i]) / root);
  const angle = angles(position, n);
  return normed.map((v, i) => {
    const [cos, sin] = [Math.cos(angle[i % (n / 2)]), Math.sin(angle[i % (n / 2)])];
    return i < n / 2 ? v * cos - normed[i + n / 2] * sin : v * cos + normed[i - n / 2] * sin;
  });
}

/** softmax(q k / sqrt(D)) v of every token and head over what it sees: [N, heads D]. */
function attention(c: AttentionCase, tokens: number[][], qkv: Values, qNorm: Values, kNorm: Values): Values {
  const { heads, kvHeads, dim } = c;
  const head = (t: number, h: number): Values =>
    qkv.subarray((t * (heads + 2 * kvHeads) + h) * dim).subarray(0, dim);
  const keys = tokens.map(({ length }, t) =>
    Array.from({ length: kvHeads }, (_, h) => normRotate(head(t, heads + h), kNorm, length - 1)),
  );
  const result = new Float64Array(tokens.length * heads * dim);
  tokens.forEach((seen, t) => {
    for (let h = 0; h < heads && seen.length > 0; h++) {
      const shared = Math.floor((h * kvHeads) / heads);
      const query = normRotate(head(t, h), qNorm, seen.length - 1);
      const scores = seen.map(
        (s) => query.reduce((sum, q, i) => sum + q * keys[s][shared][i], 0) / Math.sqrt(dim),
      );
      const top = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - top));
      const sum = weights.reduce((a, b) => a + b, 0);
      const target = result.subarray((t * heads + h) * dim);
      seen.forEach((s, k) =>
        head(s, heads + kvHeads + shared).forEach((v, i) => (target[i] += (weights[k] / sum) * v)),
      );
    }
  });
  return result;
}

describe('fusedAttention', () => {
  it.each<AttentionCase>([
    { heads: 3, kvHeads: 1, dim: 6, prompts: [1, 6, 4], group: 2, length: 5 },
    { heads: 6, kvHeads: 2, dim: 10, prompts: [3], group: 1, length: 4 },
    { heads: 6, kvHeads: 2, dim: 10, prompts: [2, 19, 7], group: 5, length: 18 },
    { heads: 3, kvHeads: 1, dim: 6, prompts: [17, 33, 1], group: 1, length: 35 },
    { heads: 2, kvHeads: 2, dim: 32, prompts: [16, 16], group: 2, length: 16 },
    { heads: 4, kvHeads: 2, dim: 16, prompts: [5, 1], group: 5, length: 1 },
  ])('has the value and gradients of its formula: %j', (c) => {
    const { heads, kvHeads, dim, group } = c;
    const [tokens, positions] = [visible(c), positionsOf(c)];
    const all = positions.flatMap((position) => angles(position, dim));
    const table = (f: (angle: number) => number): Tensor =>
      tf.tensor3d(all.map(f), [positions.length, 1, dim / 2]);
    const [mask, cos, sin] = [maskOf(c), table(Math.cos), table(Math.sin)];
    const op = (qkv: Tensor, qNorm: Tensor, kNorm: Tensor): Tensor =>
      fusedAttention(qkv, { qNorm, kNorm, eps, kvHeads, cos, sin, mask, group });
    const args = [
      random('qkv', [positions.length, (heads + 2 * kvHeads) * dim]),
      random('q', [dim], 2),
      random('k', [dim], 2),
    ];
    const formula = (qkv: Values, q: Values, k: Values): Values => attention(c, tokens, qkv, q, k);
    expectFormula(op, formula, args, [positions.length, heads * dim]);
    tf.dispose([mask, cos, sin]);
  });
});

const config: ModelConfig = {
  ...{ modelType: 'qwen3', dtype: null, eosTokenIds: [0], padTokenId: 0, maxPositionEmbeddings: 512 },
  ...{ vocabSize: 50, hiddenSize: 20, intermediateSize: 36, numHiddenLayers: 2, tieWordEmbeddings: true },
  ...{ numAttentionHeads: 3, numKeyValueHeads: 1, headDim: 6, rmsNormEps: eps, ropeTheta: theta },
};
const sixHeads = { numAttentionHeads: 6, numKeyValueHeads: 2, headDim: 10 };
const untied = { ...config, ...sixHeads, tieWordEmbeddings: false };
const even = { ...config, hiddenSize: 32, intermediateSize: 48, numAttentionHeads: 4, headDim: 16 };

/** A model with random weights, norms too; with modules an adapter of random factors, else all weights are trained. */
function randomNetwork(model: ModelConfig, modules: readonly LoraModule[], r: number): Network {
  const read = (name: string, shape: readonly number[]): Float32Array =>
    normals(name, size(shape), 0.25).map((x) => (name.includes('norm') ? 1 + x : x));
  const weights = buildWeights(model, read, { kind: modules.length === 0 ? 'variable' : 'constant' });
  if (modules.length === 0) return { config: model, weights, adapter: null };
  const settings = { base_model_name_or_path: null, lora_dropout: 0, use_rslora: false };
  const target = { ...settings, r, lora_alpha: 2 * r, target_modules: [...modules] };
  const adapter = LoraAdapter.create(model, target, 1);
  for (const [name, factor] of adapter.named())
    tf.tidy(() => factor.assign(tf.tensor(normals(name, factor.size, 0.2), factor.shape) as never));
  return { config: model, weights, adapter };
}

/** A weighted sum of the log-probabilities of random completions, and its gradients. */
function passGradients(net: Network, group: number, mode: ExecutionMode): Float32Array[] {
  const { adapter, weights } = net;
  const trained = adapter === null ? weightTensors(weights) : adapter.named().map(([, factor]) => factor);
  const layout = { prompts: [19, 1, 7], group, length: 21 };
  const places = positionsOf(layout);
  const [prompts, rows, count] = [[3, 19], [3 * group, 21], 3 * 19];
  const ids = Array.from(normals('ids', places.length), (x) => Math.floor(1e4 * Math.abs(x)) % 50);
  const args = [
    tf.tensor(ids.slice(0, count), prompts, 'int32'),
    maskOf(layout),
    tf.tensor(places.slice(0, count), prompts),
    tf.tensor(ids.slice(count), rows, 'int32'),
    tf.tensor(places.slice(count), rows),
    tf.tensor(normals('loss', size(rows)), [size(rows)]),
  ];
  const pass = (...[promptIds, mask, positions, own, ownPositions, loss]: Tensor[]): Tensor[] => {
    const { value, grads } = tf.variableGrads(() => {
      const hidden = forwardSharedPrefix(net, { ids: promptIds, mask, positions }, own, ownPositions);
      const { logProbs } = tokenLogProbs(hidden, tf.reshape(own, [own.size]), weights.head, 1);
      return tf.sum(tf.mul(logProbs, loss)).asScalar();
    }, trained as Variable[]);
    return [value, ...trained.map((tensor) => grads[(tensor as Variable).name])];
  };
  return callOnce(pass, args, mode);
}

describe('a pass on the fused ops', () => {
  it.each<[string, ModelConfig, readonly LoraModule[], number, number]>([
    ['rank 3 on all projections', config, LORA_TARGETS, 3, 5],
    ['rank 16 on queries and values', untied, ['q_proj', 'v_proj'], 16, 1],
    ['rank 20 on the down projection', config, ['down_proj'], 20, 5],
    ['rank 16 on output and gate', untied, ['o_proj', 'gate_proj'], 16, 2],
    ['rank 16 on all, sizes of 16', even, LORA_TARGETS, 16, 1],
    ['all weights, tied', config, [], 0, 5],
    ['all weights, untied', untied, [], 0, 1],
  ])('has the value and gradients of the plain graph (%s)', (_, model, modules, rank, group) => {
    const net = randomNetwork(model, modules, rank);
    const [loss, ...expected] = passGradients(net, group, 'eager');
    for (const recompute of [false, true]) {
      const [value, ...gradients] = passGradients({ ...net, recompute }, group, 'graph');
      expectRows(value, loss, 1, 'value');
      expect(gradients.length).toBe(expected.length);
      gradients.forEach((g, i) => expectRows(g, expected[i], g.length, `gradient ${i}`));
    }
    tf.dispose(weightTensors(net.weights));
    net.adapter?.dispose();
  });
});
