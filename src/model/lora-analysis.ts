/** What an adapter changed, read off its factors: the size and the effective rank of s B A for every module. */
import { NumericError, ShapeError } from '../runtime/errors';
import { loraScale } from './peft';
import type { Adapter, LORA_TARGETS, LoraMatrices } from './peft';

/** The change s B A that an adapter makes to one matrix. */
export interface ModuleAnalysis {
  readonly layer: number;
  readonly module: (typeof LORA_TARGETS)[number];
  /** ||s B A||_F */
  readonly norm: number;
  /** exp(entropy of the normalised singular values), from 1 to the rank; none for a product of zero */
  readonly effectiveRank: { readonly value: number } | { readonly value: null; readonly reason: string };
  /** of s B A, largest first; min(r, in, out) values, the others of the matrix are 0 */
  readonly singularValues: readonly number[];
}

/** What an adapter changes, module by module. */
export interface AdapterAnalysis {
  readonly rank: number;
  /** s: alpha / r, or alpha / sqrt(r) with rsLoRA */
  readonly scale: number;
  /** in the order of the adapter: by layer */
  readonly modules: readonly ModuleAnalysis[];
}

type Columns = readonly Float64Array[];

function dot(a: Float64Array, b: Float64Array, from = 0): number {
  let sum = 0;
  for (let i = from; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Takes from `column` its part along `direction` twice: the reflection I - 2 v v^T / v^T v, rows `from` on. */
function reflect(column: Float64Array, direction: Float64Array, squared: number, from: number): void {
  const factor = (2 * dot(column, direction, from)) / squared;
  for (let i = from; i < column.length; i++) column[i] -= factor * direction[i];
}

/**
 * R of the QR decomposition of an [n, r] matrix by Householder reflections, as its r columns of min(n, r) values.
 * Source: Golub and Van Loan, "Matrix Computations", 4th edition, algorithm 5.2.1.
 */
function upperFactor(matrix: Columns): Float64Array[] {
  const columns = matrix.map((column) => column.slice());
  const n = columns[0].length;
  const height = Math.min(n, columns.length);
  for (let k = 0; k < height; k++) {
    const direction = columns[k].slice();
    const length = Math.sqrt(dot(direction, direction, k));
    if (length === 0) continue;
    direction[k] += direction[k] < 0 ? -length : length;
    const squared = dot(direction, direction, k);
    for (let j = k; j < columns.length; j++) reflect(columns[j], direction, squared, k);
    columns[k].fill(0, k + 1);
  }
  return columns.map((column) => column.slice(0, height));
}

/** L R^T of two matrices of r columns, as its columns. */
function timesTransposed(left: Columns, right: Columns): Float64Array[] {
  return Array.from({ length: right[0].length }, (_, j) => {
    const column = new Float64Array(left[0].length);
    left.forEach((source, k) => {
      for (let i = 0; i < column.length; i++) column[i] += source[i] * right[k][j];
    });
    return column;
  });
}

/** Turns two columns in their plane until they are orthogonal; false when they were already, or one is rounding. */
function orthogonalise(a: Float64Array, b: Float64Array, rounding: number): boolean {
  const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
  if (Math.min(aa, bb) <= rounding || Math.abs(ab) <= Number.EPSILON * Math.sqrt(aa) * Math.sqrt(bb))
    return false;
  const zeta = (bb - aa) / (2 * ab);
  const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const cosine = 1 / Math.hypot(1, tangent);
  const sine = cosine * tangent;
  for (let i = 0; i < a.length; i++) {
    const own = a[i];
    a[i] = cosine * own - sine * b[i];
    b[i] = sine * own + cosine * b[i];
  }
  return true;
}

const MOST_SWEEPS = 60;

/**
 * Singular values by Hestenes' one-sided Jacobi rotations, largest first: relatively accurate where the squares of a
 * Gram matrix lose the small ones. Overwrites the columns.
 * Source: Golub and Van Loan, 8.6.3.
 */
function singularValues(columns: Columns): number[] {
  const rounding = Number.EPSILON ** 2 * columns.reduce((sum, column) => sum + dot(column, column), 0);
  let sweeps = 0;
  for (let turned = true; turned; sweeps++) {
    if (sweeps === MOST_SWEEPS)
      throw new NumericError(`singular values did not settle in ${MOST_SWEEPS} sweeps`);
    turned = false;
    for (let i = 0; i < columns.length; i++)
      for (let j = i + 1; j < columns.length; j++)
        turned = orthogonalise(columns[i], columns[j], rounding) || turned;
  }
  return columns.map((column) => Math.sqrt(dot(column, column))).sort((a, b) => b - a);
}

/** The singular values of B A, min(r, in, out) of them: those of R_B R_A^T with B = Q_B R_B and A^T = Q_A R_A. */
function productSingularValues({ a, b }: LoraMatrices, rank: number): number[] {
  const [inputs, outputs] = [a.length / rank, b.length / rank];
  const columnsOfB = Array.from({ length: rank }, (_, k) =>
    Float64Array.from({ length: outputs }, (_unused, i) => b[i * rank + k]),
  );
  const rowsOfA = Array.from({ length: rank }, (_, k) =>
    Float64Array.from(a.subarray(k * inputs, (k + 1) * inputs)),
  );
  const small = timesTransposed(upperFactor(columnsOfB), upperFactor(rowsOfA));
  return singularValues(small).slice(0, Math.min(rank, inputs, outputs));
}

function effectiveRank(values: readonly number[]): ModuleAnalysis['effectiveRank'] {
  const sum = values.reduce((total, value) => total + value, 0);
  if (sum === 0) return { value: null, reason: 'B A is zero' };
  const shares = values.map((value) => value / sum).filter((share) => share > 0);
  return { value: Math.exp(-shares.reduce((total, share) => total + share * Math.log(share), 0)) };
}

function analyseModule(name: string, factors: LoraMatrices, rank: number, scale: number): ModuleAnalysis {
  for (const factor of [factors.a, factors.b]) {
    if (factor.length === 0 || factor.length % rank !== 0)
      throw new ShapeError(
        `${name}: a factor of ${factor.length} values; expected a multiple of the rank ${rank}`,
      );
    if (!factor.every(Number.isFinite)) throw new NumericError(`${name}: a weight is not finite`);
  }
  const [, layer, module] = /^layers\.(\d+)\.\w+\.(\w+)$/.exec(name) ?? [];
  if (module === undefined) throw new ShapeError(`${name}: expected a module such as layers.0.mlp.up_proj`);
  const values = productSingularValues(factors, rank).map((value) => scale * value);
  return {
    layer: Number(layer),
    module: module as ModuleAnalysis['module'],
    norm: Math.hypot(...values),
    effectiveRank: effectiveRank(values),
    singularValues: values,
  };
}

/**
 * Size and effective rank of the change s B A of every module, without forming B A [out, in]:
 * ||s B A||_F = s sqrt(trace((B^T B)(A A^T))) = sqrt(sum sigma_i^2), and exp(-sum p_i ln p_i) with
 * p_i = sigma_i / sum sigma. The sigma_i come from the QR factors of B and A^T, an [r, r] matrix.
 *
 * @param adapter  of `readAdapter`
 * @throws ShapeError    when a factor is not of the adapter's rank
 * @throws NumericError  when a weight is not finite
 * Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
 */
export function analyseAdapter({ config, matrices }: Adapter): AdapterAnalysis {
  const scale = loraScale(config);
  const modules = [...matrices].map(([name, factors]) => analyseModule(name, factors, config.r, scale));
  return { rank: config.r, scale, modules };
}
