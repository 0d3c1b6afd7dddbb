import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { Tensor } from '../runtime/tf';
import type { Truncation } from './sampling';
import { drawOwn, drawTokens, sampleTokens, truncatedDistribution } from './sampling';

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

type Row = readonly number[];

function read(compute: () => Tensor): number[] {
  const result = tf.tidy(compute);
  const values = Array.from(result.dataSync());
  result.dispose();
  return values;
}

const vector = (values: Row): Tensor => tf.tensor1d([...values], 'float32');
const matrix = (rows: readonly Row[]): Tensor => tf.tensor2d(rows.map((row) => [...row]));

function distribution(logits: Row, truncation: Truncation): number[] {
  return read(() => truncatedDistribution(matrix([logits]), truncation));
}

function draw(probabilities: Row, uniforms: Row): number[] {
  return read(() => drawTokens(matrix(uniforms.map(() => probabilities)), vector(uniforms)));
}

function normals(seed: number, length: number, scale: number): number[] {
  const random = new Random(seed, 'sampling test');
  return Array.from({ length }, () => Math.fround(scale * random.normal()));
}

const rowsOf = (seed: number, rows: number, size: number, scale = 3): number[][] =>
  Array.from({ length: rows }, (_, r) => normals(100 * seed + r, size, scale));

const uniformsOf = (seed: number, count: number, random = new Random(seed, 'uniforms')): number[] =>
  Array.from({ length: count }, () => Math.fround(random.uniform()));

const largest = (values: Row): number => values.reduce((a, b) => Math.max(a, b), -Infinity);
const total = (values: Row): number => values.reduce((a, b) => a + b, 0);

function logSoftmax(logits: Row, id: number, temperature = 1): number {
  const top = largest(logits);
  const sum = total(logits.map((logit) => Math.exp((logit - top) / temperature)));
  return (logits[id] - top) / temperature - Math.log(sum);
}

/**
 * What may be drawn, by sorting, in double precision.
 * @returns probabilities, and the share of them that rounding at the edge of top-p may put in or out
 */
function exactly(logits: Row, { temperature, topK = 0, topP = 1, minP = 0 }: Truncation, bias: Row = []) {
  const biased = logits.map((logit, i) => logit + (bias[i] ?? 0));
  const top = largest(biased);
  const first = biased.indexOf(top);
  if (temperature === 0) return { probabilities: biased.map((_, i) => Number(i === first)), edge: 0 };
  const masses = biased.map((value) => Math.exp((value - top) / temperature));
  const order = masses.map((_, i) => i).sort((i, j) => masses[j] - masses[i]);
  const least = masses[order[topK - 1]] ?? 0;
  for (const i of order) if (masses[i] < least) masses[i] = 0;
  const needed = topP * total(masses);
  let [sum, edge, last] = [0, 0, 0];
  for (const i of topP < 1 ? order : []) {
    if (sum < needed) last = biased[i];
    const isNear = last > biased[i] && (last - biased[i]) / temperature < 2 ** -19;
    if (isNear || [sum, sum + masses[i]].some((value) => Math.abs(value / needed - 1) < 1e-5))
      edge += masses[i];
    sum += masses[i];
    if (biased[i] < last) masses[i] = 0;
  }
  for (const i of order) if (masses[i] < minP) masses[i] = 0;
  const kept = total(masses);
  return { probabilities: masses.map((mass) => mass / kept), edge: edge / kept };
}

/** @returns for each uniform number the token, and its log-probability at temperature 1, tempered, and as drawn */
type Drawing = (logits: readonly Row[], uniforms: Row, truncation: Truncation, bias?: Row) => number[][];

const asDraws = (values: Row, count: number): number[][] =>
  Array.from({ length: count }, (_, b) => [0, 1, 2, 3].map((k) => values[k * count + b]));

const drawByOp: Drawing = (logits, uniforms, truncation, bias = []) => {
  const draw = (): Tensor => drawOwn(matrix(logits), vector(uniforms), truncation, vector(bias));
  return asDraws(read(draw), uniforms.length);
};

