import { ShapeError } from '../runtime/errors';

export interface KolmogorovSmirnov {
  /** D = max over x of abs(F_a(x) - F_b(x)), in [0, 1] */
  statistic: number;
  pValue: number;
  /** how the p-value was found */
  method: 'exact' | 'asymptotic';
}

/** Lattice points of the exact p-value up to which it is computed (about a second). */
const EXACT_LATTICE = 1e8;

/**
 * Kolmogorov's limiting distribution, upper tail: Q(x) = 2 sum_{k>=1} (-1)^(k-1) exp(-2 k^2 x^2).
 * Below 1 its theta-function dual converges in a few terms: 1 - sqrt(2 pi)/x sum exp(-(2k-1)^2 pi^2 / (8 x^2)).
 */
export function kolmogorovTail(x: number): number {
  if (x <= 0) return 1;
  let sum = 0;
  if (x < 1) {
    for (let k = 1; k <= 8; k++) sum += Math.exp((-((2 * k - 1) ** 2) * Math.PI ** 2) / (8 * x * x));
    return 1 - (Math.sqrt(2 * Math.PI) / x) * sum;
  }
  for (let k = 1; k <= 8; k++) sum += (k % 2 === 1 ? 2 : -2) * Math.exp(-2 * k * k * x * x);
  return sum;
}

/** max over x of abs(F_a - F_b), times n m: an integer, so that ties with the statistic are exact. */
function scaledStatistic(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const x = new Float64Array(a).sort();
  const y = new Float64Array(b).sort();
  if (Number.isNaN(x[x.length - 1]) || Number.isNaN(y[y.length - 1])) {
    throw new ShapeError('a value is NaN; expected numbers only.');
  }
  let [i, j, largest] = [0, 0, 0];
  while (i < x.length && j < y.length) {
    const value = Math.min(x[i], y[j]);
    while (i < x.length && x[i] === value) i++;
    while (j < y.length && y[j] === value) j++;
    largest = Math.max(largest, Math.abs(i * y.length - j * x.length));
  }
  return largest;
}

/**
 * P(D >= d) when both samples, without ties, come from one distribution: the share of the monotone lattice paths
 * from (0, 0) to (n, m) that reach a point with abs(i m - j n) >= d n m. With v(i, j) that share for the paths to
 * (i, j): v = 1 outside the band, else v(i-1, j) i/(i+j) + v(i, j-1) j/(i+j). All terms are positive: small
 * p-values keep their digits.
 *
 * Source: the recursion of Hodges, "The significance probability of the Smirnov two-sample test", 1958.
 */
function exactPValue(n: number, m: number, scaled: number): number {
  const row = new Float64Array(m + 1);
  for (let i = 0; i <= n; i++) {
    // Inside the band: abs(i m - j n) < scaled. Left and right of it every path has been outside.
    const first = Math.max(0, Math.floor((i * m - scaled) / n) + 1);
    const last = Math.min(m, Math.ceil((i * m + scaled) / n) - 1);
    if (first > 0) row[first - 1] = 1;
    for (let j = first; j <= last; j++) {
      if (i + j === 0) continue;
      const below = i > 0 ? row[j] * i : 0;
      const left = j > 0 ? row[j - 1] * j : 0;
      row[j] = (below + left) / (i + j);
    }
    row.fill(1, last + 1, Math.min(m, last + 1 + Math.ceil(m / n)) + 1);
  }
  return row[m];
}

/**
 * Two-sample Kolmogorov-Smirnov test, two-sided. The p-value is exact while n m <= 1e8, and else that of Kolmogorov's
 * limit at x = D sqrt(e), e = n m / (n + m), shifted by 1/(6 sqrt e) + (x - 1)/(4 e).
 *
 * @throws ShapeError  when a sample is empty or has a NaN
 * Source: Hodges 1958 (exact); Vrbik, "Small-sample corrections to Kolmogorov-Smirnov test statistic", 2018 (shift).
 */
export function kolmogorovSmirnov(a: ArrayLike<number>, b: ArrayLike<number>): KolmogorovSmirnov {
  const [n, m] = [a.length, b.length];
  if (n === 0 || m === 0)
    throw new ShapeError(`samples of ${n} and ${m} values; expected at least 1 of each.`);
  const scaled = scaledStatistic(a, b);
  const statistic = scaled / (n * m);
  if (scaled === 0) return { statistic, pValue: 1, method: 'exact' };
  if (n * m <= EXACT_LATTICE) return { statistic, pValue: exactPValue(n, m, scaled), method: 'exact' };
  const effective = (n * m) / (n + m);
  const x = statistic * Math.sqrt(effective);
  const shifted = x + 1 / (6 * Math.sqrt(effective)) + (x - 1) / (4 * effective);
  return { statistic, pValue: Math.min(1, kolmogorovTail(shifted)), method: 'asymptotic' };
}
