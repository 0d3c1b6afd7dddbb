/** The places that a run takes on a server, what it leaves there, and what it does when something goes wrong. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { relativeDifference } from '../../test/golden-model';
import { factorValues, modelDirectory } from '../../test/invariance-model';
import { failureOf } from '../../test/judge-server';
import {
  batchOf,
  eventually,
  factorsOf,
  failOnce,
  forwardBackward,
  openClient,
} from '../../test/tinker-session';
import { openPolicy, sequences, startServer, trainStep, within } from '../../test/tinker-session';
import { readAdapterConfig } from '../model/peft';
import { ConfigError } from '../runtime/errors';
import { LocalPolicy } from './local';
import { readTinkerState } from './tinker-checkpoint';
import { modelAnswer, tinker } from './tinker-protocol';

const reference = { of: 'reference' } as const;

describe('opening', () => {
  it('takes the only model of the server, or the one that is named', async () => {
    const server = await startServer({ modelName: 'Qwen/Qwen3-0.6B' });
    expect((await openPolicy(server)).baseModel).toBe('Qwen/Qwen3-0.6B');
    expect((await openPolicy(server, { baseModel: 'Qwen/Qwen3-0.6B' })).baseModel).toBe('Qwen/Qwen3-0.6B');
    const error = await failureOf(openPolicy(server, { baseModel: 'Qwen/Qwen3-8B' }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(/no model "Qwen\/Qwen3-8B"; it has Qwen\/Qwen3-0\.6B.*policy\.base_model/);
    const text = JSON.stringify({ supported_models: [{ model_name: 'a' }, { model_name: 'b' }] });
    server.fault = failOnce('get_server_capabilities', { text });
    expect((await failureOf(openPolicy(server))).message).toMatch(
      /which of.*it has a, b.*policy\.base_model/,
    );
  });

  it('refuses a server whose adapters have another scale', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    const text = JSON.stringify({ lora_config: { rank: 4, alpha: 16 } });
    server.fault = ({ of }) => (of === 'create_model' ? { text } : undefined);
    expect((await failureOf(policy.logProbs(sequences))).message).toMatch(/alpha 16; expected 32/);
  });

  it('starts policy and reference from a checkpoint', async () => {
    const server = await startServer({ maxAdapters: 5 });
    const first = await openPolicy(server);
    await trainStep(first, 'a', 0.05);
    const { directory } = await factorsOf(first);
    const [expected] = await first.logProbs(sequences);
    const second = await openPolicy(server, { checkpointDirectory: directory, seed: 8 });
    expect(await second.logProbs(sequences)).toEqual([expected]);
    expect(await second.logProbs(sequences, reference)).toEqual([expected]);
    await trainStep(second, 'b', 0.05);
    expect(await second.logProbs(sequences, reference)).toEqual([expected]);
    expect(await second.logProbs(sequences)).not.toEqual([expected]);
  });
});

describe('a place on the server', () => {
  it('keeps the gradient of a killed run, which the next model does not step with', async () => {
    const server = await startServer({ maxAdapters: 2 });
    const { client } = await openClient(server);
    const operation = tinker.createModel(client.session, 'any', { rank: 4, seed: 1 });
    const { ticket, answer } = await client.start(operation, modelAnswer);
    await client.finish(operation, ticket);
    await client.run(forwardBackward(answer.model_id));
    await client.run(tinker.unloadModel(answer.model_id));
    const policy = await openPolicy(server);
    const { directory } = await factorsOf(policy);
    await trainStep(policy, 'a');
    const twin = LocalPolicy.load({ modelDirectory, adapterDirectory: directory });
    await trainStep(twin, 'a');
    const expected = [...factorValues(twin).values()].flatMap((own) => [...own]);
    twin.dispose();
    expect(relativeDifference((await factorsOf(policy)).values, expected)).toBeLessThan(1e-4);
  });

  it('is free again when the policy is disposed', async () => {
    const server = await startServer({ maxAdapters: 3 });
    for (let i = 0; i < 2; i++) {
      const policy = await openPolicy(server);
      await policy.logProbs(sequences);
      await policy.logProbs(sequences, reference);
      await policy.dispose();
    }
    const created = server.applied('create_model').map(({ model }) => model);
    expect(created).toHaveLength(4);
    expect(
      server
        .applied('unload_model')
        .map(({ model }) => model)
        .sort(),
    ).toEqual(created.sort());
  });

  it('is missed with a word on what takes places', async () => {
    const server = await startServer({ maxAdapters: 2 });
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    const error = await failureOf(policy.logProbs(sequences, reference));
    expect(error.message).toMatch(/create_model: 400 Maximum number.*place for the policy.*kl_coeff/);
  });
});

describe("the list of a run's models", () => {
  it('frees those of a killed process before others are made', async () => {
    const server = await startServer({ maxAdapters: 3 });
    const registryFile = path.join(temporaryDirectory(), 'models.json');
    const killed = await openPolicy(server, { registryFile });
    await killed.logProbs(sequences);
    await killed.logProbs(sequences, reference);
    const old = server.applied('create_model').map(({ model }) => model);
    expect(JSON.parse(readFileSync(registryFile, 'utf8'))).toEqual({ base_url: server.baseUrl, models: old });
    const next = await openPolicy(server, { registryFile });
    await next.logProbs(sequences);
    await next.logProbs(sequences, reference);
    expect(
      server
        .applied('unload_model')
        .map(({ model }) => model)
        .sort(),
    ).toEqual(old.sort());
    await next.dispose();
    expect(existsSync(registryFile)).toBe(false);
  });

  it('frees those of a killed process also when the reference is asked for first', async () => {
    const server = await startServer({ maxAdapters: 3 });
    const registryFile = path.join(temporaryDirectory(), 'models.json');
    const killed = await openPolicy(server, { registryFile });
    await killed.logProbs(sequences);
    await killed.logProbs(sequences, reference);
    const next = await openPolicy(server, { registryFile });
    await next.logProbs(sequences, reference);
  });

  it('is of one server, and does no harm when it is damaged', async () => {
    const server = await startServer();
    const directory = temporaryDirectory();
    for (const content of ['{"base_url": "http://elsewhere", "models": ["model_x"]}', '{"models": 3}']) {
      const registryFile = path.join(directory, 'models.json');
      writeFileSync(registryFile, content);
      const policy = await openPolicy(server, { registryFile });
      await policy.logProbs(sequences);
    }
    expect(server.asked('unload_model')).toEqual([]);
  });

  it('may name models that the server has forgotten', async () => {
    const server = await startServer();
    const registryFile = path.join(temporaryDirectory(), 'models.json');
    writeFileSync(registryFile, JSON.stringify({ base_url: server.baseUrl, models: ['model_x', 'model_y'] }));
    await (await openPolicy(server, { registryFile })).logProbs(sequences);
    expect(server.asked('unload_model')).toHaveLength(2);
  });

  it('still names those that could not be freed', async () => {
    const server = await startServer();
    const registryFile = path.join(temporaryDirectory(), 'models.json');
    const policy = await openPolicy(server, { registryFile });
    await policy.logProbs(sequences);
    await server.stop();
    await policy.dispose();
    expect(existsSync(registryFile)).toBe(true);
  });
});

describe('disposing', () => {
  it('does not throw, nor take long, when the server is gone', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    await policy.logProbs(sequences, reference);
    await server.stop();
    await within(6, policy.dispose());
  });

  it('does not throw when the server refuses', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    server.fault = ({ path: asked }) => (asked === 'unload_model' ? { status: 400, text: 'no' } : undefined);
    await within(6, policy.dispose());
  });

  it('frees a model that is still being made', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    server.fault = failOnce('create_model', { delaySeconds: 0.3 });
    const outcome = policy.logProbs(sequences).catch(() => undefined);
    await eventually(() => server.asked('create_model').length, 1);
    await policy.dispose();
    await outcome;
    expect(server.applied('unload_model')).toHaveLength(1);
  });

  it('ends the signs of life', async () => {
    const server = await startServer();
    const connection = { baseUrl: server.baseUrl, heartbeatSeconds: 0.05 };
    const policy = await openPolicy(server, { connection });
    await eventually(() => server.asked('session_heartbeat').length > 1, true);
    await policy.dispose();
    const before = server.asked('session_heartbeat').length;
    await delay(250);
    expect(server.asked('session_heartbeat').length - before).toBeLessThanOrEqual(1);
  });

  it('waits for five seconds when the server does not answer any more', async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await policy.logProbs(sequences);
    server.fault = ({ path: asked }) => (asked === 'unload_model' ? { delaySeconds: 60 } : undefined);
    const begin = performance.now();
    await within(9, policy.dispose());
    expect(performance.now() - begin).toBeGreaterThan(4500);
  });

  it('frees the models after an abort', async () => {
    const server = await startServer();
    const controller = new AbortController();
    const policy = await openPolicy(server, {
      connection: { baseUrl: server.baseUrl, signal: controller.signal },
    });
    await policy.logProbs(sequences);
    controller.abort(new Error('enough'));
    await policy.dispose();
    expect(server.applied('unload_model')).toHaveLength(1);
  });
});

describe('a checkpoint', () => {
  it("holds the adapter in PEFT's format, and where its state lies", async () => {
    const server = await startServer();
    const policy = await openPolicy(server);
    await trainStep(policy, 'a');
    const { directory } = await factorsOf(policy);
    const config = readAdapterConfig(directory);
    expect(config).toMatchObject({ r: 4, lora_alpha: 32, lora_dropout: 0 });
    expect(config.target_modules).toHaveLength(7);
    const [model] = server.applied('create_model').map((one) => one.model);
    const state = readTinkerState(directory);
    expect(state).toMatchObject({ base_url: server.baseUrl, base_model: server.modelName, rank: 4 });
    expect(state.path).toMatch(new RegExp(`^tinker://${model}/weights/state-\\d+$`));
  });

  it('comes in a plain tar as well', async () => {
    const server = await startServer({ hasPlainArchives: true });
    const policy = await openPolicy(server);
    expect((await factorsOf(policy)).values.length).toBeGreaterThan(1000);
  });

  it('of another rank is refused by the server', async () => {
    const server = await startServer();
    const { directory } = await factorsOf(await openPolicy(server));
    const other = await openPolicy(server, { rank: 8 });
    const error = await failureOf(other.load(directory));
    expect(error.message).toMatch(/load_weights: 400 Rank mismatch: checkpoint has rank 4/);
  });

  it('of another server is refused with a word on why', async () => {
    const { directory } = await factorsOf(await openPolicy(await startServer()));
    const policy = await openPolicy(await startServer());
    const error = await failureOf(policy.load(directory));
    expect(error.message).toMatch(/load_weights: 404.*this server does not have.*lost its database/);
    expect(error.message).toContain(directory);
  });

  it('drops the rows that wait for a step', async () => {
    const policy = await openPolicy(await startServer());
    const { directory } = await factorsOf(policy);
    await policy.forwardBackward(batchOf('a'), { kind: 'weighted' });
    await policy.load(directory);
    expect((await failureOf(policy.optimStep({ learningRate: 1 }))).message).toMatch(/no gradient/);
  });
});
