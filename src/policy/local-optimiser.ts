/** AdamW over the variables of a local policy: pending gradient, moments, and the step. */
import { adamwUpdate, biasCorrections, clipCoefficient, globalNorm } from '../optim/adamw';
import { compile } from '../runtime/compile';
import type { CompiledFunction, ExecutionMode } from '../runtime/compile';
import { openSafetensors } from '../model/safetensors';
import { writeSafetensors } from '../model/safetensors-writer';
import type { TensorSource } from '../model/safetensors-writer';
import { CheckpointError, ConfigError } from '../runtime/errors';
import type { Tensor, Variable } from '../runtime/tf';
import { tf } from '../runtime/tf';
import type { OptimStepOptions, OptimStepResult } from './policy';

/** Owns its tensors, not the variables. */
export class LocalOptimiser {
  private pending: Tensor[] | null = null;
  private first: Tensor[] | null = null;
  private second: Tensor[] | null = null;
  private steps = 0;
  private readonly norm: CompiledFunction;
  private readonly updates = new Map<string, CompiledFunction>();

  constructor(
    private readonly names: readonly string[],
    readonly variables: readonly Variable[],
    private readonly mode?: ExecutionMode,
  ) {
    this.norm = compile('gradientNorm', (...grads) => [globalNorm(grads)], { mode });
  }

  /** Adds a gradient, one tensor a variable, to the pending one; takes the tensors over. */
  accumulate(grads: Tensor[]): void {
    const { pending } = this;
    if (pending === null) {
      this.pending = grads;
      return;
    }
    this.pending = pending.map((sum, i) => tf.add(sum, grads[i]));
    tf.dispose([...pending, ...grads]);
  }

  /** The pending gradient by name. */
  gradients(): Map<string, { shape: number[]; values: Float32Array }> {
    return new Map(
      (this.pending ?? []).map((grad, i) => [
        this.names[i],
        { shape: grad.shape, values: grad.dataSync() as Float32Array },
      ]),
    );
  }

  /**
   * Clips, updates the variables, and clears the pending gradient; a gradient that is not finite changes nothing.
   * @throws ConfigError  when there is no gradient
   */
  step(options: OptimStepOptions): OptimStepResult {
    const { pending } = this;
    if (pending === null)
      throw new ConfigError('there is no gradient: call forwardBackward before optimStep');
    this.pending = null;
    try {
      const [norm] = this.norm(...pending);
      const gradNorm = norm.dataSync()[0];
      norm.dispose();
      if (!Number.isFinite(gradNorm)) return { gradNorm, skipped: true };
      this.update(pending, gradNorm, options);
      return { gradNorm, skipped: false };
    } finally {
      tf.dispose(pending);
    }
  }

  private update(pending: readonly Tensor[], gradNorm: number, options: OptimStepOptions): void {
    const { learningRate, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, clipNorm = 0 } = options;
    const { variables } = this;
    const n = variables.length;
    const zeros = (): Tensor[] => variables.map((variable) => tf.fill(variable.shape, 0));
    const [first, second] = [(this.first ??= zeros()), (this.second ??= zeros())];
    this.steps++;
    const corrections = biasCorrections(this.steps, betas);
    const scalars = tf.tensor1d([learningRate, ...corrections, clipCoefficient(gradNorm, clipNorm)]);
    const update = this.updateFunction({ betas, eps, weightDecay });
    const outputs = update(scalars, ...variables, ...pending, ...first, ...second);
    variables.forEach((variable, i) => variable.assign(outputs[i] as never));
    tf.dispose([scalars, ...first, ...second, ...outputs.slice(0, n)]);
    this.first = outputs.slice(n, 2 * n);
    this.second = outputs.slice(2 * n);
  }

  private updateFunction(
    options: Required<Pick<OptimStepOptions, 'betas' | 'eps' | 'weightDecay'>>,
  ): CompiledFunction {
    const key = JSON.stringify(options);
    const known = this.updates.get(key);
    if (known !== undefined) return known;
    const n = this.variables.length;
    const update = compile(
      'adamw',
      (numbers, ...lists) => {
        const [learningRate, correction1, correction2, clip] = tf.unstack(numbers);
        const part = (k: number): Tensor[] => lists.slice(k * n, (k + 1) * n);
        const scalars = { learningRate, correction1, correction2, clipCoefficient: clip };
        const result = adamwUpdate(part(0), part(1), part(2), part(3), scalars, options);
        return [...result.params, ...result.first, ...result.second];
      },
      { mode: this.mode },
    );
    this.updates.set(key, update);
    return update;
  }

  /** Writes moments and step count. @throws DataError when the disk refuses */
  async save(file: string): Promise<void> {
    const tensors = new Map<string, TensorSource>();
    this.names.forEach((name, i) => {
      for (const [kind, list] of Object.entries({ first: this.first, second: this.second })) {
        if (list === null) continue;
        tensors.set(`${kind}.${name}`, {
          shape: list[i].shape,
          data: () => list[i].dataSync() as Float32Array,
        });
      }
    });
    await writeSafetensors(file, tensors, { metadata: { steps: String(this.steps) } });
  }

  /** Takes up moments and step count, and drops a pending gradient. @throws CheckpointError when they do not fit */
  load(path: string): void {
    const file = openSafetensors(path);
    try {
      const steps = Number(file.metadata.steps ?? NaN);
      if (!Number.isSafeInteger(steps) || steps < 0)
        throw new CheckpointError(`${path}: has no count of steps; expected the state of an optimiser`);
      const read = (kind: string): Tensor[] | null =>
        steps === 0
          ? null
          : this.names.map((name, i) => {
              const { shape } = this.variables[i];
              if (file.info(`${kind}.${name}`).shape.join() !== shape.join())
                throw new CheckpointError(
                  `${path}: ${kind}.${name} does not have the shape [${shape.join()}]`,
                );
              return tf.tensor(file.read(`${kind}.${name}`), shape);
            });
      const [first, second] = [read('first'), read('second')];
      tf.dispose([...(this.pending ?? []), ...(this.first ?? []), ...(this.second ?? [])]);
      this.pending = null;
      [this.first, this.second, this.steps] = [first, second, steps];
    } finally {
      file.close();
    }
  }

  dispose(): void {
    this.norm.dispose();
    for (const update of this.updates.values()) update.dispose();
    tf.dispose([...(this.pending ?? []), ...(this.first ?? []), ...(this.second ?? [])]);
    this.pending = this.first = this.second = null;
  }
}
