/** The fake server behaves as the real one was measured to: its losses, its places, its refusals. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { largestDifference } from './golden-model';
import { modelDirectory, tokens } from './invariance-model';
import { TinkerServer } from './tinker-server';
import { startServer } from './tinker-session';

type Body = Record<string, unknown>;

interface Reply {
  status: number;
  body: Body;
}

async function post(server: TinkerServer, path: string, body: unknown): Promise<Reply> {
  const response = await fetch(`${server.baseUrl}/api/v1/${path}`, {
    ...{
      method: 'POST',
      headers: { 'content-type': 'application/json', connection: 'close' },
      body: JSON.stringify(body),
    },
  });
  const text = await response.text();
  return { status: response.status, body: text.startsWith('{') ? (JSON.parse(text) as Body) : { text } };
}

/** An operation's result. */
async function run(server: TinkerServer, path: string, body: unknown): Promise<Reply> {
  const taken = await post(server, path, body);
  if (taken.status !== 200) return taken;
  return post(server, 'retrieve_future', { request_id: taken.body.request_id });
}

async function session(server: TinkerServer): Promise<unknown> {
  const { body } = await post(server, 'create_session', { tags: [], sdk_version: 'test' });
  return body.session_id;
}

async function create(server: TinkerServer, rank = 4): Promise<string> {
  const lora = { rank, seed: 3 };
  const request = { session_id: await session(server), base_model: 'whatever', lora_config: lora };
  const { body } = await run(server, 'create_model', request);
  return body.model_id as string;
}

const input = (ids: readonly number[]) => ({ chunks: [{ type: 'encoded_text', tokens: ids }] });

/** A sequence whose last six of nine predictions count, with changes of what the loss takes. */
function datum(name: string, changes: Record<string, number[] | undefined> = {}): Body {
  const ids = tokens(name, 10, 600);
  const values = {
    target_tokens: ids.slice(1),
    weights: [0, 0, 0, 1, 1, 1, 1, 1, 1],
    logprobs: ids.slice(1).map(() => -6.5),
    advantages: ids.slice(1).map(() => 1),
    ...changes,
  };
  const given = Object.entries(values).flatMap(([key, data]) =>
    data === undefined ? [] : [[key, { data }]],
  );
  return { model_input: input(ids.slice(0, -1)), loss_fn_inputs: Object.fromEntries(given) as Body };
}

let shared: TinkerServer;
let model: string;

beforeAll(async () => {
  shared = await TinkerServer.start({ modelDirectory });
  model = await create(shared);
});
afterAll(() => shared.dispose());

const still = { learning_rate: 0 };

async function backward(data: Body[], loss = 'cross_entropy', config?: Body, id = model): Promise<Reply> {
  const passInput = { data, loss_fn: loss, ...(config && { loss_fn_config: config }) };
  return run(shared, 'forward_backward', { model_id: id, forward_backward_input: passInput });
}

/** The gradient's norm of some passes. */
async function normOf(passes: Body[][], loss?: string, config?: Body): Promise<number> {
  for (const data of passes) expect((await backward(data, loss, config)).status).toBe(200);
  const { body } = await run(shared, 'optim_step', { model_id: model, adam_params: still });
  return (body.metrics as Record<string, number>)['skyrl.ai/grad_norm'];
}

const nine = (value: number): number[] => Array<number>(9).fill(value);
const close = (actual: number, expected: number): void =>
  expect(Math.abs(actual / expected - 1)).toBeLessThan(1e-4);

describe('the gradient', () => {
  it('is a mean over the tokens that count, and over all rows since the last step', async () => {
    const norm = await normOf([[datum('a')]]);
    close(await normOf([[datum('a', { weights: [0, 0, 0, 2, 2, 2, 2, 2, 2] })]]), norm);
    close(await normOf([[datum('a'), datum('a')]]), norm);
    close(await normOf([[datum('a')], [datum('a')]]), norm);
    const whole = await normOf([[datum('a'), datum('b'), datum('c')]]);
    close(await normOf([[datum('b')], [datum('c'), datum('a')]]), whole);
    // Without weights the prompt counts as well.
    expect(await normOf([[datum('a', { weights: undefined })]])).toBeLessThan(0.95 * norm);
  });

  it('is linear in the advantages, and turns with their sign', async () => {
    const norm = await normOf([[datum('a')]], 'importance_sampling');
    close(await normOf([[datum('a', { advantages: nine(2) })]], 'importance_sampling'), 2 * norm);
    close(await normOf([[datum('a', { advantages: nine(-1) })]], 'importance_sampling'), norm);
    const both = [datum('a'), datum('a', { advantages: nine(-1) })];
    expect(await normOf([both], 'importance_sampling')).toBeLessThan(1e-3 * norm);
  });

  it('of importance sampling is that of cross entropy where the ratio is 1', async () => {
    const { body } = await backward([datum('a')]);
    const [{ logprobs }] = body.loss_fn_outputs as { logprobs: { data: number[] } }[];
    const norm = await normOf([]);
    close(await normOf([[datum('a', { logprobs: logprobs.data })]], 'importance_sampling'), norm);
    close(await normOf([[datum('a', { logprobs: logprobs.data })]], 'ppo'), norm);
    close(await normOf([[datum('a', { logprobs: logprobs.data })]], 'cispo'), norm);
    // A ratio of e, and bounds of it.
    const old = logprobs.data.map((value) => value - 1);
    const moved = [datum('a', { logprobs: old })];
    close(await normOf([moved], 'importance_sampling'), Math.E * norm);
    expect(await normOf([moved], 'ppo')).toBe(0);
    close(await normOf([[datum('a', { logprobs: old, advantages: nine(-1) })]], 'ppo'), Math.E * norm);
    close(await normOf([moved], 'cispo'), 1.2 * norm);
    close(await normOf([moved], 'cispo', { clip_high_threshold: 2 }), 2 * norm);
    close(await normOf([moved], 'ppo', { clip_high_threshold: 3 }), Math.E * norm);
  });

  it('of nothing is zero, and no error', async () => {
    expect(await normOf([])).toBe(0);
  });
});

