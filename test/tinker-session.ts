/** What the tests of the Tinker client share: servers and clients that end with the test, and faults that happen once. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished } from 'vitest';
import { readModelConfig } from '../src/model/config';
import { LocalPolicy } from '../src/policy/local';
import type { MicroBatch, OptimStepResult, Policy } from '../src/policy/policy';
import { TinkerPolicy } from '../src/policy/tinker';
import type { TinkerPolicyOptions } from '../src/policy/tinker';
import { TinkerClient } from '../src/policy/tinker-client';
import type { TinkerConnection } from '../src/policy/tinker-client';
import { datum, modelAnswer, tinker } from '../src/policy/tinker-protocol';
import { temporaryDirectory } from './cli';
import { factorValues, modelDirectory, tokens } from './invariance-model';
import { TinkerServer } from './tinker-server';
import type { Fault, SeenRequest, TinkerServerOptions } from './tinker-server';

/** Nobody's key. */
export const KEY = 'tml-0123456789abcdefghijklmnop';

export async function startServer(options: TinkerServerOptions = {}): Promise<TinkerServer> {
  const server = await TinkerServer.start(options);
  onTestFinished(() => server.dispose());
  return server;
}

export interface Opened {
  client: TinkerClient;
  notices: string[];
}

export async function openClient(
  server: { baseUrl: string },
  connection: Partial<TinkerConnection> = {},
): Promise<Opened> {
  const notices: string[] = [];
  const client = await TinkerClient.open({
    ...{ baseUrl: server.baseUrl, apiKey: KEY, timeoutSeconds: 30, outageSeconds: 10 },
    ...{ onNotice: (line: string) => notices.push(line), ...connection },
  });
  onTestFinished(() => client.close());
  return { client, notices };
}

/** @returns the model's name */
export async function createModel(client: TinkerClient): Promise<string> {
  const operation = tinker.createModel(client.session, 'any', { rank: 2, seed: 1 });
  const { ticket, answer } = await client.start(operation, modelAnswer);
  await client.finish(operation, ticket);
  return answer.model_id;
}

const sequence = { promptIds: [1, 2, 3], completionIds: [4, 5] };

/** A pass that may be repeated. */
export const forward = (model: string) => tinker.forward(model, [datum(sequence)]);

export const forwardBackward = (model: string) =>
  tinker.importanceSampling(model, [datum(sequence, { logprobs: [-6, -6], advantages: [1, 1] })]);

/** A policy of rank 4 on the model of the invariance tests, that is disposed when the test ends. */
export async function openPolicy(
  server: { baseUrl: string },
  { connection, ...options }: Partial<TinkerPolicyOptions> = {},
): Promise<TinkerPolicy> {
  const policy = await TinkerPolicy.open({
    connection: { baseUrl: server.baseUrl, onNotice: () => undefined, ...connection },
    ...{ config: readModelConfig(modelDirectory), stopTokenIds: [], rank: 4, seed: 7, ...options },
  });
  onTestFinished(() => policy.dispose());
  return policy;
}

/** A step's batch of one row with seeded tokens, for a `weighted` loss. */
export function batchOf(name: string, length = 6): MicroBatch {
  const rows = [{ tokenIds: tokens(name, length, 600), weights: Array<number>(length).fill(1) }];
  const totals = { totalRows: 1, totalTokens: length, totalMicroBatches: 1 };
  return { groups: [{ promptIds: [5, 6], rows }], ...totals };
}

/** One step on a batch of its own. */
export async function trainStep(policy: Policy, name: string, learningRate = 0.01): Promise<OptimStepResult> {
  await policy.forwardBackward(batchOf(name), { kind: 'weighted' });
  return policy.optimStep({ learningRate });
}

/** The adapter that a policy has now, and the directory that it was written to. */
export async function factorsOf(policy: Policy): Promise<{ values: number[]; directory: string }> {
  const directory = temporaryDirectory();
  await policy.save(directory);
  const copy = LocalPolicy.load({ modelDirectory, adapterDirectory: directory });
  const values = [...factorValues(copy).values()].flatMap((own) => [...own]);
  copy.dispose();
  return { values, directory };
}

/** Sequences for `logProbs`. */
export const sequences = [{ promptIds: [1, 2], completionIds: [3, 4] }];

/** The next request for a path meets a fault; those after it do not. */
export function failOnce(path: string, fault: Fault): (request: SeenRequest) => Fault | undefined {
  let isOver = false;
  return (request) => {
    if (request.path !== path || isOver) return undefined;
    isOver = true;
    return fault;
  };
}

/** The outcome of a promise, or an error that says so when it takes longer. */
export async function within<T>(seconds: number, promise: Promise<T>): Promise<T> {
  const controller = new AbortController();
  const late = delay(1000 * seconds, undefined, { signal: controller.signal }).then(() => {
    throw new Error(`nothing came within ${seconds} s`);
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([promise, late]);
  } finally {
    controller.abort();
  }
}

/** Waits until a value is what is expected. */
export async function eventually<T>(read: () => T, expected: T): Promise<void> {
  await expect.poll(read, { timeout: 20_000 }).toEqual(expected);
}
