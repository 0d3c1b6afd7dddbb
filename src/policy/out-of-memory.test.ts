/** Memory that really runs out: the kernel gives this process no more addresses (RLIMIT_AS) while a policy works. */
import { spawnSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { copyModel, runCli } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { readModelConfig } from '../model/config';
import { LORA_TARGETS } from '../model/peft';
import { MemoryError } from '../runtime/errors';
import { pythonEnvironment } from '../runtime/machine';
import { binding, tf } from '../runtime/tf';
import { LocalPolicy } from './local';
import type { LocalPolicyOptions } from './local';
import { loadWithAdvice } from './out-of-memory';

// Without it: oneDNN's allocator waits ten seconds for memory before it gives up, once for each tensor that was to be made.
vi.hoisted(() => (process.env.TF_ENABLE_ONEDNN_OPTS = '0'));

const MEBIBYTE = 2 ** 20;
const modelDirectory = goldenPath('tiny-qwen3', 'tied-f32');
const lora = {
  ...{ base_model_name_or_path: null, r: 4, lora_alpha: 4, lora_dropout: 0, use_rslora: false },
  target_modules: [...LORA_TARGETS],
};

/** The soft limit of this process's addresses; undefined lifts it. */
function limitAddresses(bytes?: number): void {
  const python = join(pythonEnvironment([])?.directory ?? '.venv', 'bin', 'python');
  const script = `import resource as r
hard = r.prlimit(${process.pid}, r.RLIMIT_AS)[1]
r.prlimit(${process.pid}, r.RLIMIT_AS, (${bytes ?? 'hard'}, hard))`;
  const { status, stderr } = spawnSync(python, ['-c', script], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`no limit: ${stderr}`);
}

/** Runs with so many bytes of addresses left. @returns what was thrown */
async function failureWithin(bytes: number, run: () => unknown): Promise<Error> {
  const used = /VmSize:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  limitAddresses(1024 * Number(used) + bytes);
  try {
    await run();
  } catch (error) {
    return error as Error;
  } finally {
    limitAddresses();
  }
  throw new Error('expected an error; there was enough memory');
}

const ids = (n: number): number[] => Array.from({ length: n }, (_, i) => 3 + (i % 100));

const step = (policy: LocalPolicy, P: number, G: number, Tp: number, Tc: number) =>
  policy.forwardBackward(
    {
      groups: Array.from({ length: P }, () => ({
        promptIds: ids(Tp),
        rows: new Array<{ tokenIds: number[] }>(G).fill({ tokenIds: ids(Tc) }),
      })),
      ...{ totalRows: P * G, totalTokens: P * G * Tc, totalMicroBatches: 1 },
    },
    { kind: 'cross_entropy' },
  );

const sample = (policy: LocalPolicy, P: number, groupSize: number, maxNewTokens: number) =>
  policy.sample(
    Array.from({ length: P }, (_, p) => ({ id: String(p), tokenIds: ids(8) })),
    { groupSize, maxNewTokens, temperature: 1, seed: 1, stopTokenIds: [] },
  );

const logProbs = (policy: LocalPolicy, length: number) =>
  policy.logProbs([{ promptIds: ids(length), completionIds: ids(8) }]);

let policy: LocalPolicy | null = null;
function open(options: Partial<LocalPolicyOptions> = {}): LocalPolicy {
  policy = LocalPolicy.load({ modelDirectory, lora, ...options });
  return policy;
}
afterEach(() => {
  policy?.dispose();
  policy = null;
});

// Of 8 million tokens the smallest tensor with more than one column takes 512 MiB: it does not fit into what is left, and what
// does leaves room, for where TensorFlow cannot get a few bytes more it ends the process.
const LEFT = 512 * MEBIBYTE;
const [P, Tp] = [4096, 2048];

describe.skipIf(binding.isUsingGpuDevice())('a policy without memory', () => {
  it('says in one line what it did and which settings to change, leaks nothing and goes on', async () => {
    const model = open();
    const { loss } = await step(model, 2, 2, 8, 8);
    const before = tf.memory().numTensors;
    const error = await failureWithin(LEFT, () => step(model, P, 1, Tp, 8));
    expect(error).toBeInstanceOf(MemoryError);
    expect(error.message).toMatch(
      /^out of memory in forward and backward of a micro-batch of 4096 x 1 completions, up to 2048 \+ 8 tokens \(OOM when /,
    );
    expect(error.message).toMatch(
      /training\.gradient_checkpointing: true (would need )?[\d.]+ GiB.*; or lower training/,
    );
    expect(error.message).toMatch(/ tensor with shape\[[\d,]+\] and type float\); planned: [\d.]+ GiB; /);
    expect((error.cause as Error).message).toMatch(/OOM when allocating tensor[^]*allocator/);
    expect(tf.memory().numTensors).toBe(before);
    expect((await step(model, 2, 2, 8, 8)).loss).toBe(loss);
  });

  it('says so of sampling and of log-probabilities, in training and without', async () => {
    const model = open();
    await sample(model, 1, 2, 4);
    await logProbs(model, 8);
    const before = tf.memory().numTensors;
    const bare = await failureWithin(LEFT, () => sample(model, 16, 8, 8192));
    expect(bare).toBeInstanceOf(MemoryError);
    expect(bare.message).toMatch(
      /^out of memory sampling for 8 x 8 completions, up to 8 \+ 8192 tokens \(.*\); draw fewer/,
    );
    const long = await failureWithin(LEFT, () => logProbs(model, P * Tp));
    expect(long).toBeInstanceOf(MemoryError);
    expect(long.message).toMatch(
      /^out of memory computing log-probabilities of 1 x 1 completions.*; take shorter/,
    );
    model.freezeReference();
    const trained = await failureWithin(LEFT, () => sample(model, 16, 8, 8192));
    expect(trained.message).toMatch(
      /; planned: .* lower training\.batch_size, training\.max_length, max_new_tokens$/,
    );
    expect(tf.memory().numTensors).toBe(before);
  });

  it('leaves other errors as they are', async () => {
    const model = open();
    await expect(sample(model, 1, 0, 4)).rejects.toThrow('groupSize is 0');
    const other = new Error('other');
    const fail = (): never => {
      throw other;
    };
    expect(() => loadWithAdvice(fail, model.config, {})).toThrow(other);
  });

  it('names smaller types of the weights where loading fails', async () => {
    const directory = copyModel(modelDirectory);
    // An embedding of 1 GiB: a hole in the file.
    const [rows, width] = [4_194_304, readModelConfig(modelDirectory).hiddenSize];
    enlargeEmbedding(directory, rows, width);
    const load = (options: Partial<LocalPolicyOptions>) => () =>
      void open({ ...options, modelDirectory: directory });
    const error = await failureWithin(LEFT, load({}));
    expect(error).toBeInstanceOf(MemoryError);
    expect(error.message).toMatch(
      /^out of memory loading weights of 1\.0 GiB \(float32\) \(.*\); dtype \(--dtype\) bfloat16 would need 51\d MiB; or take a smaller model$/,
    );
    expect(error.cause).toBeInstanceOf(Error);
    const all = await failureWithin(LEFT, load({ lora: undefined, trainable: 'all' }));
    expect(all.message).toMatch(/\); take a smaller model$/);
  });

  it('ends a command with 1 and one line', async () => {
    await sample(open(), 1, 2, 4);
    const shape = ['--what', 'generate', '--shape', 'P=1,G=64,Tp=8,Tc=8192'];
    let [code, text] = [0, ''];
    const end = await failureWithin(LEFT, async () => {
      ({ code, stderr: text } = await runCli(['bench', '--model', modelDirectory, ...shape, '--quiet']));
      throw new Error('ended');
    });
    expect([code, end.message]).toEqual([1, 'ended']);
    expect(text).toMatch(/^grpolab: out of memory sampling for 1 x 64 completions, .*\n$/);
  });
});

