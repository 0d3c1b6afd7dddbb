import { afterAll, describe, expect, it } from 'vitest';
import { LocalPolicy } from '../src/policy/local';
import type { DrawnCompletion, Prompt, RolloutGroup, SampleOptions } from '../src/policy/policy';
import { binding, tf } from '../src/runtime/tf';
import { fullLogits, largestDifference } from './golden-model';
import { disposeAll, keep, loadPolicy, modelDirectory, tokens } from './invariance-model';

const policy = loadPolicy();
const { vocabSize } = policy.config;
afterAll(disposeAll);

/** Lengths around the bucket boundaries. */
const prompts: Prompt[] = [5, 1, 15, 16, 17, 33].map((length) => ({
  id: `prompt of ${length}`,
  tokenIds: tokens(`prompt of ${length}`, length, vocabSize),
}));
const options: SampleOptions = { groupSize: 3, temperature: 1, maxNewTokens: 20, seed: 4, stopTokenIds: [] };
/** A third of the vocabulary ends a completion, so that most end early. */
const manyStops = Array.from({ length: vocabSize }, (_, id) => id).filter((id) => id % 3 === 0);

const idsOf = (groups: readonly RolloutGroup<DrawnCompletion>[]): number[][][] =>
  groups.map(({ completions }) => completions.map(({ tokenIds }) => tokenIds));

const flat = (
  groups: readonly RolloutGroup<DrawnCompletion>[],
): { prompt: Prompt; completion: DrawnCompletion }[] =>
  groups.flatMap(({ prompt, completions }) => completions.map((completion) => ({ prompt, completion })));

/** The log-probabilities of completions, recomputed without a cache and without a group. */
function recompute(
  groups: readonly RolloutGroup<DrawnCompletion>[],
  temperature: number,
): Promise<Float32Array[]> {
  const sequences = flat(groups).map(({ prompt, completion }) => ({
    promptIds: prompt.tokenIds,
    completionIds: completion.tokenIds,
  }));
  return policy.logProbs(sequences, { temperature });
}

/** [T][V] logits that a completion's tokens were drawn from, by one pass over the whole sequence. */
function drawLogits({ tokenIds }: Prompt, completion: DrawnCompletion): Float32Array[] {
  const ids = [...tokenIds, ...completion.tokenIds];
  const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]);
  return completion.tokenIds.map((_, t) => {
    const start = (tokenIds.length - 1 + t) * vocabSize;
    return logits.slice(start, start + vocabSize);
  });
}

/** softmax(logits / temperature) in double precision. */
function softmax(logits: ArrayLike<number>, temperature: number): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const top = scaled.reduce((a, b) => Math.max(a, b), -Infinity);
  const masses = scaled.map((z) => Math.exp(z - top));
  const sum = masses.reduce((a, b) => a + b, 0);
  return masses.map((mass) => mass / sum);
}

describe('sampled log-probabilities', () => {
  it.each([1, 0.7, 1.6])(
    'are those of an uncached pass, without drift (temperature %s)',
    async (temperature) => {
      const groups = await policy.sample(prompts, { ...options, temperature });
      for (const [key, at] of [
        ['logProbs', 1],
        ['temperedLogProbs', temperature],
      ] as const) {
        const recomputed = await recompute(groups, at);
        const differences = flat(groups).flatMap(({ completion }, i) => {
          expect(largestDifference(completion[key], recomputed[i])).toBeLessThan(1e-4);
          return Array.from(completion[key], (value, t) => value - recomputed[i][t]);
        });
        expect(differences).toHaveLength(prompts.length * 3 * 20);
        expect(Math.abs(differences.reduce((a, b) => a + b, 0) / differences.length)).toBeLessThan(1e-6);
      }
    },
  );

  it('are those of full logits in double precision', async () => {
    const groups = await policy.sample(prompts, { ...options, temperature: 0.7, groupSize: 1 });
    for (const { prompt, completion } of flat(groups))
      drawLogits(prompt, completion).forEach((logits, t) => {
        const id = completion.tokenIds[t];
        expect(Math.abs(completion.logProbs[t] - Math.log(softmax(logits, 1)[id]))).toBeLessThan(1e-4);
        expect(Math.abs(completion.temperedLogProbs[t] - Math.log(softmax(logits, 0.7)[id]))).toBeLessThan(
          1e-4,
        );
        expect(completion.drawLogProbs[t]).toBeCloseTo(completion.temperedLogProbs[t], 5);
      });
  });

  it('are the same for the bare model', async () => {
    const bare = keep(LocalPolicy.load({ modelDirectory }));
    const [{ completions }] = await bare.sample([prompts[0]], options);
    const sequences = completions.map(({ tokenIds }) => ({
      promptIds: prompts[0].tokenIds,
      completionIds: tokenIds,
    }));
    const recomputed = await bare.logProbs(sequences);
    completions.forEach(({ logProbs }, i) =>
      expect(largestDifference(logProbs, recomputed[i])).toBeLessThan(1e-4),
    );
    expect(largestDifference(recomputed[0], (await policy.logProbs(sequences))[0])).toBeGreaterThan(1e-3);
  });
});

