import { existsSync, statSync } from 'node:fs';
import { isAbsolute, join, normalize, sep } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from '../runtime/errors';
import { parseFile } from './config';
import { openSafetensors } from './safetensors';
import type { SafetensorsFile } from './safetensors';
import type { TensorInfo } from './safetensors-header';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/** The weights of a model directory, in one file or in shards; tensors are read when asked for. */
export class ModelWeights {
  /** Every tensor, by name. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;

  constructor(
    readonly dir: string,
    private readonly files: readonly SafetensorsFile[],
    private readonly owners: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.tensors = new Map([...owners].map(([name, file]) => [name, file.info(name)]));
  }

  /** A tensor as float32, row-major; matrices are [out, in]. */
  read(name: string): Float32Array {
    return this.owner(name).read(name);
  }

  /** Elements [begin, end) of a tensor as the bits of bfloat16, row-major. */
  readBfloat16(name: string, begin?: number, end?: number): Uint16Array {
    return this.owner(name).readBfloat16(name, begin, end);
  }

  /** The stored bytes of a tensor. */
  readBytes(name: string): Uint8Array {
    return this.owner(name).readBytes(name);
  }

  close(): void {
    for (const file of this.files) file.close();
  }

  private owner(name: string): SafetensorsFile {
    const file = this.owners.get(name);
    if (!file) throw new CheckpointError(`${this.dir}: there is no tensor "${name}"`);
    return file;
  }
}

/**
 * Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists. The caller closes it.
 *
 * @throws CheckpointError  for missing files, shards outside the directory, and tensors that a shard lacks
 */
export function openModelWeights(dir: string): ModelWeights {
  if (existsSync(join(dir, SINGLE))) {
    const file = openSafetensors(join(dir, SINGLE));
    return new ModelWeights(dir, [file], new Map([...file.tensors.keys()].map((name) => [name, file])));
  }
  if (existsSync(join(dir, INDEX))) return openShards(dir);
  const found = statSync(dir, { throwIfNoEntry: false })?.isDirectory() ? 'neither' : 'no such directory';
  throw new CheckpointError(
    `${dir}: expected ${SINGLE} or ${INDEX}, found ${found}. Other formats (.bin, .gguf) are not read: ` +
      'save the model with safe_serialization=True.',
  );
}

function openShards(dir: string): ModelWeights {
  const indexPath = join(dir, INDEX);
  const { weight_map: places } = parseFile(indexPath, indexSchema);
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const shard of new Set(Object.values(places))) {
      checkShardPath(shard, indexPath);
      files.set(shard, openSafetensors(join(dir, shard)));
    }
    const owners = new Map<string, SafetensorsFile>();
    for (const [name, shard] of Object.entries(places)) {
      const file = files.get(shard)!;
      if (!file.tensors.has(name)) {
        throw new CheckpointError(`${file.path}: expected tensor "${name}", as ${INDEX} says, found none`);
      }
      owners.set(name, file);
    }
    refuseUnlisted(files, places);
    return new ModelWeights(dir, [...files.values()], owners);
  } catch (error) {
    for (const file of files.values()) file.close();
    throw error;
  }
}

/** A tensor that the index does not list, or lists for another shard, would make the model ambiguous. */
function refuseUnlisted(files: ReadonlyMap<string, SafetensorsFile>, places: Record<string, string>): void {
  for (const [shard, file] of files) {
    for (const name of file.tensors.keys()) {
      if (places[name] === shard) continue;
      throw new CheckpointError(`${file.path}: tensor "${name}" is not listed for this shard in ${INDEX}`);
    }
  }
}

/** The index comes from a stranger: what it names must lie in the model's directory. */
function checkShardPath(shard: string, indexPath: string): void {
  const path = normalize(shard);
  if (isAbsolute(path) || path === '..' || path.startsWith(`..${sep}`) || shard.includes('\0')) {
    throw new CheckpointError(
      `${indexPath}: shard ${JSON.stringify(shard)} lies outside the model's directory`,
    );
  }
}