async function logProbs(id: string, name = 'a'): Promise<number[]> {
  const forward = { data: [datum(name)], loss_fn: 'cross_entropy' };
  const { body } = await run(shared, 'forward', { model_id: id, forward_input: forward });
  return (body.loss_fn_outputs as { logprobs: { data: number[] } }[])[0].logprobs.data;
}

const sampling = { prompt: input([1, 2, 3]), sampling_params: { max_tokens: 4, seed: 5 } };

async function sample(
  request: Body,
): Promise<{ status: number; body: Body; logprobs: number[]; ids: number[][] }> {
  const reply = await run(shared, 'asample', { ...sampling, ...request });
  const sequences = (reply.body.sequences ?? []) as { tokens: number[]; logprobs: number[] }[];
  return { ...reply, logprobs: sequences[0]?.logprobs ?? [], ids: sequences.map((one) => one.tokens) };
}

describe('a place', () => {
  it('is sampled in as it is trained in', async () => {
    const id = await create(shared);
    const keep = (name: string) => run(shared, 'save_weights_for_sampler', { model_id: id, path: name });
    const train = async (): Promise<void> => {
      await backward([datum('a')], 'cross_entropy', undefined, id);
      await run(shared, 'optim_step', { model_id: id, adam_params: { learning_rate: 0.03 } });
    };
    await keep('old');
    const old = await sample({ model_path: `tinker://${id}/old` });
    const before = await logProbs(id);
    await train();
    const trained = await logProbs(id);
    expect(largestDifference(trained, before)).toBeGreaterThan(0.01);
    // The copy is the one that was loaded last, and so the present weights are sampled.
    const again = await sample({ model_path: `tinker://${id}/sampler_weights/old` });
    expect(again.logprobs).not.toEqual(old.logprobs);
    expect(await logProbs(id)).toEqual(trained);
    await keep('new');
    await sample({ model_path: `tinker://${id}/new` });
    expect(await logProbs(id)).toEqual(trained);
    // An older copy is loaded over the weights in training.
    expect((await sample({ model_path: `tinker://${id}/old` })).logprobs).toEqual(old.logprobs);
    expect(await logProbs(id)).toEqual(before);
    await run(shared, 'unload_model', { model_id: id });
  });

  it('keeps a gradient through a load, an unload and the next model', async () => {
    const first = await create(shared);
    const save = await run(shared, 'save_weights', { model_id: first, path: 'state' });
    await backward([datum('a')], 'cross_entropy', undefined, first);
    expect(save.body).toEqual({ path: `tinker://${first}/weights/state`, type: 'save_weights' });
    const load = await run(shared, 'load_weights', { model_id: first, path: save.body.path });
    expect(load.body).toEqual({ type: 'load_weights' });
    await run(shared, 'unload_model', { model_id: first });
    const second = await create(shared);
    const stepped = await run(shared, 'optim_step', { model_id: second, adam_params: still });
    expect((stepped.body.metrics as Record<string, number>)['skyrl.ai/grad_norm']).toBeGreaterThan(0.1);
    await run(shared, 'unload_model', { model_id: second });
  });

  it('is one of few', async () => {
    const small = await startServer({ modelDirectory, maxAdapters: 3, maxRank: 8 });
    await create(small);
    await create(small);
    const request = { session_id: await session(small), base_model: 'x', lora_config: { rank: 4 } };
    const full = await run(small, 'create_model', request);
    expect(full).toEqual({ status: 400, body: { detail: 'Maximum number of LoRA adapters (3) reached' } });
    const wide = await startServer({ modelDirectory, maxRank: 8 });
    const large = { ...request, session_id: await session(wide), lora_config: { rank: 9 } };
    const refused = await run(wide, 'create_model', large);
    expect(refused).toEqual({ status: 400, body: { detail: 'LoRA rank 9 must be between 1 and 8' } });
  });
});