describe("a prompt's completions", () => {
  const sampled = policy.sample(prompts, options);

  it('are the same alone as in a batch', async () => {
    const together = await sampled;
    for (const [i, prompt] of prompts.entries()) {
      const [alone] = await policy.sample([prompt], options);
      expect(idsOf([alone])).toEqual(idsOf([together[i]]));
      alone.completions.forEach(({ logProbs, drawLogProbs }, g) => {
        expect(largestDifference(logProbs, together[i].completions[g].logProbs)).toBeLessThan(1e-5);
        expect(largestDifference(drawLogProbs, together[i].completions[g].drawLogProbs)).toBeLessThan(1e-5);
      });
    }
  });

  it('are the same in another order, and come in the order asked for', async () => {
    const reversed = await policy.sample(prompts.slice().reverse(), options);
    expect(reversed.map(({ prompt }) => prompt.id)).toEqual(prompts.map(({ id }) => id).reverse());
    expect(idsOf(reversed.reverse())).toEqual(idsOf(await sampled));
  });

  it('are the first of a larger group, also when the prompts need several batches', async () => {
    const larger = await policy.sample(prompts, { ...options, groupSize: 25 });
    larger.forEach(({ completions }) => expect(completions).toHaveLength(25));
    const first = larger.map((group) => ({ ...group, completions: group.completions.slice(0, 3) }));
    expect(idsOf(first)).toEqual(idsOf(await sampled));
  });

  it('are the beginning of longer ones', async () => {
    for (const maxNewTokens of [1, 15, 16, 17, 33]) {
      const others = idsOf(await policy.sample(prompts, { ...options, maxNewTokens }));
      const common = Math.min(maxNewTokens, options.maxNewTokens);
      const cut = (ids: number[][][]): number[][][] =>
        ids.map((group) => group.map((row) => row.slice(0, common)));
      expect(others.flat().every((row) => row.length === maxNewTokens)).toBe(true);
      expect(cut(others)).toEqual(cut(idsOf(await sampled)));
    }
  });

  it('do not depend on when the others of the batch end', async () => {
    const withStops = { ...options, stopTokenIds: manyStops };
    const together = await policy.sample(prompts, withStops);
    const lengths = new Set(
      idsOf(together)
        .flat()
        .map(({ length }) => length),
    );
    expect(lengths.size).toBeGreaterThan(3);
    for (const [i, prompt] of prompts.entries())
      expect(idsOf(await policy.sample([prompt], withStops))).toEqual(idsOf([together[i]]));
  });

  it('differ inside a group, and by seed, visit, stream and id', async () => {
    const ids = idsOf([(await sampled)[0]])[0];
    expect(new Set(ids.map((row) => row.join())).size).toBe(3);
    const variants: [Prompt, SampleOptions][] = [
      [prompts[0], { ...options, seed: 5 }],
      [prompts[0], { ...options, stream: 'evaluation' }],
      [{ ...prompts[0], visit: 1 }, options],
      [{ ...prompts[0], id: 'another' }, options],
    ];
    const seen = [
      ids,
      ...(await Promise.all(variants.map(async ([p, o]) => idsOf(await policy.sample([p], o))[0]))),
    ];
    expect(new Set(seen.flat().map((row) => row.join())).size).toBe(15);
    expect(idsOf(await policy.sample([{ ...prompts[0], visit: 0 }], options))[0]).toEqual(ids);
  });

  it('are the same op by op as in a compiled graph', async () => {
    const eager = loadPolicy('eager');
    const some = [prompts[0], prompts[4]];
    const short = { ...options, maxNewTokens: 10, topP: 0.9 };
    expect(idsOf(await eager.sample(some, short))).toEqual(idsOf(await policy.sample(some, short)));
  });
});