const drawByGraph: Drawing = (logits, uniforms, truncation, bias = [0]) => {
  const each = uniforms.length / logits.length;
  const draw = (): Tensor => {
    const rows = matrix(logits.flatMap((row) => Array.from({ length: each }, () => row)));
    const drawn = sampleTokens(rows, vector(uniforms), truncation, vector(bias));
    return tf.concat(Object.values(drawn).map((tensor) => tf.cast(tensor, 'float32')));
  };
  return asDraws(read(draw), uniforms.length);
};

/** Less than 2^-20 apart on one side of a multiple of it, and on two sides. */
const nearTheEdge = [0, -1 + 2 ** -22, -1 + 2 ** -21, -1 - 2 ** -22, -9].map(Math.fround);

describe('truncatedDistribution', () => {
  it.each([
    [2_048, 0.8, 0.9],
    [32_768, 0.8, 0.9],
    [32_768, 1, 0.999],
  ])('keeps what sorting keeps (%d tokens, temperature %d, top-p %d)', (size, temperature, topP) => {
    const logits = normals(size, size, 3);
    const expected = exactly(logits, { temperature, topP }).probabilities;
    const probabilities = distribution(logits, { temperature, topP });
    const different = probabilities.filter((p, id) => p > 0 !== expected[id] > 0).length;
    // Tokens at the very edge may fall on either side of a rounding in the sum over the vocabulary.
    expect(different).toBeLessThanOrEqual(2);
  });

  it('keeps a mass of at least top-p, and less without its least likely token', () => {
    const values = fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 2, maxLength: 30 });
    const shares = fc.double({ min: 0.05, max: 0.99, noNaN: true });
    fc.assert(
      fc.property(values, shares, (raw, topP) => {
        const logits = raw.map(Math.fround);
        const full = distribution(logits, { temperature: 1 });
        const kept = distribution(logits, { temperature: 1, topP });
        const inside = full.filter((_, i) => kept[i] > 0);
        const least = Math.min(...inside);
        const tied = inside.filter((p) => p <= least * (1 + 1e-5));
        expect(total(inside)).toBeGreaterThan(topP - 1e-5);
        expect(total(inside) - total(tied)).toBeLessThan(topP + 1e-5);
      }),
      { numRuns: 60, seed: 1 },
    );
  });

  it('keeps all tokens that tie at the top-p threshold', () => {
    const equal = distribution([1, 1, 1, 1, -5], { temperature: 1, topP: 0.5 });
    expect(equal).toEqual([0.25, 0.25, 0.25, 0.25, 0]);
    const kept = distribution(nearTheEdge, { temperature: 1, topP: 0.6 }).map((p) => p > 0);
    expect(kept).toEqual([true, true, true, false, false]);
  });

  it('keeps all tokens that tie with the k-th', () => {
    expect(distribution([2, 1, 2, 0], { temperature: 1, topK: 1 })).toEqual([0.5, 0, 0.5, 0]);
  });

  it('puts everything on the first of the likeliest tokens at temperature 0', () => {
    expect(distribution([0, 3, 3, 1], { temperature: 0, topK: 2, topP: 0.9 })).toEqual([0, 1, 0, 0]);
  });

  it.each([
    [{ temperature: -1 }, /temperature is -1/],
    [{ temperature: 1, topP: 0 }, /topP is 0/],
    [{ temperature: 1, topP: 1.5 }, /topP is 1.5/],
    [{ temperature: 1, topK: 2.5 }, /topK is 2.5/],
    [{ temperature: 1, minP: 2 }, /minP is 2/],
  ])('refuses %j', (truncation, message) => {
    expect(() => distribution([1, 2], truncation)).toThrow(message);
  });
});

