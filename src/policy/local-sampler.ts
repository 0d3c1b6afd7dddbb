/** What a local policy samples with: the decoder that fits the machine, on weights that follow the adapter. */
import { compile, defaultMode } from '../runtime/compile';
import type { CompiledFunction, ExecutionMode } from '../runtime/compile';
import { describeMachine } from '../runtime/machine';
import type { Tensor, Variable } from '../runtime/tf';
import { binding, tf } from '../runtime/tf';
import { fusedModules, mergedMatrix } from '../model/load';
import { PanelMatrix } from '../model/matrix';
import { mergedBytes } from '../model/memory';
import { PackedModel } from '../model/packed';
import type { Network } from '../model/qwen3';
import type { Decoder } from './decoding';
import { GraphDecoder, PackedDecoder } from './decoding';
import { Sampler } from './rollout';

/** How a local policy samples. */
export interface LocalSamplerOptions {
  mode?: ExecutionMode;
  /**
   * Sample on a copy of the weights: laid out for the binding's ops on a CPU, elsewhere with the adapter merged in; false: on
   * the weights as they are. Default: true where the copy fits into the memory that is free. Weights in fewer than 32 bits are
   * never copied.
   */
  mergeForSampling?: boolean;
}

/** Free memory of the device that holds the weights, in bytes. */
function freeBytes(): number {
  const { memoryAvailableBytes, gpus } = describeMachine();
  return binding.isUsingGpuDevice() ? (gpus[0]?.memoryFreeBytes ?? 0) : memoryAvailableBytes;
}

/** Owns the copies that it samples on, not the network. */
export class LocalSampler {
  private sampler: Sampler | null = null;
  private packed: PackedModel | null = null;
  private merge: CompiledFunction | null = null;
  private merged: Variable[] = [];
  private isStale = true;

  constructor(
    private readonly network: Network,
    private readonly padId: number,
    private readonly options: LocalSamplerOptions,
  ) {}

  /** To be called when the adapter, or trained weights, have changed. */
  forget(): void {
    this.isStale = true;
  }

  /** A sampler of the present weights. */
  current(): Sampler {
    this.sampler ??= new Sampler(this.chooseDecoder());
    if (this.isStale) {
      this.packed?.refresh();
      this.mergeMatrices();
    }
    this.isStale = false;
    return this.sampler;
  }

  /** On a CPU the binding's own ops, where functions are compiled at all; else the compiled graph. */
  private chooseDecoder(): Decoder {
    const { config, weights, adapter } = this.network;
    const { mode = defaultMode() } = this.options;
    const isPanels = weights.head.matrix instanceof PanelMatrix;
    const takesPacked = mode === 'graph' && !binding.isUsingGpuDevice();
    const copy = mergedBytes(config, 'float32', adapter?.config.r, takesPacked);
    const { mergeForSampling = copy <= freeBytes() } = this.options;
    if (isPanels ? !takesPacked : !mergeForSampling) return new GraphDecoder(this.network, this.padId, mode);
    if (takesPacked) {
      this.packed = new PackedModel(config, weights, adapter);
      return new PackedDecoder(this.packed, this.network);
    }
    return new GraphDecoder(this.mergedNetwork(mode), this.padId, mode);
  }

  /** The network on variables, into which `mergeMatrices` merges the adapter. */
  private mergedNetwork(mode: ExecutionMode): Network {
    const { config, weights, adapter } = this.network;
    if (adapter === null) return this.network;
    const merge = (): Tensor[] =>
      weights.layers.flatMap((w, layer) =>
        fusedModules.map(([key, modules]) => mergedMatrix(w[key], layer, modules, adapter)),
      );
    this.merge = compile('merge', merge, { mode });
    this.merged = weights.layers.flatMap((w) =>
      fusedModules.map(([key]) => tf.tidy(() => tf.variable(tf.zeros([...w[key].shape]), false))),
    );
    const layers = weights.layers.map((w, layer) => {
      const own = this.merged.slice(layer * fusedModules.length, (layer + 1) * fusedModules.length);
      return { ...w, ...Object.fromEntries(fusedModules.map(([key], i) => [key, own[i]])) };
    });
    return { config, weights: { ...weights, layers }, adapter: null };
  }

  private mergeMatrices(): void {
    if (this.merge === null) return;
    const fresh = this.merge();
    this.merged.forEach((matrix, i) => matrix.assign(fresh[i] as never));
    tf.dispose(fresh);
  }

  dispose(): void {
    this.sampler?.dispose();
    this.merge?.dispose();
    tf.dispose(this.merged);
  }
}