describe('truncated sampling', () => {
  it('with topK 1 is greedy', async () => {
    const greedy = await policy.sample(prompts, { ...options, groupSize: 2, temperature: 0 });
    const top = await policy.sample(prompts, { ...options, groupSize: 2, topK: 1 });
    expect(idsOf(top)).toEqual(idsOf(greedy));
    for (const { prompt, completion } of flat(greedy)) {
      completion.drawLogProbs.forEach((value) => expect(value).toBeCloseTo(0, 6));
      drawLogits(prompt, completion).forEach((logits, t) => {
        const best = logits.reduce((a, b) => Math.max(a, b), -Infinity);
        expect(best - logits[completion.tokenIds[t]]).toBeLessThan(1e-4);
      });
    }
  });

  /** Probabilities of the kept tokens, likeliest first; topK first, then topP of what is left. */
  function keptTokens(logits: Float32Array, temperature: number, topK: number, topP: number) {
    const probabilities = softmax(logits, temperature);
    const order = probabilities.map((_, id) => id).sort((a, b) => probabilities[b] - probabilities[a]);
    const first = topK === 0 ? order : order.slice(0, topK);
    const sum = first.reduce((a, id) => a + probabilities[id], 0);
    let [mass, count] = [0, 0];
    let margin = Infinity;
    while (count < first.length && mass < topP * sum) {
      mass += probabilities[first[count++]];
      margin = Math.min(margin, Math.abs(mass - topP * sum) / sum);
    }
    return { ids: first.slice(0, count), mass, probabilities, isClear: topP === 1 || margin > 1e-5 };
  }

  it.each([
    [0.8, 12, 1],
    [0.8, 0, 0.6],
    [0.5, 40, 0.5],
    [1, 0, 0.05],
  ])(
    'draws from the kept tokens, renormalised (temperature %s, topK %s, topP %s)',
    async (temperature, topK, topP) => {
      const groups = await policy.sample(prompts, { ...options, groupSize: 2, temperature, topK, topP });
      let [clear, all] = [0, 0];
      for (const { prompt, completion } of flat(groups))
        drawLogits(prompt, completion).forEach((logits, t) => {
          const kept = keptTokens(logits, temperature, topK, topP);
          expect(kept.ids.length).toBeLessThan(vocabSize);
          all++;
          if (!kept.isClear) return;
          clear++;
          const id = completion.tokenIds[t];
          expect(kept.ids).toContain(id);
          const expected = Math.log(kept.probabilities[id] / kept.mass);
          expect(Math.abs(completion.drawLogProbs[t] - expected)).toBeLessThan(1e-4);
        });
      expect(clear).toBeGreaterThan(0.9 * all);
    },
  );

  it.each([
    [1, 0],
    [0.6, 8],
  ])(
    'draws each token as often as its probability says (temperature %s, topK %s)',
    async (temperature, topK) => {
      const groupSize = 3000;
      const [{ completions }] = await policy.sample([prompts[0]], {
        ...options,
        ...{ groupSize, temperature, topK, maxNewTokens: 1 },
      });
      const [logits] = drawLogits(prompts[0], completions[0]);
      const { ids, mass, probabilities } = keptTokens(logits, temperature, topK, 1);
      const counts = new Map<number, number>();
      for (const { tokenIds } of completions) counts.set(tokenIds[0], (counts.get(tokenIds[0]) ?? 0) + 1);
      const cells: [number, number][] = []; // observed and expected; rare tokens share a cell
      let [observed, expected] = [0, 0];
      for (const id of ids) {
        observed += counts.get(id) ?? 0;
        expected += (groupSize * probabilities[id]) / mass;
        if (expected < 5) continue;
        cells.push([observed, expected]);
        [observed, expected] = [0, 0];
      }
      const chiSquare = cells.reduce((sum, [o, e]) => sum + (o - e) ** 2 / e, 0);
      const degrees = cells.length - 1;
      expect(degrees).toBeGreaterThanOrEqual(5);
      expect(chiSquare).toBeLessThan(degrees + 4.5 * Math.sqrt(2 * degrees) + 5);
      expect(cells.reduce((sum, [o]) => sum + o, 0) + observed).toBe(groupSize);
    },
  );
});

