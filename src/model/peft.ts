import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from '../runtime/errors';
import { atomicWriteFile, ensureDirectory } from '../runtime/files';
import { expectedTensors, parseFile } from './config';
import type { ModelConfig } from './config';
import { openSafetensors } from './safetensors';
import type { SafetensorsFile } from './safetensors';
import { shownJson } from './safetensors-header';
import { writeSafetensors } from './safetensors-writer';
import type { TensorSource } from './safetensors-writer';

/** The linear layers that can carry an adapter, as PEFT's `target_modules` names them. */
export const LORA_TARGETS = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;

/** The part of PEFT's `adapter_config.json` that decides what an adapter computes. */
export interface AdapterConfig {
  base_model_name_or_path: string | null;
  r: number;
  lora_alpha: number;
  lora_dropout: number;
  /** Scale by alpha / sqrt(r) instead of alpha / r. */
  use_rslora: boolean;
  target_modules: string[];
}

/** The factors of one module: its weight [out, in] becomes W + scale * B A. */
export interface LoraMatrices {
  /** [r, in] */
  a: Float32Array;
  /** [out, r] */
  b: Float32Array;
}

/** A LoRA adapter as PEFT stores it, in memory. */
export interface Adapter {
  config: AdapterConfig;
  /** By module, such as `layers.0.self_attn.q_proj`. */
  matrices: Map<string, LoraMatrices>;
}

const CONFIG_FILE = 'adapter_config.json';
const WEIGHTS_FILE = 'adapter_model.safetensors';
const PREFIX = 'base_model.model.model.';
const TENSOR_NAME =
  /^base_model\.model\.model\.(layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj))\.lora_([AB])\.weight$/;

