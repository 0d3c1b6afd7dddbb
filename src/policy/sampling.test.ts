import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { compile } from '../runtime/compile';
import type { ExecutionMode } from '../runtime/compile';
import { Random } from '../runtime/random';
import { tf } from '../runtime/tf';
import type { Tensor } from '../runtime/tf';
import type { Truncation } from './sampling';
import { drawTokens, sampleTokens, truncatedDistribution } from './sampling';

const numTensors = tf.memory().numTensors;
afterAll(() => expect(tf.memory().numTensors).toBe(numTensors));

function read(compute: () => Tensor): number[] {
  const result = tf.tidy(compute);
  const values = Array.from(result.dataSync());
  result.dispose();
  return values;
}

function distribution(logits: readonly number[], truncation: Truncation): number[] {
  return read(() => truncatedDistribution(tf.tensor2d([logits.slice()]), truncation));
}

function draw(probabilities: readonly number[], uniforms: readonly number[]): number[] {
  return read(() =>
    drawTokens(
      tf.tile(tf.tensor2d([probabilities.slice()]), [uniforms.length, 1]),
      tf.tensor1d([...uniforms]),
    ),
  );
}

function normals(seed: number, length: number, scale: number): number[] {
  const random = new Random(seed, 'sampling test');
  return Array.from({ length }, () => Math.fround(scale * random.normal()));
}

/** Top-p by sorting, in double precision: the ids kept, likeliest first. */
function nucleusBySorting(logits: readonly number[], temperature: number, topP: number): Set<number> {
  const top = Math.max(...logits);
  const masses = logits.map((logit) => Math.exp((logit - top) / temperature));
  const needed = topP * masses.reduce((a, b) => a + b, 0);
  const order = masses.map((_, i) => i).sort((i, j) => masses[j] - masses[i]);
  const kept = new Set<number>();
  let sum = 0;
  for (const id of order) {
    if (sum >= needed) break;
    kept.add(id);
    sum += masses[id];
  }
  return kept;
}

