/**
 * Dropout whose masks are a pure function of (seed, example, visit, token position, module, channel), so that they do
 * not depend on how examples are put into batches, and are the same after a resume. The bits are made on the device by
 * integer mixing.
 */
import { Random } from '../runtime/random';
import type { Tensor } from '../runtime/tf';
import { backend, binding, tf, typeAttribute } from '../runtime/tf';
import type { LoraModule } from './lora';
import { LORA_TARGETS } from './peft';
import type { AdapterDropout } from './qwen3';

function bitwise(op: 'BitwiseXor' | 'BitwiseAnd' | 'RightShift', x: Tensor, y: Tensor): Tensor {
  return backend.executeSingleOutput(op, [typeAttribute('T', binding.TF_INT32)], [x, y]);
}

const integer = (value: number): Tensor => tf.scalar(value | 0, 'int32');

/** x ^ (x >>> bits) for 32-bit words. */
function foldRight(x: Tensor, bits: number): Tensor {
  const shifted = bitwise(
    'BitwiseAnd',
    bitwise('RightShift', x, integer(bits)),
    integer(2 ** (32 - bits) - 1),
  );
  return bitwise('BitwiseXor', x, shifted);
}

/** A bijective mix of 32-bit words (constants: C. Wellons, "Prospecting for hash functions", 2018). */
function mix(x: Tensor): Tensor {
  const first = tf.mul(foldRight(x, 16), integer(0x7feb352d));
  const second = tf.mul(foldRight(first, 15), integer(0x846ca68b));
  return foldRight(second, 16);
}

/** One key for each token of an example: the coordinates of its masks. */
export function dropoutKeys(
  key: { seed: number; example: string; visit: number },
  length: number,
): Int32Array {
  const random = new Random(key.seed, 'dropout', key.example, key.visit);
  return Int32Array.from({ length }, () => Math.floor(random.uniform() * 2 ** 32) | 0);
}

/**
 * Inverted dropout of x: an element is dropped when the mix of its row's key, its channel and the salt falls below the
 * rate; the others are divided by 1 - rate.
 *
 * @param x     [N, C]
 * @param keys  [N] int32, one a row (`dropoutKeys`)
 * @param salt  sets the masks of different places in a network apart
 * @returns     [N, C]
 */
export function dropout(x: Tensor, keys: Tensor, rate: number, salt: number): Tensor {
  const channels = x.shape[1] as number;
  const channelWords = Int32Array.from({ length: channels }, (_, c) => Math.imul(c + 1, 0x85ebca6b) ^ salt);
  const words = tf.expandDims(keys, 1);
  const mixed = mix(tf.add(mix(words), mix(tf.tensor2d(channelWords, [1, channels], 'int32'))));
  const uniform = bitwise('BitwiseAnd', mixed, integer(0xffffff));
  const kept = tf.cast(tf.greaterEqual(uniform, integer(Math.round(rate * 2 ** 24))), 'float32');
  return tf.mul(x, tf.mul(kept, 1 / (1 - rate)));
}

/**
 * Dropout on the inputs of the adapter's A matrices.
 * @param keys  [N] int32, one a token (`dropoutKeys`)
 */
export function adapterDropout(keys: Tensor, rate: number): AdapterDropout {
  return (x: Tensor, layer: number, module: LoraModule) =>
    dropout(
      x,
      keys,
      rate,
      Math.imul(layer * LORA_TARGETS.length + LORA_TARGETS.indexOf(module) + 1, 0x9e3779b1),
    );
}
