/** Sampling on a server: what the draws depend on, and from which weights they come. */
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { largestDifference } from '../../test/golden-model';
import { failureOf } from '../../test/judge-server';
import { eventually, failOnce, openPolicy, startServer, trainStep, within } from '../../test/tinker-session';
import { ConfigError, RemoteError } from '../runtime/errors';
import type { Prompt, RolloutGroup, SampleOptions } from './policy';

const options: SampleOptions = { groupSize: 2, temperature: 1, maxNewTokens: 6, seed: 1 };
const prompts: Prompt[] = [
  { id: 'a', tokenIds: [1, 2, 3] },
  { id: 'b', tokenIds: [4, 5] },
  { id: 'c', tokenIds: [1, 2, 3], visit: 1 },
];

const tokensOf = (groups: RolloutGroup[]): number[][][] =>
  groups.map(({ completions }) => completions.map(({ tokenIds }) => tokenIds));

describe('the draws', () => {
  it('depend on seed, stream, prompt and visit alone', async () => {
    const policy = await openPolicy(await startServer());
    const first = tokensOf(await policy.sample(prompts, options));
    expect(tokensOf(await policy.sample(prompts, options))).toEqual(first);
    const reversed = tokensOf(await policy.sample([...prompts].reverse(), options));
    expect(reversed.reverse()).toEqual(first);
    expect(tokensOf(await policy.sample([prompts[1]], options))).toEqual([first[1]]);
    const [prompt] = prompts;
    const same = async (others: Partial<SampleOptions>, own: Partial<Prompt> = {}): Promise<boolean> => {
      const [found] = tokensOf(await policy.sample([{ ...prompt, ...own }], { ...options, ...others }));
      return JSON.stringify(found) === JSON.stringify(first[0]);
    };
    expect(await same({})).toBe(true);
    expect(await same({ stream: 'sample' }, { visit: 0 })).toBe(true);
    expect(await same({ seed: 2 })).toBe(false);
    expect(await same({ stream: 'evaluation' })).toBe(false);
    expect(await same({}, { visit: 1 })).toBe(false);
    expect(await same({}, { id: 'd' })).toBe(false);
  });

  it('of a group have numbers of their own', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const many = Array.from({ length: 20 }, (_, i) => ({ id: `p${i}`, tokenIds: [1] }));
    const groups = await policy.sample(many, { ...options, groupSize: 3, maxNewTokens: 2 });
    expect(groups.map(({ prompt }) => prompt.id)).toEqual(many.map(({ id }) => id));
    const seeds = server.asked('asample').flatMap(({ body }) => {
      const { seed } = body.sampling_params as { seed: number };
      return [seed, seed + 1, seed + 2];
    });
    expect(new Set(seeds).size).toBe(60);
    expect(Math.max(...seeds)).toBeLessThan(2 ** 31);
    const [{ completions }] = await policy.sample([prompts[0]], { ...options, groupSize: 3 });
    expect(new Set(completions.map(({ tokenIds }) => tokenIds.join())).size).toBe(3);
  });

  it('end with a stop token, the given ones or those of the policy', async () => {
    const policy = await openPolicy(await startServer(), { stopTokenIds: tokensBelow(300) });
    const [own] = await policy.sample([prompts[0]], { ...options, groupSize: 8, maxNewTokens: 12 });
    for (const { tokenIds, finishReason, logProbs } of own.completions) {
      const stops = tokenIds.filter((token) => token < 300).length;
      expect(finishReason).toBe(stops > 0 ? 'stop' : 'length');
      expect(stops).toBeLessThan(2);
      if (stops === 1) expect(tokenIds[tokenIds.length - 1]).toBeLessThan(300);
      expect(logProbs).toHaveLength(tokenIds.length);
    }
    expect(own.completions.map(({ finishReason }) => finishReason)).toContain('stop');
    const [given] = await policy.sample([prompts[0]], { ...options, stopTokenIds: [] });
    expect(given.completions.map(({ tokenIds }) => tokenIds.length)).toEqual([6, 6]);
  });

  it('are asked for as the options say', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const greedy = { ...options, temperature: 0 };
    const [{ completions }] = await policy.sample([prompts[0]], greedy);
    expect(completions[0].tokenIds).toEqual(completions[1].tokenIds);
    await policy.sample([prompts[0]], { ...options, topP: 0.5, topK: 3, stopTokenIds: [7] });
    const [first, second] = server.asked('asample').map(({ body }) => body);
    const common = { max_tokens: 6, seed: expect.any(Number) as number };
    expect(first.sampling_params).toEqual({ ...common, temperature: 0, top_p: 1, top_k: -1, stop: [] });
    expect(second.sampling_params).toEqual({ ...common, temperature: 1, top_p: 0.5, top_k: 3, stop: [7] });
    expect(second.num_samples).toBe(2);
  });

  it('come in the order of the prompts, many at a time, and tell how far they are', async () => {
    const policy = await openPolicy(await startServer());
    const many = Array.from({ length: 70 }, (_, i) => ({ id: `p${i}`, tokenIds: [i + 1] }));
    const shares: number[] = [];
    const groups = await policy.sample(many, {
      ...{ ...options, groupSize: 1, maxNewTokens: 1 },
      onProgress: (share) => shares.push(share),
    });
    expect(groups.map(({ prompt }) => prompt)).toEqual(many);
    expect(shares).toHaveLength(70);
    expect(shares[69]).toBe(1);
  });
});

function tokensBelow(limit: number): number[] {
  return Array.from({ length: limit }, (_, i) => i);
}