describe('drawTokens', () => {
  it('never draws a token of probability 0, whatever the uniform number', () => {
    const probabilities = fc.array(fc.constantFrom(0, 0, 1e-30, 1e-8, 0.1, 0.3, 1), { maxLength: 40 });
    fc.assert(
      fc.property(probabilities, fc.double({ min: 0, max: 1, noNaN: true }), (values, u) => {
        fc.pre(values.some((p) => p > 0));
        for (const id of draw(values, [0, u, 1])) expect(values[id]).toBeGreaterThan(0);
      }),
      { numRuns: 100, seed: 2 },
    );
  });

  it('draws the last possible token for u = 1, though zeros and whole empty blocks follow it', () => {
    const probabilities = new Array<number>(3_000).fill(0);
    probabilities[700] = 0.25;
    probabilities[1_100] = 0.75;
    const uniforms = [0, 0.2499, 0.2501, 1 - 2 ** -24, 1];
    expect(draw(probabilities, uniforms)).toEqual([700, 700, 1_100, 1_100, 1_100]);
  });

  it('follows the exact cumulative distribution of a vocabulary of 150,000 within 1e-5', () => {
    const masses = normals(3, 150_000, 2).map((z) => Math.fround(Math.exp(z)));
    const sum = total(masses);
    const uniforms = uniformsOf(4, 16);
    draw(masses, uniforms).forEach((id, i) => {
      const before = total(masses.slice(0, id)) / sum;
      expect(uniforms[i]).toBeGreaterThan(before - 1e-5);
      expect(uniforms[i]).toBeLessThan(before + masses[id] / sum + 1e-5);
    });
  });

  it('draws each token as often as its probability says', () => {
    const probabilities = [0.1, 0, 0.4, 0.2, 0.3];
    const count = 4_000;
    const uniforms = Array.from({ length: count }, (_, i) => (i + 0.5) / count);
    const ids = draw(probabilities, uniforms);
    probabilities.forEach((p, token) => {
      expect(ids.filter((id) => id === token).length / count).toBeCloseTo(p, 3);
    });
  });

  it('asks for one uniform number a row', () => {
    expect(() => draw([1], [])).toThrow();
    expect(() => tf.tidy(() => drawTokens(tf.ones([2, 3]), tf.ones([3])))).toThrow(/expected \[2\]/);
  });
});

