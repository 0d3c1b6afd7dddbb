/** What a step sends, what its failure means, and what a server cannot do. */
import { describe, expect, it } from 'vitest';
import { failureOf } from '../../test/judge-server';
import type { Fault, TinkerServer } from '../../test/tinker-server';
import { batchOf, factorsOf, failOnce, openPolicy } from '../../test/tinker-session';
import { sequences, startServer, trainStep } from '../../test/tinker-session';
import { ConfigError, RemoteError } from '../runtime/errors';
import type { TinkerPolicy } from './tinker';

const sampling = { groupSize: 1, temperature: 1, maxNewTokens: 2, seed: 1 };
const prompts = [{ id: 'a', tokenIds: [1, 2] }];

describe('a step', () => {
  /** Whatever a policy can be asked for. */
  const everything = (policy: TinkerPolicy, directory: string): Record<string, () => Promise<unknown>> => ({
    sample: () => policy.sample(prompts, sampling),
    logProbs: () => policy.logProbs(sequences),
    reference: () => policy.logProbs(sequences, { of: 'reference' }),
    forwardBackward: () => policy.forwardBackward(batchOf('b'), { kind: 'weighted' }),
    optimStep: () => policy.optimStep({ learningRate: 1 }),
    save: () => policy.save(directory),
    load: () => policy.load(directory),
  });

  it.each([
    ['forward_backward', { cut: 'at once' }],
    ['forward_backward', { status: 500, isTaken: true }],
    ['optim_step', { cut: 'at once', isTaken: true }],
    ['optim_step', { status: 400, text: '{"detail": "no memory"}' }],
  ] as [string, Fault][])('that failed at %s with %j makes the policy useless', async (name, fault) => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const { directory } = await factorsOf(policy);
    await policy.forwardBackward(batchOf('a'), { kind: 'weighted' });
    server.fault = failOnce(name, fault);
    const error = await failureOf(policy.optimStep({ learningRate: 1 }));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toContain(`${server.baseUrl}: ${name}: `);
    const before = server.requests.length;
    for (const [verb, call] of Object.entries(everything(policy, directory))) {
      const found = await failureOf(call());
      if (verb === 'optimStep') expect(found.message).toMatch(/no gradient/);
      else expect(found, verb).toBe(error);
    }
    expect(server.requests).toHaveLength(before);
    expect(server.asked('forward_backward')).toHaveLength(1);
  });

  it('of coefficients that are not finite is not sent', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    for (const weight of [NaN, Infinity]) {
      const batch = batchOf('a');
      batch.groups[0].rows[0].weights = [1, weight, 1, 1, 1, 1];
      await policy.forwardBackward(batchOf('b'), { kind: 'weighted' });
      await policy.forwardBackward(batch, { kind: 'weighted' });
      expect(await policy.optimStep({ learningRate: 1 })).toEqual({ gradNorm: NaN, skipped: true });
    }
    expect(server.asked('forward_backward')).toEqual([]);
    // Nothing of them is left for the next one.
    expect((await trainStep(policy, 'c')).skipped).toBe(false);
    const [{ body }] = server.asked('forward_backward');
    expect((body.forward_backward_input as { data: unknown[] }).data).toHaveLength(1);
  });

  it('whose gradient the server finds not to be finite ends the run', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    const text = JSON.stringify({ metrics: { 'skyrl.ai/grad_norm': null } });
    server.fault = ({ of }) => (of === 'optim_step' ? { text } : undefined);
    const error = await failureOf(trainStep(policy, 'a'));
    expect(error.message).toMatch(/gradient is not finite.*--resume.*learning rate/);
    expect(await failureOf(policy.logProbs(sequences))).toBe(error);
  });

  it('does without the norm where a server does not tell it', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    for (const text of ['{"metrics": null}', '{}', '{"metrics": {"other": 1}}']) {
      server.fault = ({ of }) => (of === 'optim_step' ? { text } : undefined);
      expect(await trainStep(policy, 'a')).toEqual({ gradNorm: NaN, skipped: false });
    }
  });

  it('is sent whole, with all of its rows and every number', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.forwardBackward(batchOf('a'), { kind: 'weighted' });
    await policy.forwardBackward(batchOf('b'), { kind: 'weighted' });
    await policy.optimStep({ learningRate: 0.25, betas: [0.5, 0.75], eps: 0.125, weightDecay: 0.0625 });
    expect(server.asked('forward_backward')).toHaveLength(1);
    const [, { body }] = server.asked('optim_step');
    const numbers = { learning_rate: 0.25, beta1: 0.5, beta2: 0.75, eps: 0.125, weight_decay: 0.0625 };
    expect(body.adam_params).toEqual(numbers);
  });
});

describe('what a server cannot do is refused:', () => {
  const refused = async (call: (policy: TinkerPolicy) => unknown, message: RegExp): Promise<TinkerServer> => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const error = await failureOf((async () => call(policy))());
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
    return server;
  };
  const weighted = { kind: 'weighted' } as const;

  it('clipping', async () => {
    await refused(async (policy) => {
      await policy.forwardBackward(batchOf('a'), weighted);
      await policy.optimStep({ learningRate: 1, clipNorm: 1 });
    }, /clipNorm is 1.*training\.max_grad_norm to 0/);
  });

  it('temperatures other than 1', async () => {
    const message = /temperature is 0\.8.*grpo\.loss_temperature to 1/;
    await refused((policy) => policy.logProbs(sequences, { temperature: 0.8 }), message);
    await refused((policy) => policy.forwardBackward(batchOf('a'), weighted, { temperature: 0.8 }), message);
  });

  it.each([
    ['tokens outside the vocabulary', [1], [2, 640], /token 640 is not in the model's vocabulary of 640/],
    ['negative tokens', [-1], [2], /token -1 is not in the model's vocabulary/],
    ['a sequence without a prompt', [], [2], /has no prompt/],
  ])('%s', async (_, promptIds, completionIds, message) => {
    const server = await refused((policy) => policy.logProbs([{ promptIds, completionIds }]), message);
    expect(server.asked('forward')).toEqual([]);
    const batch = {
      ...batchOf('a'),
      groups: [{ promptIds, rows: [{ tokenIds: completionIds, weights: completionIds }] }],
    };
    await refused((policy) => policy.forwardBackward(batch, weighted), message);
  });

  it('a step without a gradient', async () => {
    await refused((policy) => policy.optimStep({ learningRate: 1 }), /no gradient/);
  });

  it('a reference that is frozen after a step', async () => {
    await refused(async (policy) => {
      policy.freezeReference();
      await trainStep(policy, 'a');
      policy.freezeReference();
    }, /cannot be frozen after a step/);
  });
});
