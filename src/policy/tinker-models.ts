/** The models that a run has on a server: made, started from a checkpoint, saved, loaded, and freed. */
import { ConfigError, RemoteError } from '../runtime/errors';
import { ModelRegistry, readTinkerState } from './tinker-checkpoint';
import type { TinkerClient } from './tinker-client';
import { modelAnswer, tinker, TINKER_ALPHA } from './tinker-protocol';

export interface TinkerModelsOptions {
  /** The model's name at the server. */
  baseModel: string;
  rank: number;
  /** Of a fresh adapter. */
  seed: number;
  /** A checkpoint of a server to start from; without one, a fresh adapter. */
  checkpointDirectory?: string;
  /** Keeps the models' names, for whoever goes on after this process was killed. */
  registryFile?: string;
}

/**
 * The server's name of the model to train. A server takes any name in a request and trains its own model, so it is checked.
 * @throws ConfigError
 */
export async function chooseModel(client: TinkerClient, wanted: string | undefined): Promise<string> {
  const models = await client.models();
  if (wanted !== undefined && models.includes(wanted)) return wanted;
  const has = `it has ${models.join(', ') || 'none'}`;
  if (wanted !== undefined)
    throw new ConfigError(
      `${client.address}: the server has no model "${wanted}"; ${has}. Name one by policy.base_model.`,
    );
  if (models.length === 1) return models[0];
  throw new ConfigError(
    `${client.address}: which of the server's models? ${has}. Name one by policy.base_model.`,
  );
}

export class TinkerModels {
  private readonly own: string[] = [];
  private readonly registry: ModelRegistry;
  private policyModel: Promise<string> | undefined;
  private referenceModel: Promise<string> | undefined;
  private cleared: Promise<void> | undefined;
  private names = 0;

  constructor(
    private readonly client: TinkerClient,
    private readonly options: TinkerModelsOptions,
  ) {
    this.registry = new ModelRegistry(options.registryFile);
  }

  /** A number that no name on the server has had: the server's names are taken once. */
  next(): number {
    return ++this.names;
  }

  /** The model that is trained. */
  policy(): Promise<string> {
    return (this.policyModel ??= this.start());
  }

  /** What the policy started from, as a model that nobody trains. */
  reference(): Promise<string> {
    return (this.referenceModel ??= this.startReference());
  }

  /**
   * A place on the server may hold a gradient that an earlier model has left without a step, and neither a new model nor
   * loading clears it (SkyRL tx 0.3.0). A step of rate 0 does; what it did to the moments is undone by loading them.
   */
  private async start(): Promise<string> {
    const id = await this.create();
    const { checkpointDirectory: from } = this.options;
    const initial = from === undefined ? await this.save(id) : readTinkerState(from).path;
    await this.client.run(tinker.optimStep(id, { learningRate: 0 }));
    await this.load(id, initial, from);
    return id;
  }

  /** A fresh adapter changes nothing: it is the base model. */
  private async startReference(): Promise<string> {
    const id = await this.create();
    const { checkpointDirectory: from } = this.options;
    if (from !== undefined) await this.load(id, readTinkerState(from).path, from);
    return id;
  }

  private async create(): Promise<string> {
    const { baseModel, rank, seed } = this.options;
    await (this.cleared ??= this.clear());
    const operation = tinker.createModel(this.client.session, baseModel, { rank, seed });
    const { ticket, answer } = await this.client.start(operation, modelAnswer);
    this.own.push(answer.model_id);
    await this.registry.write(this.client.address, this.own);
    try {
      const { lora_config: lora } = await this.client.finish(operation, ticket);
      if (lora?.alpha === undefined || lora.alpha === TINKER_ALPHA) return answer.model_id;
      throw new RemoteError(
        `${this.client.address}: the server's adapters have alpha ${lora.alpha}; expected ${TINKER_ALPHA}`,
      );
    } catch (error) {
      if (error instanceof RemoteError && error.status === 400)
        error.message +=
          '. A run needs a place for the policy, and with kl_coeff > 0 another for the reference; those of a run that was ' +
          'killed are free some minutes later';
      throw error;
    }
  }

  /** Frees what an earlier process has left. */
  private async clear(): Promise<void> {
    await this.free(this.registry.left(this.client.address));
  }

  /** @returns where adapter and moments lie on the server */
  async save(id: string): Promise<string> {
    return (await this.client.run(tinker.saveWeights(id, () => `state-${this.next()}`))).path;
  }

  /** @param place  what to call it in an error */
  async load(id: string, tinkerPath: string, place = tinkerPath): Promise<void> {
    try {
      await this.client.run(tinker.loadWeights(id, tinkerPath));
    } catch (error) {
      if (error instanceof RemoteError && error.status === 404)
        error.message +=
          `. ${place}: its training state is ${tinkerPath}, which this server does not have: it is another server, or one ` +
          'that lost its database';
      throw error;
    }
  }

  /** Frees all, and ends the session. Never throws: whoever frees is done. */
  async dispose(): Promise<void> {
    this.client.hurry();
    // A model that is being made is to be freed as well.
    await Promise.allSettled([this.policyModel, this.referenceModel]);
    const left = await this.free(this.own.splice(0));
    await this.registry.write(this.client.address, left).catch(() => undefined);
    this.client.close();
  }

  /** @returns those that the server did not free, as far as is known */
  private async free(models: readonly string[]): Promise<string[]> {
    const outcomes = await Promise.allSettled(models.map((id) => this.client.run(tinker.unloadModel(id))));
    return models.filter((_, i) => outcomes[i].status === 'rejected');
  }
}
