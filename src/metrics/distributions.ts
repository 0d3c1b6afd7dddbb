/**
 * Tails of the normal and of Student's distribution, and Student's quantile.
 *
 * Ours: of the npm libraries jstat is right to 1e-7, cephes has no synchronous ES module, @stdlib brings 223 packages.
 */

import { ShapeError } from '../runtime/errors';

/**
 * P(Z >= z) of a standard normal Z. With its density f: for abs(z) < 3 one half minus
 * f(z) (z + z^3/3 + z^5/(3 5) + ...), beyond f(z) / (z + 1/(z + 2/(z + 3/(z + ...)))).
 *
 * Source: Abramowitz and Stegun 26.2.11 and 26.2.14.
 */
export function normalTail(z: number): number {
  if (Number.isNaN(z)) throw new ShapeError('normal tail of NaN; expected a number.');
  if (z < 0) return 1 - normalTail(-z);
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  if (density === 0) return 0;
  if (z < 3) {
    let sum = 0;
    for (let n = 1, term = z; term > Number.EPSILON * sum; n += 2, term *= (z * z) / n) sum += term;
    return 0.5 - density * sum;
  }
  let fraction = z;
  for (let n = 120; n >= 1; n--) fraction = z + n / fraction;
  return density / fraction;
}

/**
 * Gamma(a + 1/2) / Gamma(a), a > 0: sqrt(a) exp(-1/(8 a) + 1/(192 a^3) - 1/(640 a^5) + 17/(14336 a^7)) at a + m >= 20,
 * taken back by the product of a/(a + 1/2) over a, ..., a + m - 1.
 *
 * Source: from Stirling's series, Abramowitz and Stegun 6.1.40.
 */
function gammaHalfRatio(a: number): number {
  let product = 1;
  for (; a < 20; a++) product *= a / (a + 0.5);
  const square = 1 / (a * a);
  const series = (-1 / 8 + square * (1 / 192 - square * (1 / 640 - (square * 17) / 14336))) / a;
  return product * Math.sqrt(a) * Math.exp(series);
}

/**
 * a I_x(a, b) B(a, b) / (x^a (1-x)^b) of the incomplete beta function, by its continued fraction; it converges fast
 * where x < (a + 1)/(a + b + 2).
 *
 * Source: NIST DLMF 8.17.22, evaluated by the method of Lentz.
 */
function betaFraction(x: number, a: number, b: number): number {
  let [numerator, denominator] = [1, 1 / (1 - ((a + b) * x) / (a + 1))];
  let fraction = denominator;
  for (let m = 1; ; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    const before = fraction;
    for (const term of [even, odd]) {
      denominator = 1 / (1 + term * denominator);
      numerator = 1 + term / numerator;
      fraction *= denominator * numerator;
    }
    if (Math.abs(fraction - before) <= Number.EPSILON * Math.abs(fraction)) return fraction;
  }
}

const MOST_FREEDOM = 1e8;

/**
 * P(abs(T) >= abs(t)) of Student's T: I_x(df/2, 1/2) at x = df/(df + t^2), or 1 - I_{1-x}(1/2, df/2).
 *
 * @param df  degrees of freedom, above 0, whole or not
 * Source: Abramowitz and Stegun 26.7.1.
 */
export function studentTwoTails(t: number, df: number): number {
  if (Number.isNaN(t) || !(df > 0 && df <= MOST_FREEDOM)) {
    throw new ShapeError(`Student's tails of t = ${t}, ${df} degrees of freedom; expected 0 < df <= 1e8.`);
  }
  const squares = (t * t) / df;
  if (squares === 0) return 1;
  if (squares === Infinity) return 0;
  // x^(df/2) (1-x)^(1/2) / B(df/2, 1/2)
  const front =
    (Math.exp((-df / 2) * Math.log1p(squares)) * gammaHalfRatio(df / 2)) /
    Math.sqrt(Math.PI * (1 + 1 / squares));
  const complement = 1 / (1 + 1 / squares);
  if (complement < 1.5 / (df / 2 + 2.5)) return 1 - 2 * front * betaFraction(complement, 0.5, df / 2);
  return (2 / df) * front * betaFraction(1 / (1 + squares), df / 2, 0.5);
}

/**
 * The t >= 0 that abs(T) exceeds with probability `tails`, such as 0.05 for a 95 % interval: bisection of
 * `studentTwoTails`.
 */
export function studentQuantile(tails: number, df: number): number {
  if (!(tails > 0 && tails <= 1)) throw new ShapeError(`probability ${tails}; expected above 0, up to 1.`);
  if (tails === 1) return 0;
  let [low, high] = [0, 1];
  while (studentTwoTails(high, df) > tails) [low, high] = [high, 2 * high];
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return high;
    if (studentTwoTails(middle, df) > tails) low = middle;
    else high = middle;
  }
}