describe('the end of a completion', () => {
  it('is the first stop token, which is included, or the limit', async () => {
    const groups = await policy.sample(prompts, { ...options, stopTokenIds: manyStops, maxNewTokens: 4 });
    const reasons = new Set<string>();
    for (const { completion } of flat(groups)) {
      const first = completion.tokenIds.findIndex((id) => manyStops.includes(id));
      expect(completion.tokenIds).toHaveLength(first < 0 ? 4 : first + 1);
      expect(completion.finishReason).toBe(first < 0 ? 'length' : 'stop');
      for (const key of ['logProbs', 'temperedLogProbs', 'drawLogProbs'] as const)
        expect(completion[key]).toHaveLength(completion.tokenIds.length);
      reasons.add(completion.finishReason);
    }
    expect(reasons.size).toBe(2);
  });

  it("is by default the model's end token", async () => {
    const ends = policy.config.eosTokenIds;
    const all = { ...options, groupSize: 600, maxNewTokens: 2, stopTokenIds: undefined };
    const [{ completions }] = await policy.sample([prompts[0]], all);
    expect(new Set(completions.map(({ finishReason }) => finishReason)).size).toBe(2);
    for (const { tokenIds, finishReason } of completions) {
      expect(tokenIds.slice(0, -1).some((id) => ends.includes(id))).toBe(false);
      expect(finishReason).toBe(ends.includes(tokenIds[tokenIds.length - 1]) ? 'stop' : 'length');
    }
  });

  it('may be the only token', async () => {
    const groups = await policy.sample(prompts, { ...options, maxNewTokens: 1 });
    for (const { completion } of flat(groups)) expect(completion.tokenIds).toHaveLength(1);
    const recomputed = await recompute(groups, 1);
    flat(groups).forEach(({ completion }, i) =>
      expect(largestDifference(completion.logProbs, recomputed[i])).toBeLessThan(1e-4),
    );
  });

  it('does not come before minNewTokens, and log-probabilities stay those of the whole vocabulary', async () => {
    const limits = { stopTokenIds: manyStops, minNewTokens: 5, temperature: 0.9 };
    const groups = await policy.sample(prompts, { ...options, ...limits });
    const recomputed = { plain: await recompute(groups, 1), tempered: await recompute(groups, 0.9) };
    const lengths = flat(groups).map(({ completion }) => completion.tokenIds.length);
    expect(Math.min(...lengths)).toBeGreaterThan(5);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(20);
    flat(groups).forEach(({ prompt, completion }, i) => {
      const { tokenIds, logProbs, temperedLogProbs, drawLogProbs } = completion;
      expect(tokenIds.slice(0, 5).some((id) => manyStops.includes(id))).toBe(false);
      expect(largestDifference(logProbs, recomputed.plain[i])).toBeLessThan(1e-4);
      expect(largestDifference(temperedLogProbs, recomputed.tempered[i])).toBeLessThan(1e-4);
      drawLogits(prompt, completion).forEach((logits, t) => {
        const probabilities = softmax(logits, 0.9);
        const open = t < 5 ? probabilities.reduce((sum, p, id) => sum + (id % 3 === 0 ? 0 : p), 0) : 1;
        expect(Math.abs(drawLogProbs[t] - Math.log(probabilities[tokenIds[t]] / open))).toBeLessThan(1e-4);
      });
    });
  });

  it('does not come before minNewTokens in greedy decoding either', async () => {
    const limits = { temperature: 0, groupSize: 1, minNewTokens: 3, stopTokenIds: manyStops };
    for (const { completion } of flat(await policy.sample(prompts, { ...options, ...limits })))
      expect(completion.tokenIds.slice(0, 3).some((id) => manyStops.includes(id))).toBe(false);
  });
});

describe('a stop signal', () => {
  it.each(['graph', 'eager'] as const)(
    'ends sampling with its reason, and frees what was held (%s)',
    async (mode) => {
      const stoppable = loadPolicy(mode);
      const longer = { ...options, maxNewTokens: 24 };
      const complete = await stoppable.sample(prompts.slice(0, 2), longer);
      const before = [tf.memory().numTensors, binding.getNumOfTensors()];
      const controller = new AbortController();
      let calls = 0;
      const onProgress = (): void => {
        calls++;
        controller.abort(new Error('the cell was stopped'));
      };
      const stopped = stoppable.sample(prompts.slice(0, 2), {
        ...longer,
        signal: controller.signal,
        onProgress,
      });
      await expect(stopped).rejects.toThrow('the cell was stopped');
      expect(calls).toBe(1);
      expect([tf.memory().numTensors, binding.getNumOfTensors()]).toEqual(before);
      expect(idsOf(await stoppable.sample(prompts.slice(0, 2), longer))).toEqual(idsOf(complete));
    },
  );

  it('that was given before the start is obeyed, also when one token is asked for', async () => {
    const signal = AbortSignal.abort(new Error('too late'));
    await expect(policy.sample(prompts, { ...options, signal })).rejects.toThrow('too late');
    await expect(policy.sample(prompts, { ...options, signal, maxNewTokens: 1 })).rejects.toThrow('too late');
  });

  it('is not needed: progress runs from 0 to 1', async () => {
    const shares: number[] = [];
    await policy.sample(prompts, { ...options, groupSize: 30, onProgress: (share) => shares.push(share) });
    expect(shares.length).toBeGreaterThan(3);
    shares.forEach((share, i) => expect(share).toBeGreaterThanOrEqual(shares[i - 1] ?? 0));
    expect(shares.at(-1)).toBe(1);
  });
});
