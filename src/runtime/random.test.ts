import { describe, expect, it } from 'vitest';
import { philox4x32, Random } from './random';

describe('philox4x32', () => {
  // Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
  it('reproduces the published vectors', () => {
    expect(philox4x32([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffff;
    expect(philox4x32([ones, ones, ones, ones], [ones, ones])).toEqual([
      0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd,
    ]);
    expect(philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });
});

describe('Random', () => {
  it('gives the same sequence for the same coordinates and another for others', () => {
    const draw = (...c: (number | string)[]) => {
      const random = new Random(42, ...c);
      return Array.from({ length: 9 }, () => random.uniform());
    };
    expect(draw('sample', 3, 1)).toEqual(draw('sample', 3, 1));
    const others = [draw('sample', 1, 3), draw('sample', 3, 2), draw('other', 3, 1), draw('sample', 3)];
    for (const other of others) expect(other).not.toEqual(draw('sample', 3, 1));
  });

  it('reads any position without moving', () => {
    const random = new Random(1, 'x');
    const sequence = Array.from({ length: 11 }, () => random.uniform());
    const again = new Random(1, 'x');
    expect([10, 3, 0, 7].map((i) => again.at(i))).toEqual([10, 3, 0, 7].map((i) => sequence[i]));
  });

  it('is uniform in mean, variance and integers', () => {
    const random = new Random(7, 'uniform');
    const n = 20000;
    const draws = Array.from({ length: n }, () => random.uniform());
    const mean = draws.reduce((a, b) => a + b, 0) / n;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.01);
    const variance = draws.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.003);
    const counts = new Array<number>(6).fill(0);
    for (let i = 0; i < 12000; i++) counts[random.integer(6)]++;
    for (const count of counts) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });

  it('shuffles without losing an item', () => {
    const items = Array.from({ length: 50 }, (_, i) => i);
    const shuffled = new Random(3, 'shuffle').shuffle(items);
    expect(shuffled).not.toEqual(items);
    expect(shuffled.slice().sort((a, b) => a - b)).toEqual(items);
  });

  it('draws normal numbers of mean 0 and variance 1', () => {
    const random = new Random(5, 'normal');
    const draws = Array.from({ length: 20000 }, () => random.normal());
    const mean = draws.reduce((a, b) => a + b, 0) / draws.length;
    const variance = draws.reduce((a, b) => a + (b - mean) ** 2, 0) / draws.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.04);
  });
});
