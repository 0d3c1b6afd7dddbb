import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../runtime/errors';
import { tf } from '../runtime/tf';
import { bucket, bucketSize } from '../model/memory';
import { packCompletions, packPrompts, packValues, rowValues } from './batch';
import { logProbPasses, packBatch } from './packing';
import type { Sequence } from './policy';

const PAD = 99;

describe('bucket', () => {
  it('rounds up to a multiple, exact at the boundaries', () => {
    expect([0, 1, bucketSize - 1, bucketSize, bucketSize + 1, 2 * bucketSize].map(bucket)).toEqual([
      ...[bucketSize, bucketSize, bucketSize, bucketSize],
      ...[2 * bucketSize, 2 * bucketSize],
    ]);
  });
});

describe('packPrompts', () => {
  it('pads on the left, and counts positions from the first token', () => {
    const packed = packPrompts([[7, 8, 9], [5]], PAD);
    const width = bucketSize;
    const padding = (length: number, value: number): number[] =>
      new Array<number>(width - length).fill(value);
    expect(packed.ids.arraySync()).toEqual([
      [...padding(3, PAD), 7, 8, 9],
      [...padding(1, PAD), 5],
    ]);
    expect(packed.mask.arraySync()).toEqual([
      [...padding(3, 0), 1, 1, 1],
      [...padding(1, 0), 1],
    ]);
    expect((packed.positions.arraySync() as number[][]).map((row) => row.slice(-3))).toEqual([
      [0, 1, 2],
      [0, 0, 0],
    ]);
    tf.dispose([packed.ids, packed.mask, packed.positions]);
  });

  it('refuses an empty prompt', () => {
    expect(() => packPrompts([[1], []], PAD)).toThrow(ShapeError);
  });
});

describe('packCompletions', () => {
  it('pads on the right, and continues the positions of the prompt', () => {
    const packed = packCompletions(
      [
        { tokenIds: [4, 5], promptLength: 3 },
        { tokenIds: new Array<number>(bucketSize + 1).fill(6), promptLength: 1 },
      ],
      PAD,
    );
    expect(packed.width).toBe(2 * bucketSize);
    const ids = packed.ids.arraySync() as number[][];
    expect(ids[0]).toEqual([4, 5, ...new Array<number>(packed.width - 2).fill(PAD)]);
    expect(ids[1].filter((id) => id === 6)).toHaveLength(bucketSize + 1);
    const positions = packed.positions.arraySync() as number[][];
    expect(positions[0].slice(0, 2)).toEqual([3, 4]);
    expect(positions[1].slice(0, 3)).toEqual([1, 2, 3]);
    tf.dispose([packed.ids, packed.positions]);
  });
});

describe('packValues', () => {
  it('is undone by rowValues', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.integer(), { maxLength: 16 }), { minLength: 1, maxLength: 6 }),
        (rows) => {
          const packed = packValues(rows, 16, -1);
          const values = Float32Array.from(packed.dataSync());
          packed.dispose();
          rows.forEach((row, r) =>
            expect([...rowValues(values, 16, r, row.length)]).toEqual(row.map(Math.fround)),
          );
          expect(values.length).toBe(rows.length * 16);
        },
      ),
    );
  });
});

describe('logProbPasses', () => {
  const lengths = fc.array(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 3000 })), {
    maxLength: 30,
  });

  it('gives every sequence once, in groups of one prompt, of one size in a pass', () => {
    fc.assert(
      fc.property(lengths, (shapes) => {
        const sequences: Sequence[] = shapes.map(([prompt, length]) => ({
          promptIds: [prompt, prompt + 1],
          completionIds: new Array<number>(length).fill(1),
        }));
        const passes = [...logProbPasses(sequences)];
        const seen = passes.flat(2).sort((a, b) => a - b);
        expect(seen).toEqual(sequences.map((_, i) => i));
        for (const pass of passes) {
          expect(new Set(pass.map((group) => group.length)).size).toBe(1);
          for (const group of pass)
            for (const i of group) expect(sequences[i].promptIds).toEqual(sequences[group[0]].promptIds);
        }
      }),
    );
  });

  it('bounds the tokens of a pass of several groups', () => {
    const sequences = Array.from({ length: 40 }, (_, i) => ({
      promptIds: [i],
      completionIds: new Array<number>(50 * (i + 1)).fill(1),
    }));
    for (const pass of logProbPasses(sequences)) {
      const longest = Math.max(...pass.flat().map((i) => sequences[i].completionIds.length));
      if (pass.length > 1) expect(pass.length * longest).toBeLessThanOrEqual(8192);
    }
  });
});

describe('packBatch', () => {
  it('fills groups up with rows that do not count, and unpacks what was given only', () => {
    const before = tf.memory().numTensors;
    const groups = [
      { promptIds: [1, 2], rows: [{ tokenIds: [3, 4], advantage: 2 }] },
      {
        promptIds: [5],
        rows: [
          { tokenIds: [6], advantage: -1 },
          { tokenIds: [7, 8, 9], advantage: 1, mask: [1, 0, 1] },
        ],
      },
    ];
    const batch = { groups, totalRows: 3, totalTokens: 5, totalMicroBatches: 1 };
    const packed = packBatch(batch, PAD, 0.5);
    const [, , , own, , mask, , advantages, totals] = packed.inputs.map((tensor) => tensor.arraySync());
    const masks = (mask as number[][]).map((row) => row.slice(0, 4));
    expect(masks).toEqual([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]]); // prettier-ignore
    expect(advantages).toEqual([2, 0, -1, 1]);
    expect(totals).toEqual([3, 5, 1]);
    const flat = Float32Array.from((own as number[][]).flat());
    expect(packed.unpack(flat).map((group) => group.map((row) => [...row]))).toEqual([
      [[3, 4]],
      [[6], [7, 8, 9]],
    ]);
    expect(packed.flags).toEqual({ old: false, reference: false, dropout: 0 });
    tf.dispose(packed.inputs);
    expect(tf.memory().numTensors).toBe(before);
  });
});