describe('sampleTokens', () => {
  const logits = rowsOf(5, 3, 700);

  function sample(truncation: Truncation, mode: ExecutionMode): number[][] {
    const inputs = [matrix(logits), vector([0.05, 0.5, 0.95])];
    const fn = compile('sample', (x, u) => Object.values(sampleTokens(x, u, truncation)), { mode });
    const results = fn(...inputs);
    const values = results.map((result) => Array.from(result.dataSync()));
    tf.dispose([...results, ...inputs]);
    fn.dispose();
    return values;
  }

  it.each<ExecutionMode>(['eager', 'graph', 'xla'])("tells its draws' log-probabilities (%s)", (mode) => {
    const truncation = { temperature: 0.8, topP: 0.9 };
    const [ids, plain, tempered, drawn] = sample(truncation, mode);
    ids.forEach((id, row) => {
      const { probabilities } = exactly(logits[row], truncation);
      expect(plain[row]).toBeCloseTo(logSoftmax(logits[row], id), 4);
      expect(tempered[row]).toBeCloseTo(logSoftmax(logits[row], id, 0.8), 4);
      expect(drawn[row]).toBeCloseTo(Math.log(probabilities[id]), 4);
    });
  });

  it('gives log-probability 0 to a greedy draw', () => {
    const [ids, plain, tempered, drawn] = sample({ temperature: 0 }, 'graph');
    ids.forEach((id, row) => {
      expect(logits[row][id]).toBe(largest(logits[row]));
      expect(plain[row]).toBeCloseTo(logSoftmax(logits[row], id), 4);
    });
    expect([...tempered, ...drawn]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it('bans a token by its bias in the draw only', () => {
    const [[id, logProb]] = drawByGraph([[5, 0, 1]], [0], { temperature: 0 }, [-Infinity, 0, 0]);
    expect(id).toBe(2);
    expect(logProb).toBeCloseTo(1 - Math.log(Math.exp(5) + 1 + Math.exp(1)), 5);
  });
});

type Exact = ReturnType<typeof exactly>;

/** Where two tokens differ, the uniform number lies between them, so near to both that rounding may draw either. */
function expectSameId(a: number, b: number, uniform: number, { probabilities, edge }: Exact): void {
  const ends = a === b ? [] : [Math.min(a, b) + 1, Math.max(a, b)];
  for (const end of ends)
    expect(Math.abs(total(probabilities.slice(0, end)) - uniform), `${a}, ${b}`).toBeLessThan(1e-5 + edge);
}

/** A draw is what the definition says. */
function expectExact(draw: Row, logits: Row, uniform: number, temperature: number, exact: Exact): void {
  const [{ probabilities, edge }, [id, logProb, tempered, drawn]] = [exact, draw];
  let [expected, sum] = [0, probabilities[0]];
  while (sum <= uniform && expected < probabilities.length - 1) sum += probabilities[++expected];
  expectSameId(id, expected, uniform, exact);
  expect(Math.abs(logProb - logSoftmax(logits, id))).toBeLessThan(1e-5);
  const limit = temperature === 0 ? 0 : logSoftmax(logits, id, temperature);
  expect(Math.abs(tempered - limit)).toBeLessThan(1e-5);
  expect(edge).toBeLessThan(1e-3);
  if (probabilities[id] > 0)
    expect(Math.abs(drawn - Math.log(probabilities[id]))).toBeLessThan(1e-5 + 2 * edge);
  else expect(Math.exp(drawn)).toBeLessThan(2 * edge);
}

/** The op draws what the definition says, and what the graph draws. */
const expectRightDraws = (...[logits, uniforms, truncation, bias]: Parameters<Drawing>): void => {
  const graph = drawByGraph(logits, uniforms, truncation, bias);
  const exact = logits.map((row) => exactly(row, truncation, bias));
  drawByOp(logits, uniforms, truncation, bias).forEach((draw, b) => {
    const row = Math.floor((b * logits.length) / uniforms.length);
    expectExact(draw, logits[row], uniforms[b], truncation.temperature, exact[row]);
    expectSameId(draw[0], graph[b][0], uniforms[b], exact[row]);
    if (draw[0] !== graph[b][0]) return;
    const tolerances = [0, 1e-5, 1e-5, 1e-5 + 2 * exact[row].edge];
    draw.forEach((value, k) => expect(Math.abs(value - graph[b][k])).toBeLessThanOrEqual(tolerances[k]));
  });
};

const cuts = [{}, { topK: 4 }, { topP: 0.9 }, { minP: 0.05 }, { topK: 40, topP: 0.95, minP: 0.01 }];
const settings = [0, 0.7, 1].flatMap((temperature) => cuts.map((cut) => ({ temperature, ...cut })));

describe('drawOwn', () => {
  describe.each([5, 17, 512, 2_048, 40_000])('over %d tokens', (size) => {
    it.each(settings)('draws as the definition and the graph do: %j', (truncation) => {
      expectRightDraws(rowsOf(1, 2, size), uniformsOf(size, 6), truncation);
    });

    it.each(settings)('leaves out banned and impossible tokens: %j', (truncation) => {
      const logits = rowsOf(2, 2, size).map((row) => row.map((x, i) => (i % 5 === 4 ? -Infinity : x)));
      const bias = logits[0].map((_, i) => (i % 3 === 1 ? -Infinity : 0));
      const uniforms = [...uniformsOf(size + 1, 5), 1 - 2 ** -24];
      expectRightDraws(logits, uniforms, truncation, bias);
      for (const [id] of drawByOp(logits, uniforms, truncation, bias))
        expect([id % 5 === 4, id % 3 === 1]).toEqual([false, false]);
    });
  });

  it('adds a bias to the logits before the temperature divides them, as the graph does', () => {
    expectRightDraws(rowsOf(3, 2, 17), uniformsOf(3, 6), { temperature: 0.5 }, normals(4, 17, 2));
  });

  it('draws from every likely and unlikely distribution what the definition says', () => {
    // On a grid, so that equal logits are common and nearly equal ones are not.
    const logit = fc.oneof(fc.integer({ min: -9_999, max: 9_999 }), fc.constant(-Infinity));
    const uniforms = fc.double({ min: 0, max: 1, noNaN: true });
    const truncations = fc.constantFrom(...settings);
    fc.assert(
      fc.property(fc.array(logit, { maxLength: 60 }), truncations, uniforms, (raw, truncation, u) => {
        const [logits, uniform] = [[1, ...raw.map((n) => n / 256)], Math.fround(u)];
        const exact = exactly(logits, truncation);
        fc.pre(exact.edge === 0);
        expectExact(
          drawByOp([logits], [uniform], truncation)[0],
          logits,
          uniform,
          truncation.temperature,
          exact,
        );
      }),
      { numRuns: 300, seed: 6 },
    );
  });

  it('gives each row of logits its share of the uniform numbers, to the bit', () => {
    const [logits, uniforms] = [rowsOf(5, 4, 700), uniformsOf(5, 12)];
    const truncation = { temperature: 0.8, topP: 0.9 };
    const alone = uniforms.map((u, b) => drawByOp([logits[Math.floor(b / 3)]], [u], truncation)[0]);
    expect(drawByOp(logits, uniforms, truncation)).toEqual(alone);
  });

  it('keeps all tokens that tie at the top-p threshold', () => {
    const masses = nearTheEdge.slice(0, 3).map(Math.exp);
    drawByOp([nearTheEdge], [0, 0.999], { temperature: 1, topP: 0.6 }).forEach(([id, , , drawn], i) => {
      expect(id).toBe([0, 2][i]);
      expect(drawn).toBeCloseTo(Math.log(masses[id] / total(masses)), 6);
    });
  });

  it('draws the first possible token for 0 and the last for 1', () => {
    const logits = [-Infinity, 0, 1, -Infinity, 2, -9, -Infinity];
    expect(drawByOp([logits], [0, 1], { temperature: 1 }).map(([id]) => id)).toEqual([1, 5]);
    expect(drawByOp([logits], [0, 1], { temperature: 1, topK: 2 }).map(([id]) => id)).toEqual([2, 4]);
  });

  it.each(settings.slice(cuts.length))(
    'draws tokens as often as their probabilities say: %j',
    (truncation) => {
      const count = 40_000;
      const [logits] = rowsOf(6, 1, 50, 1.5);
      const { probabilities } = exactly(logits, truncation);
      const counts = new Array<number>(logits.length).fill(0);
      for (const [id] of drawByOp([logits], uniformsOf(6, count), truncation)) counts[id]++;
      const terms = probabilities.map((p, id) => (p > 0 ? (counts[id] - count * p) ** 2 / (count * p) : 0));
      expect(counts.filter((n, id) => n > 0 && probabilities[id] === 0)).toEqual([]);
      // Chi-square: its mean is the number of its degrees of freedom, its variance twice that.
      const freedom = probabilities.filter((p) => p > 0).length - 1;
      expect(total(terms)).toBeLessThan(freedom + 4 * Math.sqrt(2 * freedom));
    },
  );

  it.each([
    ['a NaN', (row: number[]) => row.fill(NaN, 9, 10)],
    ['a NaN in the last column', (row: number[]) => row.fill(NaN, 20)],
    ['nothing but -Infinity', (row: number[]) => row.fill(-Infinity)],
    ['an Infinity', (row: number[]) => row.fill(Infinity, 3, 4)],
  ])('refuses logits with %s', (_, damage) => {
    const logits = rowsOf(7, 2, 21);
    damage(logits[1]);
    for (const truncation of settings)
      expect(() => drawByOp(logits, [0.1, 0.9], truncation)).toThrow(/logits are not finite/);
  });

  it('refuses a NaN whatever its bits are', () => {
    const logits = Float32Array.from(normals(8, 21, 1));
    new Uint32Array(logits.buffer)[9] = 0xffffffff;
    const draw = (): Tensor =>
      drawOwn(tf.tensor2d(logits, [1, 21]), vector([0.5]), { temperature: 1 }, vector([]));
    expect(() => read(draw)).toThrow(/not finite/);
  });

  it('refuses settings out of range, sizes that do not fit, and a ban on all tokens', () => {
    const logits = rowsOf(9, 2, 7);
    const ban = logits[0].map(() => -Infinity);
    expect(() => drawByOp(logits, [0.5, 0.5], { temperature: 1 }, ban)).toThrow(/no token may be drawn/);
    expect(() => drawByOp(logits, [0.5, 0.5], { temperature: -1 })).toThrow(/temperature is -1/);
    expect(() => drawByOp(logits, [0.5, 0.5, 0.5], { temperature: 1 })).toThrow(/do not fit/);
    expect(() => drawByOp(logits, [0.5, 0.5], { temperature: 1 }, [0, 0])).toThrow(/do not fit/);
  });
});