describe('samples', () => {
  it('have numbers of their own from the seed on, and log-probabilities at temperature 1', async () => {
    const base = { base_model: shared.modelName };
    const three = await sample({ ...base, num_samples: 3 });
    const second = await sample({ ...base, sampling_params: { max_tokens: 4, seed: 6 } });
    expect(three.ids[1]).toEqual(second.ids[0]);
    expect(new Set(three.ids.map((ids) => ids.join())).size).toBe(3);
    const cold = await sample({
      ...base,
      sampling_params: { max_tokens: 4, seed: 5, temperature: 0 },
      prompt_logprobs: true,
    });
    const whole = [1, 2, 3, ...cold.ids[0]];
    const asPrompt = await sample({ ...base, prompt: input(whole), prompt_logprobs: true });
    const promptLogProbs = asPrompt.body.prompt_logprobs as number[];
    expect(promptLogProbs).toHaveLength(whole.length - 1);
    expect(largestDifference(promptLogProbs.slice(2), cold.logprobs)).toBeLessThan(1e-4);
    expect((await sample({ base_model: 'another' })).status).toBe(400);
  });
});

describe('what it refuses:', () => {
  it.each([
    ['an unknown session', 'session_heartbeat', { session_id: 'session_x' }, 404],
    ['an unknown model', 'unload_model', { model_id: 'model_x' }, 404],
    ['an unknown ticket', 'retrieve_future', { request_id: '99999' }, 404],
    ['a ticket that is no number', 'retrieve_future', { request_id: 'x' }, 500],
    ['an unknown path', 'train', {}, 404],
    ['a name with a slash', 'save_weights', { model_id: 'm', path: 'a/b' }, 422],
    ['a session without tags', 'create_session', { sdk_version: '1' }, 422],
    ['a copy without a name', 'save_weights_for_sampler', { model_id: 'm', seq_id: 1 }, 422],
    ['a sample of nothing', 'asample', sampling, 422],
    ['a path that is none', 'asample', { ...sampling, model_path: 'step1' }, 400],
  ])('%s', async (_, path, body, status) => {
    expect((await post(shared, path, body)).status).toBe(status);
  });

  it.each([
    ['weights of another length', datum('a', { weights: [1] }), 'cross_entropy', 422],
    [
      'targets that are not the inputs moved by one',
      datum('a', { target_tokens: nine(1) }),
      'cross_entropy',
      422,
    ],
    ['no advantages', datum('a', { advantages: undefined }), 'importance_sampling', 422],
    ['no targets', datum('a', { target_tokens: undefined }), 'cross_entropy', 500],
    ['an unknown loss', datum('a'), 'dppo', 422],
  ])('a pass with %s', async (_, row, loss, status) => {
    expect((await backward([row], loss)).status).toBe(status);
  });

  it('epsilons in place of the bounds of a ratio', async () => {
    const reply = await backward([datum('a')], 'ppo', { clip_epsilon: 0.2 });
    expect(reply.status).toBe(422);
    expect(JSON.stringify(reply.body.detail)).toContain('clip_epsilon');
  });

  it('names that are taken, copies that are being written, and what was never saved', async () => {
    const slow = await startServer({ modelDirectory, operationSeconds: 0.3 });
    const id = await create(slow);
    const copy = { model_id: id, path: 'copy' };
    const first = await post(slow, 'save_weights_for_sampler', copy);
    expect(first.body).toMatchObject({ status: 'pending' });
    const path = `tinker://${id}/copy`;
    expect((await post(slow, 'asample', { ...sampling, model_path: path })).status).toBe(425);
    expect((await post(slow, 'save_weights_for_sampler', copy)).status).toBe(409);
    await post(slow, 'retrieve_future', { request_id: first.body.request_id });
    expect((await post(slow, 'asample', { ...sampling, model_path: path })).status).toBe(200);
    expect((await post(slow, 'asample', { ...sampling, model_path: `${path}2` })).status).toBe(404);
    const state = { model_id: id, path: `tinker://${id}/weights/copy` };
    expect((await post(slow, 'load_weights', state)).status).toBe(404);
  });
});

describe('a restart', () => {
  it.each([true, false])(
    'loses the models, and with keepDatabase %s what it should',
    async (keepDatabase) => {
      const server = await startServer({ modelDirectory });
      const id = await create(server);
      await run(server, 'save_weights', { model_id: id, path: 'state' });
      const known = await session(server);
      await server.restart({ keepDatabase });
      const status = keepDatabase ? 200 : 404;
      expect((await post(server, 'session_heartbeat', { session_id: known })).status).toBe(status);
      expect((await post(server, 'retrieve_future', { request_id: '1' })).status).toBe(status);
      expect((await run(server, 'optim_step', { model_id: id, adam_params: {} })).status).toBe(
        keepDatabase ? 400 : 404,
      );
      const next = await create(server);
      const load = { model_id: next, path: `tinker://${id}/weights/state` };
      expect((await run(server, 'load_weights', load)).status).toBe(status);
      const { body } = await post(server, 'optim_step', { model_id: next, adam_params: {} });
      expect(body.request_id).toBe(keepDatabase ? '6' : '2');
    },
  );
});
