import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { failureOf } from '../../test/judge-server';
import { TinkerServer } from '../../test/tinker-server';
import type { Fault } from '../../test/tinker-server';
import { createModel, eventually, failOnce, forward, forwardBackward } from '../../test/tinker-session';
import { openClient, startServer, within } from '../../test/tinker-session';
import { RemoteError } from '../runtime/errors';
import { TinkerClient } from './tinker-client';
import type { Operation } from './tinker-client';
import { tinker } from './tinker-protocol';

/** A server for what does not harm it, and a model on it. */
let shared: TinkerServer;
let owner: TinkerClient;
let model: string;

beforeAll(async () => {
  shared = await TinkerServer.start({ holdSeconds: 5 });
  owner = await TinkerClient.open({ baseUrl: shared.baseUrl });
  model = await createModel(owner);
});

beforeEach(() => {
  shared.fault = undefined;
});

afterAll(async () => {
  owner.close();
  await shared.dispose();
});

/** What is done twice when it is sent twice. */
const unrepeatable: Record<string, (id: string) => Operation<unknown>> = {
  forward_backward: forwardBackward,
  optim_step: (id) => tinker.optimStep(id, { learningRate: 0 }),
};
const names = Object.keys(unrepeatable);

/** How often an operation was asked for, and done, since this was called. */
function counted(name: string): { sent: () => number; done: () => number } {
  const [sent, done] = [shared.asked(name).length, shared.applied(name).length];
  return {
    sent: () => shared.asked(name).length - sent,
    done: () => shared.applied(name).length - done,
  };
}

/** What leaves open whether the operation was done. */
const uncertain: [string, Fault][] = [
  ['a connection cut before it was taken', { cut: 'at once' }],
  ['a connection cut after it was done', { cut: 'at once', isTaken: true }],
  ['an answer cut in its body', { cut: 'in the body', isTaken: true }],
  ['status 500', { status: 500 }],
  ['status 500 although it was done', { status: 500, isTaken: true }],
  ['status 502', { status: 502 }],
  ['status 504 although it was done', { status: 504, isTaken: true }],
];
/** What says that it was not. */
const refused: [string, Fault][] = [
  ['status 425', { status: 425 }],
  ['status 429', { status: 429 }],
  ['status 503', { status: 503 }],
];

describe('an operation that may be repeated', () => {
  it.each([...uncertain, ...refused])('is asked for again after %s, with one notice', async (_, fault) => {
    const { client, notices } = await openClient(shared);
    const expected = await client.run(forward(model));
    const { sent, done } = counted('forward');
    shared.fault = failOnce('forward', fault);
    expect(await client.run(forward(model))).toEqual(expected);
    expect(sent()).toBe(2);
    await eventually(done, fault.isTaken === true ? 2 : 1);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain(`${shared.baseUrl}: forward: `);
  });

  it('is only late when its answer is', async () => {
    const { client, notices } = await openClient(shared);
    const { sent } = counted('forward');
    shared.fault = failOnce('forward', { delaySeconds: 0.3 });
    await client.run(forward(model));
    expect(sent()).toBe(1);
    expect(notices).toEqual([]);
  });

  it('is saved under another name when the answer to the first attempt was lost', async () => {
    const { client } = await openClient(shared);
    shared.fault = failOnce('save_weights', { cut: 'at once', isTaken: true });
    let count = 0;
    const { path } = await client.run(tinker.saveWeights(model, () => `twice-${++count}`));
    expect(path).toBe(`tinker://${model}/weights/twice-2`);
  });

  it('is given up after four plain failures in a row', async () => {
    const { client, notices } = await openClient(shared);
    const { sent } = counted('forward');
    shared.fault = ({ path }) => (path === 'forward' ? { status: 500 } : undefined);
    const error = await failureOf(client.run(forward(model)));
    expect(error).toMatchObject({ name: 'RemoteError', status: 500 });
    expect(sent()).toBe(4);
    expect(notices).toHaveLength(1);
  });

  it('is final when the server refuses it', async () => {
    const { client, notices } = await openClient(shared);
    const { sent } = counted('forward');
    const missing = await failureOf(client.run(forward('model_x')));
    expect(missing).toMatchObject({ status: 404 });
    expect(missing.message).toContain(`${shared.baseUrl}: forward: 404 Model not found`);
    const invalid = await failureOf(client.run(tinker.forward(model, [])));
    expect(invalid).toMatchObject({ status: 422 });
    expect(invalid.message).toContain('forward_input');
    const name = () => 'taken';
    await client.run(tinker.saveWeights(model, name));
    const taken = await failureOf(client.run(tinker.saveWeights(model, name)));
    expect(taken.message).toMatch(/save_weights: 409 Checkpoint 'taken' already exists/);
    const failed = await failureOf(
      client.run(tinker.createModel(client.session, 'any', { rank: 99, seed: 0 })),
    );
    expect(failed).toMatchObject({ status: 400 });
    expect(failed.message).toMatch(/create_model: 400 LoRA rank 99/);
    expect(sent()).toBe(2);
    expect(notices).toEqual([]);
  });
});

