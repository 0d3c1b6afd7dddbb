/**
 * What a server-trained policy keeps on this machine: the adapter in PEFT's format, where its training state lies on the
 * server, and which models a run has there.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import type { ModelConfig } from '../model/config';
import { LORA_TARGETS, readAdapter } from '../model/peft';
import type { Adapter } from '../model/peft';
import { CheckpointError, messageOf, RemoteError } from '../runtime/errors';
import { atomicWriteFile, readJsonFile, strictJson } from '../runtime/files';
import { parseStrict } from '../runtime/strict';

const STATE_FILE = 'tinker.json';

const stateSchema = z.strictObject({
  version: z.literal(1),
  /** where the server was */
  base_url: z.string(),
  /** the model's name there */
  base_model: z.string(),
  rank: z.int().positive(),
  /** `tinker://<model>/weights/<name>`: adapter and optimiser */
  path: z.string().startsWith('tinker://'),
});

/** Where a checkpoint's training state lies on a server. */
export type TinkerState = z.output<typeof stateSchema>;

export async function writeTinkerState(directory: string, state: TinkerState): Promise<void> {
  await atomicWriteFile(path.join(directory, STATE_FILE), `${strictJson(state, 2)}\n`);
}

/** @throws CheckpointError  when the directory holds no checkpoint of a server */
export function readTinkerState(directory: string): TinkerState {
  const file = path.join(directory, STATE_FILE);
  if (!existsSync(file))
    throw new CheckpointError(
      `${directory}: has no ${STATE_FILE}; expected a checkpoint that was trained on a server, since an adapter cannot be ` +
        'uploaded to one. Train the warm start with the same policy, or train both here (policy.type: local).',
    );
  return parseStrict(stateSchema, readJsonFile(file, CheckpointError), file);
}

/**
 * The adapter in an archive of sampler weights: `adapter_config.json` and `adapter_model.safetensors` in a tar, compressed or
 * not. Some servers leave out `target_modules` in the configuration, and PEFT would then apply two of the seven: it becomes the
 * list of all seven, which a server trains.
 *
 * @throws RemoteError      when the archive is none
 * @throws CheckpointError  when the adapter is not one of this model
 */
export async function adapterOfArchive(archive: Buffer, model: ModelConfig, from: string): Promise<Adapter> {
  const members = await membersOf(archive, from);
  const directory = await mkdtemp(path.join(tmpdir(), 'grpolab-adapter-'));
  try {
    for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
      const data = members.get(name);
      if (data === undefined)
        throw new RemoteError(`${from}: the archive of the adapter holds no ${name}; is it a LoRA adapter?`);
      const isConfig = name === 'adapter_config.json';
      await writeFile(path.join(directory, name), isConfig ? mended(data, from) : data);
    }
    return readAdapter(directory, model);
  } catch (error) {
    if (error instanceof CheckpointError)
      error.message = error.message.replace(directory, `${from}: archive`);
    throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function membersOf(archive: Buffer, from: string): Promise<Map<string, Uint8Array>> {
  const { parseTar, parseTarGzip } = await import('nanotar');
  try {
    const isCompressed = archive[0] === 0x1f && archive[1] === 0x8b;
    const members = isCompressed ? await parseTarGzip(archive) : parseTar(archive);
    return new Map(
      members.flatMap(({ name, data }) => (data === undefined ? [] : [[path.basename(name), data] as const])),
    );
  } catch (error) {
    throw new RemoteError(`${from}: the archive of the adapter cannot be unpacked (${messageOf(error)})`);
  }
}

function mended(config: Uint8Array, from: string): string {
  let fields: unknown;
  try {
    fields = JSON.parse(Buffer.from(config).toString());
  } catch (error) {
    throw new RemoteError(`${from}: adapter_config.json in the archive is not JSON (${messageOf(error)})`);
  }
  const given = fields as { target_modules?: unknown };
  return JSON.stringify({ ...given, target_modules: given.target_modules ?? LORA_TARGETS });
}

const registrySchema = z.strictObject({ base_url: z.string(), models: z.array(z.string()) });

/**
 * The models that a run has on a server, in a file: a run that goes on after its process was killed frees them first, since
 * a server has few places.
 */
export class ModelRegistry {
  constructor(private readonly file: string | undefined) {}

  /** Models that an earlier process has left at this address. */
  left(baseUrl: string): string[] {
    if (this.file === undefined || !existsSync(this.file)) return [];
    const found = registrySchema.safeParse(readJsonFile(this.file, CheckpointError));
    return found.success && found.data.base_url === baseUrl ? found.data.models : [];
  }

  async write(baseUrl: string, models: readonly string[]): Promise<void> {
    if (this.file === undefined) return;
    if (models.length === 0) await rm(this.file, { force: true });
    else await atomicWriteFile(this.file, `${strictJson({ base_url: baseUrl, models: [...models] }, 2)}\n`);
  }
}
