/** The fake Tinker server without its HTTP: sessions, tickets, checkpoints, and the queue in front of the engine. */
import { randomBytes, randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { z } from 'zod';
import type { Adapter } from '../src/model/peft';
import { goldenPath } from './golden';
import { bodies, failure, passOf, refuse, Refusal, route, tokensOf } from './tinker-bodies';
import type { Answer, Route } from './tinker-bodies';
import { archiveOf, Engine, OperationError, UnspeakableError } from './tinker-engine';
import type { EngineOptions, TrainingState } from './tinker-engine';

export interface TinkerApiOptions extends Partial<EngineOptions> {
  /** A question for a result is held this long, then answered 408; default 300. */
  holdSeconds?: number;
  /** Every operation takes at least this long. */
  operationSeconds?: number;
  /** The models of a session without a sign of life for this long are unloaded; default 300. */
  sessionTimeoutSeconds?: number;
  /** Archives are plain tars. */
  hasPlainArchives?: boolean;
}

/** An operation that was really done. */
export interface Applied {
  /** Its ticket. */
  id: number;
  name: string;
  model: string;
}

interface Future extends Applied {
  run: (engine: Engine) => unknown;
  outcome: Answer | null;
  settle: () => void;
  settled: Promise<void>;
}

type Checkpoint = 'pending' | 'there' | 'failed';
type Kind = 'weights' | 'sampler_weights';

/** What the server keeps in its database. Models live in the engine, checkpoints on the disk. */
class Database {
  /** When each was last heard of. */
  readonly sessions = new Map<string, number>();
  readonly models = new Map<string, { session: string; baseModel: string; rank: number }>();
  /** The checkpoint of each sampling session. */
  readonly samplers = new Map<string, string>();
  /** By `<model>/<kind>/<name>`. */
  readonly checkpoints = new Map<string, Checkpoint>();
  /** Ticket n at n - 1. */
  readonly futures: Future[] = [];
}

const newId = (kind: string): string => `${kind}_${randomBytes(4).toString('hex')}`;
const MODEL_PATH = 'model_path must be tinker://model_id/checkpoint_id';
const STATE_PATH = 'request.path must be in format tinker://source_model_id/weights/checkpoint_id';

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

export class TinkerApi {
  readonly applied: Applied[] = [];
  readonly modelName: string;
  private database = new Database();
  private engine: Engine;
  private work: Promise<void> = Promise.resolve();
  private isWorking = false;
  private stopped = new AbortController();
  private gone = untilAborted(this.stopped.signal);
  private readonly states = new Map<string, TrainingState>();
  private readonly adapters = new Map<string, Adapter>();
  private readonly routes = this.makeRoutes();

  constructor(private readonly options: TinkerApiOptions) {
    this.modelName = options.modelName ?? 'tiny-qwen3';
    this.engine = this.newEngine();
  }

  private newEngine(): Engine {
    const { maxAdapters = 4, maxRank = 32 } = this.options;
    const { modelDirectory = goldenPath('tiny-qwen3', 'untied-f32') } = this.options;
    return new Engine({ modelDirectory, modelName: this.modelName, maxAdapters, maxRank });
  }

  /** All models are lost, and what was under way. */
  async restart(keepDatabase: boolean): Promise<void> {
    await this.dispose();
    this.stopped = new AbortController();
    this.gone = untilAborted(this.stopped.signal);
    this.engine = this.newEngine();
    if (!keepDatabase) this.database = new Database();
    this.resume();
  }

  async dispose(): Promise<void> {
    this.stopped.abort();
    await this.work;
    this.engine.dispose();
  }

  /** The operation that a ticket is for. */
  nameOf(ticket: unknown): string | undefined {
    return this.database.futures[Number(ticket) - 1]?.name;
  }

  async post(path: string, body: unknown): Promise<Answer> {
    return this.answer(() => {
      if (!Object.hasOwn(this.routes, path)) throw refuse(404, 'Not Found');
      return this.routes[path](body);
    });
  }

  private async answer(make: () => unknown): Promise<Answer> {
    try {
      return { status: 200, body: await make() };
    } catch (error) {
      if (error instanceof Refusal) return error.answer;
      throw error;
    }
  }

  // ---- the queue ----

  private enqueue(name: string, model: string, run: Future['run']): Record<string, string> {
    const id = this.database.futures.length + 1;
    let settle = (): void => undefined;
    const settled = new Promise<void>((resolve) => (settle = resolve));
    this.database.futures.push({ id, name, model, run, outcome: null, settle, settled });
    this.resume();
    return { future_id: String(id), status: 'pending', request_id: String(id) };
  }

  private resume(): void {
    if (!this.isWorking) this.work = this.workOff();
  }

  /** In the order of the tickets, but samples as soon as they are seen. */
  private async workOff(): Promise<void> {
    this.isWorking = true;
    const { signal } = this.stopped;
    const { operationSeconds = 0 } = this.options;
    try {
      for (;;) {
        // Whoever asked has the ticket before the work begins.
        await delay(1000 * operationSeconds, undefined, { signal }).catch(() => undefined);
        const waiting = this.database.futures.filter(({ outcome }) => outcome === null);
        const next = waiting.find(({ name }) => name === 'sample') ?? waiting[0];
        if (signal.aborted || next === undefined) return;
        this.unloadSilent();
        next.outcome = await this.outcomeOf(next);
        next.settle();
      }
    } finally {
      this.isWorking = false;
    }
  }

  private async outcomeOf({ id, name, model, run }: Future): Promise<Answer> {
    try {
      const body = await run(this.engine);
      this.applied.push({ id, name, model });
      return { status: 200, body };
    } catch (error) {
      if (error instanceof OperationError) return { status: 400, body: { detail: error.message } };
      if (error instanceof UnspeakableError) return failure;
      throw error;
    }
  }

  private unloadSilent(): void {
    const oldest = performance.now() - 1000 * (this.options.sessionTimeoutSeconds ?? 300);
    for (const [id, { session }] of this.database.models)
      if ((this.database.sessions.get(session) ?? 0) < oldest) this.engine.unload(id);
  }

  private async retrieve(ticket: string): Promise<unknown> {
    if (!/^-?\d+$/.test(ticket)) throw new Refusal(failure);
    const future = this.database.futures[Number(ticket) - 1];
    if (future === undefined) throw refuse(404, 'Future not found');
    const { signal } = this.stopped;
    const answered = new AbortController();
    const holding = { ref: false, signal: answered.signal };
    const held = delay(1000 * (this.options.holdSeconds ?? 300), undefined, holding).catch(() => undefined);
    await Promise.race([future.settled, this.gone, held]);
    answered.abort();
    // What stands before a server that is gone.
    if (signal.aborted) throw new Refusal({ status: 502, body: 'Bad Gateway' });
    if (future.outcome === null) throw refuse(408, 'Timeout waiting for result');
    if (future.outcome.status !== 200) throw new Refusal(future.outcome);
    return future.outcome.body;
  }

  // ---- sessions and models ----

  private makeRoutes(): Record<string, Route> {
    return {
      ...this.trainingRoutes(),
      create_session: route(bodies.session, () => {
        const session = newId('session');
        this.database.sessions.set(session, performance.now());
        return { type: 'create_session', session_id: session };
      }),
      session_heartbeat: route(bodies.heartbeat, ({ session_id: session }) => {
        this.requireSession(session);
        this.database.sessions.set(session, performance.now());
        return { type: 'session_heartbeat' };
      }),
      create_model: route(bodies.createModel, (body) => this.createModel(body)),
      unload_model: route(bodies.model, ({ model_id: id }) => {
        this.requireModel(id);
        return { ...this.enqueue('unload_model', id, (engine) => engine.unload(id)), model_id: id };
      }),
      get_info: route(bodies.model, ({ model_id: id }) => {
        const { baseModel, rank } = this.requireModel(id);
        const data = { base_model: baseModel, lora_config: { rank, seed: null }, model_name: baseModel };
        return { model_id: id, status: 'created', model_data: data };
      }),
      weights_info: route(bodies.weights, ({ tinker_path: path }) => {
        const { model } = this.checkpoint(path, 'weights', STATE_PATH);
        const { baseModel, rank } = this.requireModel(model);
        return { base_model: baseModel, is_lora: true, lora_rank: rank };
      }),
      retrieve_future: route(bodies.future, ({ request_id: ticket }) => this.retrieve(ticket)),
    };
  }

  private requireSession(session: string): void {
    if (!this.database.sessions.has(session)) throw refuse(404, 'Session not found');
  }

  private requireModel(id: string): { baseModel: string; rank: number } {
    const model = this.database.models.get(id);
    if (model === undefined) throw refuse(404, 'Model not found');
    return model;
  }

  private createModel(body: z.output<typeof bodies.createModel>): unknown {
    const { session_id: session, base_model: baseModel, lora_config: lora } = body;
    this.requireSession(session);
    const id = newId('model');
    const seed = lora.seed ?? randomInt(2 ** 31);
    this.database.models.set(id, { session, baseModel, rank: lora.rank });
    const ticket = this.enqueue('create_model', id, (engine) => engine.create(id, lora.rank, seed));
    return { ...ticket, model_id: id, base_model: baseModel, lora_config: lora, status: 'created' };
  }

  // ---- training and sampling ----

  private trainingRoutes(): Record<string, Route> {
    return {
      forward: route(bodies.forward, ({ model_id: id, forward_input: input }) =>
        this.pass('forward', id, passOf(input)),
      ),
      forward_backward: route(bodies.forwardBackward, ({ model_id: id, forward_backward_input: input }) =>
        this.pass('forward_backward', id, passOf(input)),
      ),
      optim_step: route(bodies.optimStep, ({ model_id: id, adam_params: adam }) => {
        this.requireModel(id);
        return this.enqueue('optim_step', id, (engine) => engine.step(id, adam));
      }),
      save_weights: route(bodies.save, ({ model_id: id, path: name }) => {
        const save = (key: string, engine: Engine) => void this.states.set(key, engine.state(id));
        const result = { path: `tinker://${id}/weights/${name}`, type: 'save_weights' };
        return this.save('save_weights', id, 'weights', name, save, result);
      }),
      save_weights_for_sampler: route(bodies.saveForSampler, (body) => this.saveForSampler(body)),
      load_weights: route(bodies.load, ({ model_id: id, path }) => {
        this.requireModel(id);
        const state = this.states.get(this.checkpoint(path, 'weights', STATE_PATH).key);
        return this.enqueue('load_weights', id, (engine) => engine.load(id, state as TrainingState));
      }),
      asample: route(bodies.sample, (body) => this.sample(body)),
    };
  }

  private pass(name: 'forward' | 'forward_backward', id: string, input: ReturnType<typeof passOf>): unknown {
    this.requireModel(id);
    if (input === null) throw new Refusal(failure);
    return this.enqueue(name, id, (engine) => engine.pass(id, input, name === 'forward_backward'));
  }

  private saveForSampler(body: z.output<typeof bodies.saveForSampler>): unknown {
    const { model_id: id, sampling_session_seq_id: own, seq_id: number } = body;
    const name = body.path ?? `ss${own}_seq${number}`;
    const isSession = own != null && number != null;
    const session = isSession ? newId('sampling') : null;
    const result = {
      ...{ path: isSession ? null : `tinker://${id}/${name}`, type: 'save_weights_for_sampler' },
      sampling_session_id: session,
    };
    const save = (key: string, engine: Engine) => void this.adapters.set(key, engine.adapter(id));
    const ticket = this.save('save_weights_for_sampler', id, 'sampler_weights', name, save, result);
    if (session !== null) this.database.samplers.set(session, `tinker://${id}/sampler_weights/${name}`);
    return ticket;
  }

  private save(
    operation: string,
    id: string,
    kind: Kind,
    name: string,
    write: (key: string, engine: Engine) => void,
    result: unknown,
  ): unknown {
    const { checkpoints } = this.database;
    const key = `${id}/${kind}/${name}`;
    this.requireModel(id);
    if (checkpoints.has(key)) throw refuse(409, `Checkpoint '${name}' already exists for model '${id}'`);
    checkpoints.set(key, 'pending');
    return this.enqueue(operation, id, (engine) => {
      checkpoints.set(key, 'failed');
      write(key, engine);
      checkpoints.set(key, 'there');
      return result;
    });
  }

  private sample(body: z.output<typeof bodies.sample>): unknown {
    const { sampling_params: params, num_samples: count, sampling_session_id: session } = body;
    const { max_tokens: maxTokens, temperature, top_k: topK, top_p: topP, stop, seed } = params;
    if (maxTokens == null || maxTokens < 1) throw refuse(400, 'max_tokens must be a positive number');
    const path = session == null ? body.model_path : this.database.samplers.get(session);
    if (session != null && path === undefined) throw refuse(404, 'Sampling session not found');
    const input = {
      ...{ tokens: tokensOf(body.prompt), count, maxTokens, temperature, topP, stop: stop ?? [] },
      ...{ topK: Math.max(0, topK), seed: seed ?? randomInt(2 ** 31) },
      wantsPromptLogProbs: body.prompt_logprobs === true,
    };
    if (path == null)
      return this.enqueue('sample', '', (engine) => {
        if (body.base_model !== this.modelName)
          throw new OperationError(`Engine is configured for '${this.modelName}', not '${body.base_model}'`);
        return engine.sample('', input, null);
      });
    const { key, model } = this.checkpoint(path, 'sampler_weights', MODEL_PATH);
    const copy = { name: key, adapter: this.adapters.get(key) as Adapter };
    return this.enqueue('sample', model, (engine) => engine.sample(model, input, copy));
  }

  // ---- checkpoints ----

  /** @throws Refusal  400 with `expected` for another path, 404, 425 */
  private checkpoint(path: string, kind: Kind, expected: string): { key: string; model: string } {
    const [, model, found = 'sampler_weights', name] =
      /^tinker:\/\/([^/]+)(?:\/([a-z_]+))?\/([^/]+)$/.exec(path) ?? [];
    if (found !== kind || model === undefined) throw refuse(400, expected);
    this.requireModel(model);
    return { key: this.requireCheckpoint(model, kind, name), model };
  }

  private requireCheckpoint(model: string, kind: Kind, name: string): string {
    const key = `${model}/${kind}/${name}`;
    const state = this.database.checkpoints.get(key);
    if (state === undefined) throw refuse(404, `Checkpoint not found: ${model}/${name}`);
    if (state === 'pending') throw refuse(425, 'Checkpoint is still being created');
    if (state === 'failed') throw refuse(500, 'Checkpoint creation failed');
    return key;
  }

  /** @param host  the server's, for the address that a redirect names */
  async get(path: string, host: string): Promise<Answer> {
    if (path === 'healthz') return { status: 200, body: { status: 'ok' } };
    if (path === 'get_server_capabilities')
      return { status: 200, body: { supported_models: [{ model_name: this.modelName }] } };
    const [, model, name, what] =
      /^training_runs\/([^/]+)\/checkpoints(?:\/([^/]+)\/(archive|download))?$/.exec(path) ?? [];
    if (model === undefined) return { status: 404, body: { detail: 'Not Found' } };
    if (name === undefined) return this.answer(() => ({ checkpoints: this.list(model) }));
    const found = await this.answer(() => this.requireCheckpoint(model, 'sampler_weights', name));
    if (found.status !== 200) return found;
    if (what === 'archive') {
      const location = `http://${host}/api/v1/${path.replace(/archive$/, 'download')}`;
      return { status: 302, body: '', headers: { location } };
    }
    const adapter = this.adapters.get(found.body as string) as Adapter;
    return { status: 200, body: await archiveOf(adapter, this.options.hasPlainArchives !== true) };
  }

  private list(model: string): unknown[] {
    return [...this.database.checkpoints].flatMap(([key, state]) => {
      const [owner, kind, name] = key.split('/');
      if (owner !== model || state !== 'there') return [];
      const type = kind === 'weights' ? 'training' : 'sampler';
      return [{ checkpoint_id: name, checkpoint_type: type, tinker_path: `tinker://${key}` }];
    });
  }
}