const configSchema = z.looseObject({
  peft_type: z.literal('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).max(1).default(0),
  use_rslora: z.boolean().default(false),
  target_modules: z.union([z.literal('all-linear'), z.array(z.enum(LORA_TARGETS)).nonempty()], {
    error: `expected "all-linear" or a list of ${LORA_TARGETS.join(', ')}`,
  }),
  bias: z.literal('none').default('none'),
  init_lora_weights: z
    .union([z.boolean(), z.enum(['gaussian', 'orthogonal'])], {
      error: 'expected true, false, "gaussian" or "orthogonal": others change the base weights',
    })
    .nullish(),
});

/** Fields of PEFT that describe a file or a past training, not what the adapter computes. */
const DESCRIPTIVE = new Set([
  ...Object.keys(configSchema.shape),
  'auto_mapping',
  'inference_mode',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
  'task_type',
]);

/** What the product B A is multiplied with. */
export function loraScale({ r, lora_alpha, use_rslora }: AdapterConfig): number {
  return lora_alpha / (use_rslora ? Math.sqrt(r) : r);
}

/**
 * Reads a LoRA adapter in PEFT's format and checks it against the model that it is for.
 *
 * @throws CheckpointError  when files are missing or damaged, a feature beyond plain LoRA is on, matrices are
 *                          missing, or their shapes are those of another model
 */
export function readAdapter(dir: string, model: ModelConfig): Adapter {
  const config = readAdapterConfig(dir);
  const path = join(dir, WEIGHTS_FILE);
  if (!existsSync(path)) {
    const others = existsSync(join(dir, 'adapter_model.bin'))
      ? 'adapter_model.bin, which is not read'
      : 'nothing';
    throw new CheckpointError(`${dir}: expected ${WEIGHTS_FILE}, found ${others}`);
  }
  const file = openSafetensors(path);
  try {
    const matrices = new Map<string, LoraMatrices>();
    for (const [module, shapes] of adapterShapes(config, model)) {
      const read = (factor: 'A' | 'B', shape: number[]) => readFactor(file, module, factor, shape);
      matrices.set(module, { a: read('A', shapes.a), b: read('B', shapes.b) });
    }
    refuseOthers(file, matrices);
    return { config, matrices };
  } finally {
    file.close();
  }
}

/** Reads and checks `adapter_config.json` alone. */
export function readAdapterConfig(dir: string): AdapterConfig {
  const path = join(dir, CONFIG_FILE);
  const file = parseFile(path, configSchema);
  for (const [field, value] of Object.entries(file)) {
    if (DESCRIPTIVE.has(field) || isOff(value)) continue;
    throw new CheckpointError(
      `${path}: ${field.slice(0, 80)} = ${shownJson(value)} is not supported. Supported: plain LoRA of one rank ` +
        `and alpha on ${LORA_TARGETS.join(', ')}. Merge the adapter with PEFT and load the merged model instead.`,
    );
  }
  return {
    base_model_name_or_path: file.base_model_name_or_path ?? null,
    r: file.r,
    lora_alpha: file.lora_alpha,
    lora_dropout: file.lora_dropout,
    use_rslora: file.use_rslora,
    target_modules: file.target_modules === 'all-linear' ? [...LORA_TARGETS] : file.target_modules,
  };
}

/**
 * Shapes of the factors that an adapter of this configuration has on this model, by module, in the model's order:
 * A is [r, in], B is [out, r].
 */
export function adapterShapes(
  { r, target_modules }: Pick<AdapterConfig, 'r' | 'target_modules'>,
  model: ModelConfig,
): Map<string, { a: number[]; b: number[] }> {
  const shapes = new Map<string, { a: number[]; b: number[] }>();
  for (const { name, shape } of expectedTensors(model)) {
    const module = name.replace(/^model\.|\.weight$/g, '');
    if (!target_modules.includes(module.split('.').pop()!)) continue;
    const [out, inner] = shape;
    shapes.set(module, { a: [r, inner], b: [out, r] });
  }
  return shapes;
}

/**
 * Writes an adapter so that PEFT, vLLM and this library load it. Each of the two files appears complete or not at
 * all; the configuration comes last.
 */
export async function writeAdapter(dir: string, { config, matrices }: Adapter): Promise<void> {
  await ensureDirectory(dir);
  const tensors = new Map<string, TensorSource>();
  for (const [module, { a, b }] of matrices) {
    tensors.set(`${PREFIX}${module}.lora_A.weight`, { shape: [config.r, a.length / config.r], data: a });
    tensors.set(`${PREFIX}${module}.lora_B.weight`, { shape: [b.length / config.r, config.r], data: b });
  }
  await writeSafetensors(join(dir, WEIGHTS_FILE), tensors, { metadata: { format: 'pt' } });
  await atomicWriteFile(join(dir, CONFIG_FILE), `${JSON.stringify(configFile(config), null, 2)}\n`);
}

function readFactor(file: SafetensorsFile, module: string, factor: 'A' | 'B', shape: number[]): Float32Array {
  const name = `${PREFIX}${module}.lora_${factor}.weight`;
  const info = file.tensors.get(name);
  const expected = `expected "${name}" of shape [${shape.join(', ')}] from ${CONFIG_FILE} and the model`;
  if (!info)
    throw new CheckpointError(`${file.path}: ${expected}, found none. Is it an adapter of another model?`);
  if (info.shape.join() !== shape.join()) {
    const found = `found [${info.shape.join(', ')}]`;
    throw new CheckpointError(`${file.path}: ${expected}, ${found}. Is it an adapter of another model?`);
  }
  return file.read(name);
}

function refuseOthers(file: SafetensorsFile, matrices: ReadonlyMap<string, LoraMatrices>): void {
  for (const name of file.tensors.keys()) {
    const module = TENSOR_NAME.exec(name)?.[1];
    if (module === undefined) {
      throw new CheckpointError(
        `${file.path}: "${name.slice(0, 200)}" is not a LoRA factor of a Qwen3 layer`,
      );
    }
    if (!matrices.has(module)) {
      throw new CheckpointError(
        `${file.path}: "${name}" has no place in the model or in target_modules. Is it an adapter of another model?`,
      );
    }
  }
}

/** null, false, 0, "", [] and {} all mean that a feature is not used. */
function isOff(value: unknown): boolean {
  return typeof value === 'object' && value !== null ? Object.keys(value).length === 0 : !value;
}

/** All fields that PEFT 0.21 writes, with its defaults for those that we have no use for. */
function configFile(config: AdapterConfig): Record<string, unknown> {
  return {
    alora_invocation_tokens: null,
    alpha_pattern: {},
    arrow_config: null,
    auto_mapping: null,
    base_model_name_or_path: config.base_model_name_or_path,
    bias: 'none',
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: config.lora_alpha,
    lora_bias: false,
    lora_dropout: config.lora_dropout,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    monteclora_config: null,
    peft_type: 'LORA',
    peft_version: '0.21.2',
    qalora_group_size: 16,
    r: config.r,
    rank_pattern: {},
    revision: null,
    target_modules: [...config.target_modules].sort(),
    target_parameters: null,
    task_type: 'CAUSAL_LM',
    trainable_token_indices: null,
    use_bdlora: null,
    use_dora: false,
    use_qalora: false,
    use_rslora: config.use_rslora,
    velora_config: null,
  };
}
