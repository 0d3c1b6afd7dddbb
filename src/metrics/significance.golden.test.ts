import { describe, expect, it } from 'vitest';
import { deviation, readGolden } from '../../test/golden';
import { normalTail, studentTwoTails } from './distributions';
import { cliffsDelta, cohensD, cohensDz } from './effect-size';
import type { Alternative } from './mann-whitney';
import { mannWhitneyU } from './mann-whitney';
import { skewness, standardError } from './statistics';
import { pairedTTest } from './t-test';

interface TTest {
  t: number;
  df: number;
  p: number;
}

interface SignificanceGolden {
  source: { libraries: Record<string, string> };
  two_samples: {
    name: string;
    a: number[];
    b: number[];
    mannwhitneyu: {
      method: 'auto' | 'asymptotic' | 'exact';
      alternative: Alternative;
      use_continuity?: boolean;
      U: number;
      p: number;
    }[];
    welch_t: TTest;
    student_t: TTest;
    cohen_d_pooled_ddof1: number;
    cliffs_delta: number;
  }[];
  paired: {
    name: string;
    a: number[];
    b: number[];
    paired_t: TTest;
    cohen_dz: number;
    pearson: { r: number; p: number };
  }[];
  moments: { values: number[]; skew: number; sem: number };
  distributions: {
    student_t_sf_two_sided: { t: number; df: number; p: number }[];
    normal_sf: { z: number; p: number }[];
  };
}

const golden = readGolden<SignificanceGolden>('stats.json');

/** Relative 1e-9, however far out in the tail. */
function expectTail(actual: number, expected: number): void {
  expect(deviation(actual, expected)).toBeLessThan(1e-9);
}

/** The same, or absolute 1e-15 for what is 0 but for rounding; what does not exist is NaN there and null here. */
function expectClose(actual: number | null, expected: number): void {
  if (Number.isNaN(expected)) return expect(actual).toBeNull();
  if (!(Math.abs((actual ?? NaN) - expected) < 1e-15)) expectTail(actual ?? NaN, expected);
}

describe(`tests and effect sizes against scipy ${golden.source.libraries.scipy}`, () => {
  it.each(golden.two_samples)('Mann-Whitney of "$name" has its U and p', ({ a, b, mannwhitneyu }) => {
    for (const { method, alternative, use_continuity, U, p } of mannwhitneyu) {
      // We always correct for continuity, as scipy does unless told otherwise.
      if (use_continuity === false) continue;
      const result = mannWhitneyU(a, b, { alternative, ...(method === 'auto' ? {} : { method }) });
      expect(result.u).toBe(U);
      expectClose(result.pValue, p);
    }
  });

  it.each(golden.two_samples)('effect sizes of "$name" are those of the formula', (samples) => {
    const { a, b, cohen_d_pooled_ddof1, cliffs_delta, student_t } = samples;
    const d = cohensD(a, b);
    expectClose(d, cohen_d_pooled_ddof1);
    expectClose(cliffsDelta(a, b), cliffs_delta);
    // Student's t of two samples is d sqrt(n m / (n + m)).
    if (d !== null) expectClose(d * Math.sqrt((a.length * b.length) / (a.length + b.length)), student_t.t);
  });

  it.each(golden.paired)('paired t-test and effect size of "$name" are its', (pairs) => {
    const { a, b, paired_t, cohen_dz } = pairs;
    const result = pairedTTest(a, b);
    expectClose(result?.t ?? null, paired_t.t);
    expectClose(result?.pValue ?? null, paired_t.p);
    if (!Number.isNaN(paired_t.t)) expect(result?.df).toBe(paired_t.df);
    expectClose(cohensDz(a, b), cohen_dz);
  });

  it("Student's tails are its, for whole and other degrees of freedom", () => {
    for (const { t, df, p } of golden.distributions.student_t_sf_two_sided) {
      expectTail(studentTwoTails(t, df), p);
      expectTail(studentTwoTails(-t, df), p);
    }
    for (const { t, df, p } of golden.two_samples.flatMap(({ welch_t, student_t }) => [welch_t, student_t])) {
      if (!Number.isNaN(t)) expectTail(studentTwoTails(t, df), p);
    }
  });

  it('the normal tail is its', () => {
    for (const { z, p } of golden.distributions.normal_sf) expectTail(normalTail(z), p);
  });

  it('skewness and standard error are its', () => {
    const { values, skew, sem } = golden.moments;
    expectClose(skewness(values), skew);
    expectClose(standardError(values), sem);
  });
});