describe('truncatedDistribution', () => {
  it.each([
    [2_048, 0.8, 0.9, true],
    [32_768, 0.8, 0.9, true],
    [32_768, 1, 0.999, true],
    [32_768, 0.8, 0.9, false],
    [32_768, 1, 0.999, false],
  ])(
    'top-p keeps the set that sorting keeps (%d tokens, temperature %d, top-p %d, own op %s)',
    (size, temperature, topP, ownOp) => {
      const logits = normals(size, size, 3);
      const expected = nucleusBySorting(logits, temperature, topP);
      const probabilities = distribution(logits, { temperature, topP, ownOp });
      const different = probabilities.filter((p, id) => p > 0 !== expected.has(id)).length;
      // Tokens at the very edge may fall on either side of a rounding in the sum over the vocabulary.
      expect(different).toBeLessThanOrEqual(2);
    },
  );

  it('keeps a mass of at least top-p, and less without its least likely token', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 2, maxLength: 30 }),
        fc.double({ min: 0.05, max: 0.99, noNaN: true }),
        (raw, topP) => {
          const logits = raw.map(Math.fround);
          const full = distribution(logits, { temperature: 1 });
          const kept = distribution(logits, { temperature: 1, topP });
          const inside = full.filter((_, i) => kept[i] > 0);
          const mass = inside.reduce((a, b) => a + b, 0);
          const least = Math.min(...inside);
          const tied = inside.filter((p) => p <= least * (1 + 1e-5)).reduce((a, b) => a + b, 0);
          expect(mass).toBeGreaterThan(topP - 1e-5);
          expect(mass - tied).toBeLessThan(topP + 1e-5);
        },
      ),
      { numRuns: 60, seed: 1 },
    );
  });

  it.each([true, false])('keeps all tokens that tie at the top-p threshold (own op %s)', (ownOp) => {
    expect(distribution([1, 1, 1, 1, -5], { temperature: 1, topP: 0.5, ownOp })).toEqual([
      0.25, 0.25, 0.25, 0.25, 0,
    ]);
    // Less than 2^-20 apart on one side of a multiple of it, and on two sides.
    const [edge, step] = [-1, 2 ** -20];
    const near = [0, edge + step / 4, edge + step / 2, edge - step / 4, -9].map(Math.fround);
    const kept = distribution(near, { temperature: 1, topP: 0.6, ownOp }).map((p) => p > 0);
    expect(kept).toEqual([true, true, true, false, false]);
  });

  it('keeps the same set by its own op as by bisection, but for rounding at the very edge', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.double({ min: -40, max: 40, noNaN: true }), fc.constant(-Infinity)), {
          minLength: 1,
          maxLength: 200,
        }),
        fc.double({ min: 0.01, max: 0.999, noNaN: true }),
        fc.constantFrom(0, 3),
        (raw, topP, topK) => {
          const logits = [1, ...raw].map(Math.fround);
          const settings = { temperature: 0.7, topP, topK };
          const [own, other] = [true, false].map((ownOp) => distribution(logits, { ...settings, ownOp }));
          const masses = distribution(logits, { temperature: 0.7 });
          for (const [i, p] of own.entries()) {
            if (p > 0 === other[i] > 0) continue;
            // In one of the two alone: then what is larger sums to top-p but for rounding.
            const larger = masses.filter((mass) => mass > masses[i]).reduce((a, b) => a + b, 0);
            expect(topK > 0 || Math.abs(larger - topP) < 1e-5).toBe(true);
          }
          expect(own.every(Number.isFinite)).toBe(true);
        },
      ),
      { numRuns: 200, seed: 5 },
    );
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
    const probabilities = fc.array(fc.constantFrom(0, 0, 1e-30, 1e-8, 0.1, 0.3, 1), {
      minLength: 1,
      maxLength: 40,
    });
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
    expect(draw(probabilities, [0, 0.2499, 0.2501, 1 - 2 ** -24, 1])).toEqual([
      700, 700, 1_100, 1_100, 1_100,
    ]);
  });

  it('follows the exact cumulative distribution of a vocabulary of 150,000 within 1e-5', () => {
    const masses = normals(3, 150_000, 2).map((z) => Math.fround(Math.exp(z)));
    const total = masses.reduce((a, b) => a + b, 0);
    const random = new Random(4, 'u');
    const uniforms = Array.from({ length: 16 }, () => random.uniform());
    draw(masses, uniforms).forEach((id, i) => {
      const before = masses.slice(0, id).reduce((a, b) => a + b, 0) / total;
      expect(uniforms[i]).toBeGreaterThan(before - 1e-5);
      expect(uniforms[i]).toBeLessThan(before + masses[id] / total + 1e-5);
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
  const logits = normals(5, 3 * 700, 3);
  const uniforms = [0.05, 0.5, 0.95];

  function sample(truncation: Truncation, mode: ExecutionMode): number[][] {
    const x = tf.tensor2d(logits, [3, 700]);
    const u = tf.tensor1d(uniforms);
    const fn = compile('sample', (a, b) => Object.values(sampleTokens(a, b, truncation)), { mode });
    const results = fn(x, u);
    const values = results.map((result) => Array.from(result.dataSync()));
    tf.dispose([...results, x, u]);
    fn.dispose();
    return values;
  }

  function logSoftmax(row: number, id: number, temperature: number): number {
    const z = logits.slice(row * 700, (row + 1) * 700).map((logit) => logit / temperature);
    return z[id] - Math.log(z.reduce((sum, value) => sum + Math.exp(value), 0));
  }

  it.each<ExecutionMode>(['eager', 'graph', 'xla'])(
    'tells the log-probabilities of its draws (%s)',
    (mode) => {
      const truncation = { temperature: 0.8, topP: 0.9 };
      const [ids, plain, tempered, drawn] = sample(truncation, mode);
      ids.forEach((id, row) => {
        const row0 = logits.slice(row * 700, (row + 1) * 700);
        const nucleus = nucleusBySorting(row0, 0.8, 0.9);
        const kept = [...nucleus].reduce((sum, token) => sum + Math.exp(logSoftmax(row, token, 0.8)), 0);
        expect(nucleus.has(id)).toBe(true);
        expect(plain[row]).toBeCloseTo(logSoftmax(row, id, 1), 4);
        expect(tempered[row]).toBeCloseTo(logSoftmax(row, id, 0.8), 4);
        expect(drawn[row]).toBeCloseTo(logSoftmax(row, id, 0.8) - Math.log(kept), 4);
      });
    },
  );

  it('gives log-probability 0 to a greedy draw', () => {
    const [ids, plain, tempered, drawn] = sample({ temperature: 0 }, 'graph');
    ids.forEach((id, row) => {
      expect(logits[row * 700 + id]).toBe(Math.max(...logits.slice(row * 700, (row + 1) * 700)));
      expect(plain[row]).toBeCloseTo(logSoftmax(row, id, 1), 4);
    });
    expect([tempered, drawn]).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
  });

  it('bans a token by its bias in the draw only', () => {
    const drawn = tf.tidy(() =>
      sampleTokens(
        tf.tensor2d([[5, 0, 1]]),
        tf.tensor1d([0]),
        { temperature: 0 },
        tf.tensor1d([-Infinity, 0, 0]),
      ),
    );
    expect(drawn.ids.dataSync()[0]).toBe(2);
    expect(drawn.logProbs.dataSync()[0]).toBeCloseTo(1 - Math.log(Math.exp(5) + 1 + Math.exp(1)), 5);
    tf.dispose(drawn);
  });
});