describe.each(names)('%s', (name) => {
  const operation = unrepeatable[name];

  it.each(uncertain)('is not sent again after %s', async (_, fault) => {
    const { client, notices } = await openClient(shared);
    const { sent, done } = counted(name);
    shared.fault = failOnce(name, fault);
    const error = await failureOf(client.run(operation(model)));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toContain(`${shared.baseUrl}: ${name}: `);
    expect(error.message).toMatch(/may have done it or not.*--resume/);
    // Whoever sent it again would have done so by then.
    await delay(100);
    expect(sent()).toBe(1);
    await eventually(done, fault.isTaken === true ? 1 : 0);
    expect(notices).toEqual([]);
  });

  it('is not sent again after a text that is not JSON', async () => {
    const { client } = await openClient(shared);
    const { sent } = counted(name);
    shared.fault = failOnce(name, { text: '<html>', isTaken: true });
    const error = await failureOf(client.run(operation(model)));
    expect(error.message).toMatch(new RegExp(`${name}: .*not JSON, but <html>`));
    await delay(100);
    expect(sent()).toBe(1);
  });

  // It leaves as much open as a lost answer.
  it('tells after a text that is not JSON that it may have been done', async () => {
    const { client } = await openClient(shared);
    shared.fault = failOnce(name, { text: '<html>', isTaken: true });
    const error = await failureOf(client.run(operation(model)));
    expect(error.message).toMatch(/may have done it or not.*--resume/);
  });

  // The error tells of the time alone.
  it('tells after a silence that it may have been done', async () => {
    const { client } = await openClient(shared, { timeoutSeconds: 0.3 });
    const { sent } = counted(name);
    shared.fault = failOnce(name, { delaySeconds: 30 });
    const error = await within(10, failureOf(client.run(operation(model))));
    expect(sent()).toBe(1);
    expect(error.message).toMatch(/may have done it or not.*--resume/);
  });

  it.each(refused)('is sent again after %s, and done once', async (_, fault) => {
    const { client, notices } = await openClient(shared);
    const { sent, done } = counted(name);
    shared.fault = failOnce(name, fault);
    await client.run(operation(model));
    expect(sent()).toBe(2);
    expect(done()).toBe(1);
    expect(notices).toHaveLength(1);
  });

  it.each([...uncertain, ...refused])('has its result in spite of %s', async (_, fault) => {
    const { client, notices } = await openClient(shared);
    const { sent, done } = counted(name);
    shared.fault = failOnce('retrieve_future', fault);
    await client.run(operation(model));
    expect(sent()).toBe(1);
    expect(done()).toBe(1);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain(`: ${name}: `);
  });
});

describe('waiting for a result', () => {
  it('asks again without a notice when the server has none yet', async () => {
    const server = await startServer({ holdSeconds: 0.05, operationSeconds: 0.6 });
    const { client, notices } = await openClient(server);
    await createModel(client);
    expect(server.asked('retrieve_future').length).toBeGreaterThan(1);
    expect(notices).toEqual([]);
  });

  it('says once what happens three times', async () => {
    const { client, notices } = await openClient(shared);
    let left = 3;
    shared.fault = ({ path }) => (path === 'retrieve_future' && left-- > 0 ? { status: 503 } : undefined);
    await client.run(forward(model));
    expect(left).toBe(-1);
    expect(notices).toHaveLength(1);
  });

  // A gateway may put the number of each request into its text.
  it('says once what happens three times, each time with another number in its text', async () => {
    const { client, notices } = await openClient(shared);
    let left = 3;
    shared.fault = ({ path }) =>
      path === 'retrieve_future' && left-- > 0 ? { status: 503, text: `busy, request ${left}` } : undefined;
    await client.run(forward(model));
    expect(notices).toHaveLength(1);
  });

  it('ends after the time that an operation may take', async () => {
    const server = await startServer({ holdSeconds: 0.1, operationSeconds: 0.5 });
    const { client } = await openClient(server);
    const id = await createModel(client);
    const { client: impatient } = await openClient(server, { timeoutSeconds: 0.2 });
    const error = await within(10, failureOf(impatient.run(forward(id))));
    expect(error.message).toMatch(/forward: .*no result after 0\.2 s.*timeout_seconds/);
  });

  // A server may hold a question for minutes.
  it('ends after that time although the server holds the question', async () => {
    const { client } = await openClient(shared, { timeoutSeconds: 0.2 });
    shared.fault = failOnce('retrieve_future', { delaySeconds: 30 });
    const error = await within(10, failureOf(client.run(forward(model))));
    expect(error.message).toMatch(/no result after 0\.2 s/);
  });

  // The sign of life that goes with the question is waited for as well, though the result is there.
  it('is not held up by a sign of life that nobody answers', async () => {
    const { client } = await openClient(shared);
    shared.fault = ({ path }) => (path === 'session_heartbeat' ? { delaySeconds: 30 } : undefined);
    await within(3, client.run(forward(model)));
  });

  it('refuses a result of another form, and names the operation', async () => {
    const { client } = await openClient(shared);
    shared.fault = failOnce('retrieve_future', { text: '{"loss_fn_outputs": [{}]}' });
    const error = await failureOf(client.run(forward(model)));
    expect(error.message).toMatch(
      /forward: not the answer of a Tinker server at loss_fn_outputs\.0\.logprobs/,
    );
  });

  it('ends at once with the reason of an abort, in an answer, a pause and an outage', async () => {
    const aborted = async (trouble: (server: TinkerServer) => unknown): Promise<void> => {
      const server = await startServer();
      const controller = new AbortController();
      const { client } = await openClient(server, { signal: controller.signal, outageSeconds: 60 });
      const id = await createModel(client);
      await trouble(server);
      const outcome = failureOf(client.run(forward(id)));
      // By then a pause between attempts lasts for more than a second.
      await delay(1700);
      const reason = new Error('enough');
      controller.abort(reason);
      expect(await within(3, outcome)).toBe(reason);
    };
    await Promise.all([
      aborted((server) => (server.fault = failOnce('retrieve_future', { delaySeconds: 30 }))),
      aborted((server) => (server.fault = ({ path }) => (path === 'forward' ? { status: 503 } : undefined))),
      aborted((server) => server.stop()),
    ]);
  });
});