describe('the weights that are sampled', () => {
  it('are a new copy after every step, and never an older one', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    for (let i = 0; i < 3; i++) {
      await policy.sample(prompts, options);
      await policy.sample(prompts, options);
      await trainStep(policy, `step ${i}`);
    }
    await policy.sample(prompts, options);
    // A copy for each state of the weights, sampled twice, or once at the end.
    expect(server.applied('save_weights_for_sampler')).toHaveLength(4);
    const used = server.asked('asample').map(({ body }) => body.sampling_session_id as string);
    const distinct = [...new Set(used)];
    expect(distinct).toHaveLength(4);
    expect(used).toEqual(distinct.flatMap((id, i) => Array<string>(i < 3 ? 6 : 3).fill(id)));
  });

  it('are the present ones, and sampling leaves them as they are', async () => {
    const policy = await openPolicy(await startServer());
    const logProbs = async (group: RolloutGroup): Promise<Float32Array> => {
      const [{ tokenIds: completionIds }] = group.completions;
      return (await policy.logProbs([{ promptIds: group.prompt.tokenIds, completionIds }]))[0];
    };
    const [before] = await policy.sample([prompts[0]], options);
    const old = await logProbs(before);
    await trainStep(policy, 'a', 0.02);
    const changed = await logProbs(before);
    expect(largestDifference(changed, old)).toBeGreaterThan(1e-2);
    const [after] = await policy.sample([prompts[0]], options);
    expect(largestDifference(after.completions[0].logProbs, await logProbs(after))).toBeLessThan(1e-4);
    expect(await logProbs(before)).toEqual(changed);
  });

  it('are those of a checkpoint after it is loaded, from a new copy', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const directory = temporaryDirectory();
    const first = tokensOf(await policy.sample(prompts, options));
    await policy.save(directory);
    await trainStep(policy, 'a', 0.05);
    expect(tokensOf(await policy.sample(prompts, options))).not.toEqual(first);
    const copies = (): unknown[] => [
      ...new Set(server.asked('asample').map(({ body }) => body.sampling_session_id)),
    ];
    expect(copies()).toHaveLength(2);
    await policy.load(directory);
    expect(tokensOf(await policy.sample(prompts, options))).toEqual(first);
    expect(copies()).toHaveLength(3);
  });
});

describe('sampling', () => {
  it.each([
    ['minNewTokens', { minNewTokens: 2 }, /minNewTokens is 2.*min_new_tokens to 0/],
    ['no completions', { groupSize: 0 }, /groupSize is 0; expected an integer >= 1/],
    ['no tokens', { maxNewTokens: 1.5 }, /maxNewTokens is 1\.5; expected an integer >= 1/],
  ])('refuses %s', async (_, others, message) => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const error = await failureOf(policy.sample(prompts, { ...options, ...others }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
    expect(server.asked('create_model')).toEqual([]);
  });

  it('refuses an empty prompt', async () => {
    const policy = await openPolicy(await startServer());
    const error = await failureOf(policy.sample([{ id: 'none', tokenIds: [] }], options));
    expect(error.message).toMatch(/prompt "none" has no tokens/);
  });

  // A server's answer to it is a plain 500.
  it('refuses a prompt of tokens outside the vocabulary', async () => {
    const policy = await openPolicy(await startServer());
    const error = await failureOf(policy.sample([{ id: 'wild', tokenIds: [1, 640] }], options));
    expect(error).toBeInstanceOf(ConfigError);
  });

  it('refuses an answer with too few completions, or with tokens without log-probabilities', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const one = { tokens: [1, 2], logprobs: [-1] };
    for (const sequences of [[], [one, one]]) {
      const text = JSON.stringify({ sequences });
      server.fault = ({ of }) => (of === 'sample' ? { text } : undefined);
      const error = await failureOf(policy.sample(prompts, options));
      expect(error).toBeInstanceOf(RemoteError);
      expect(error.message).toMatch(/asample: expected 2 completions with a log-probability a token/);
    }
  });

  it('sends nothing more once it has failed', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const many = Array.from({ length: 150 }, (_, i) => ({ id: `p${i}`, tokenIds: [1] }));
    server.fault = failOnce('asample', { status: 400, text: '{"detail": "no memory"}' });
    const error = await failureOf(policy.sample(many, { ...options, maxNewTokens: 1 }));
    expect(error.message).toMatch(/asample: 400 no memory/);
    const sent = (): number => server.asked('asample').length;
    const more = async (): Promise<number> => {
      const before = sent();
      await delay(300);
      return sent() - before;
    };
    await expect.poll(more, { timeout: 20_000 }).toBe(0);
    // Those that were under way.
    expect(sent()).toBeLessThanOrEqual(64);
  });

  it('ends with the reason of an abort before the next prompt', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const controller = new AbortController();
    const reason = new Error('enough');
    const many = Array.from({ length: 80 }, (_, i) => ({ id: `p${i}`, tokenIds: [1] }));
    const onProgress = (): void => controller.abort(reason);
    const abortable = { ...options, maxNewTokens: 1, signal: controller.signal, onProgress };
    expect(await failureOf(policy.sample(many, abortable))).toBe(reason);
    expect(server.asked('asample').length).toBeLessThan(80);
  });

  it('ends at once with the reason of an abort while the server samples', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    server.fault = ({ of }) => (of === 'sample' ? { delaySeconds: 30 } : undefined);
    const controller = new AbortController();
    const reason = new Error('enough');
    const outcome = failureOf(policy.sample(prompts, { ...options, signal: controller.signal }));
    await eventually(() => server.requests.some(({ of }) => of === 'sample'), true);
    controller.abort(reason);
    expect(await within(5, outcome)).toBe(reason);
  });
});