/** Moves the tied embedding to the file's end and gives it so many rows, zeros that take no room on the disk. */
function enlargeEmbedding(directory: string, rows: number, width: number): void {
  const file = join(directory, 'model.safetensors');
  const bytes = readFileSync(file);
  const begin = 8 + Number(bytes.readBigUInt64LE(0));
  type Header = Record<string, { shape: number[]; data_offsets: [number, number] }>;
  const header = JSON.parse(bytes.subarray(8, begin).toString()) as Header;
  const embedding = header['model.embed_tokens.weight'];
  const [from, to] = embedding.data_offsets;
  for (const { data_offsets: offsets } of Object.values(header).filter((entry) => 'data_offsets' in entry))
    if (offsets[0] >= to) offsets.forEach((offset, i) => (offsets[i] = offset - (to - from)));
  const end = bytes.length - begin - (to - from);
  embedding.shape = [rows, width];
  embedding.data_offsets = [end, end + 4 * rows * width];
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  const rest = [bytes.subarray(begin, begin + from), bytes.subarray(begin + to)];
  writeFileSync(file, Buffer.concat([size, text, ...rest]));
  truncateSync(file, 8 + text.length + end + 4 * rows * width);
  const config = join(directory, 'config.json');
  const settings = JSON.parse(readFileSync(config, 'utf8')) as Record<string, unknown>;
  writeFileSync(config, JSON.stringify({ ...settings, vocab_size: rows }));
}
