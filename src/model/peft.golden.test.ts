import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { CheckpointError } from '../runtime/errors';
import { readModelConfig } from './config';
import { adapterShapes, LORA_TARGETS, loraScale, readAdapter, readAdapterConfig, writeAdapter } from './peft';
import { openSafetensors } from './safetensors';
import { writeSafetensors } from './safetensors-writer';

const ADAPTER = goldenPath('lora', 'adapter');
const raw = readGolden<Record<string, unknown>>('lora', 'adapter', 'adapter_config.json');
const model = readModelConfig(goldenPath('tiny-qwen3', basename(raw.base_model_name_or_path as string)));

let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'peft-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A copy of the golden adapter with other settings. */
function copyWith(changes: Record<string, unknown>): string {
  const home = mkdtempSync(join(dir, 'copy-'));
  const weights = 'adapter_model.safetensors';
  writeFileSync(join(home, weights), readFileSync(join(ADAPTER, weights)));
  writeFileSync(join(home, 'adapter_config.json'), JSON.stringify({ ...raw, ...changes }));
  return home;
}

/** A copy of the golden adapter whose tensors were changed. */
async function copyTensors(
  change: (tensors: Map<string, { shape: readonly number[]; data: Float32Array }>) => void,
): Promise<string> {
  const home = copyWith({});
  const path = join(home, 'adapter_model.safetensors');
  const file = openSafetensors(path);
  const tensors = new Map(
    [...file.tensors].map(([name, { shape }]) => [name, { shape, data: file.read(name) }]),
  );
  file.close();
  change(tensors);
  await writeSafetensors(path, tensors);
  return home;
}

describe('an adapter of PEFT', () => {
  it('is read whole: configuration, scale and every matrix', () => {
    const { config, matrices } = readAdapter(ADAPTER, model);
    expect(config).toMatchObject({ r: raw.r, lora_alpha: raw.lora_alpha, lora_dropout: raw.lora_dropout });
    expect(loraScale(config)).toBe((raw.lora_alpha as number) / (raw.r as number));
    expect(matrices.size).toBe(model.numHiddenLayers * (raw.target_modules as string[]).length);
    const file = openSafetensors(join(ADAPTER, 'adapter_model.safetensors'));
    expect(file.tensors.size).toBe(2 * matrices.size);
    for (const [module, { a, b }] of matrices) {
      expect(a).toEqual(file.read(`base_model.model.model.${module}.lora_A.weight`));
      expect(b).toEqual(file.read(`base_model.model.model.${module}.lora_B.weight`));
    }
    file.close();
  });

  it('is written back byte for byte, and its configuration field for field', async () => {
    const home = join(dir, 'new', 'adapter');
    await writeAdapter(home, readAdapter(ADAPTER, model));
    const read = (place: string, name: string) => readFileSync(join(place, name));
    const weights = 'adapter_model.safetensors';
    expect(read(home, weights).equals(read(ADAPTER, weights))).toBe(true);
    const written = JSON.parse(read(home, 'adapter_config.json').toString()) as Record<string, unknown>;
    expect(written).toEqual({ ...raw, peft_version: written.peft_version });
    expect(Object.keys(written)).toEqual(Object.keys(raw));
  });

  it('may target some modules only, or all of them by one word', () => {
    expect(readAdapterConfig(copyWith({ target_modules: 'all-linear' })).target_modules).toEqual([
      ...LORA_TARGETS,
    ]);
    const shapes = adapterShapes({ r: 3, target_modules: ['k_proj'] }, model);
    const keys = model.numKeyValueHeads * model.headDim;
    expect(shapes.size).toBe(model.numHiddenLayers);
    expect(shapes.get('layers.0.self_attn.k_proj')).toEqual({ a: [3, model.hiddenSize], b: [keys, 3] });
  });

  it('scales by the root of the rank with rsLoRA', () => {
    const config = readAdapterConfig(copyWith({ use_rslora: true, r: 16, lora_alpha: 8 }));
    expect(loraScale(config)).toBe(2);
  });

  it.each([
    [{ peft_type: 'IA3' }, /peft_type: .*"LORA"; found "IA3"/],
    [{ use_dora: true }, /use_dora = true is not supported. Supported: plain LoRA/],
    [{ rank_pattern: { q_proj: 8 } }, /rank_pattern = {"q_proj":8} is not supported/],
    [{ alpha_pattern: { q_proj: 8 } }, /alpha_pattern/],
    [{ modules_to_save: ['lm_head'] }, /modules_to_save/],
    [{ bias: 'all' }, /bias: .*found "all"/],
    [{ lora_bias: true }, /lora_bias/],
    [{ fan_in_fan_out: true }, /fan_in_fan_out/],
    [{ layers_to_transform: [0] }, /layers_to_transform/],
    [
      { target_modules: ['embed_tokens'] },
      /target_modules: expected "all-linear" or a list of q_proj.*found \["embed_tokens"\]/,
    ],
    [{ target_modules: '.*q_proj' }, /target_modules: .*found ".\*q_proj"/],
    [{ init_lora_weights: 'pissa' }, /init_lora_weights: .*found "pissa"/],
    [{ some_future_switch: true }, /some_future_switch = true is not supported/],
    [{ r: 0 }, /r: .*found 0/],
  ])('is refused with %j', (changes, message) => {
    const home = copyWith(changes);
    expect(() => readAdapter(home, model)).toThrow(CheckpointError);
    expect(() => readAdapter(home, model)).toThrow(message);
  });

  it('is refused when its files are missing or cut short', () => {
    expect(() => readAdapter(join(dir, 'none'), model)).toThrow(CheckpointError);
    const home = copyWith({});
    const path = join(home, 'adapter_model.safetensors');
    writeFileSync(path, readFileSync(path).subarray(0, -1));
    expect(() => readAdapter(home, model)).toThrow(/expected data up to byte/);
    rmSync(path);
    expect(() => readAdapter(home, model)).toThrow(/expected adapter_model.safetensors, found nothing/);
    writeFileSync(join(home, 'adapter_model.bin'), '');
    expect(() => readAdapter(home, model)).toThrow(/adapter_model.bin, which is not read/);
  });

  it('is refused when its rank or its matrices are not those of its configuration', async () => {
    const other = { r: (raw.r as number) + 1 };
    expect(() => readAdapter(copyWith(other), model)).toThrow(
      /expected ".*lora_A.weight" of shape .*, found \[/,
    );
    const [module] = readAdapter(ADAPTER, model).matrices.keys();
    const first = `base_model.model.model.${module}.lora_B.weight`;
    const without = await copyTensors((tensors) => tensors.delete(first));
    expect(() => readAdapter(without, model)).toThrow(new RegExp(`expected "${first}".*found none`));
    const extra = await copyTensors((tensors) =>
      tensors.set('base_model.model.lm_head.weight', { shape: [1], data: new Float32Array(1) }),
    );
    expect(() => readAdapter(extra, model)).toThrow(/lm_head.weight" is not a LoRA factor/);
  });

  it('is refused on another model', () => {
    const wider = { ...model, hiddenSize: model.hiddenSize + 2 };
    expect(() => readAdapter(ADAPTER, wider)).toThrow(/Is it an adapter of another model\?/);
    const deeper = { ...model, numHiddenLayers: model.numHiddenLayers + 1 };
    expect(() => readAdapter(ADAPTER, deeper)).toThrow(/found none. Is it an adapter of another model\?/);
    const shallower = { ...model, numHiddenLayers: model.numHiddenLayers - 1 };
    expect(() => readAdapter(ADAPTER, shallower)).toThrow(/has no place in the model/);
  });
});
