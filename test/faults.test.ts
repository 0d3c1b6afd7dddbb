/** What a run survives: its process is killed, the disk is full, a byte turns. Each in a real process of its own. */
import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../src/runtime/random';
import { jsonLines } from './cli';
import { goldenPath } from './golden';

const program = resolve('bin/grpolab.mjs');
const hook = resolve('test/kill-hook.cjs');
const STEPS = 6;

const root = mkdtempSync(join(tmpdir(), 'faults-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const temporary = (): string => mkdtempSync(join(root, 'run-'));

function temporaryFile(name: string, content: string): string {
  const file = join(temporary(), name);
  writeFileSync(file, content);
  return file;
}

const records = Array.from({ length: 16 }, (_, i) => ({
  tweet_id: `t${i}`,
  tweet: `My plant number ${i} wilted again.`,
  reply: i % 2 === 0 ? 'Did you water it this week?' : 'Oh no, that is sad.',
}));

/** Every step is saved, so that a kill often hits a save; evaluation and best-of make more files to tear. */
function experiment(method: 'sft' | 'grpo'): string {
  const train = temporaryFile('train.jsonl', jsonLines(records.slice(0, 12)));
  const held = temporaryFile('eval.jsonl', jsonLines(records.slice(12)));
  const grpo = method === 'grpo' ? '\ngrpo: { n_generations: 2, max_new_tokens: 6, num_iterations: 2 }' : '';
  return temporaryFile(
    'experiment.yaml',
    `method: ${method}
model: ${goldenPath('tiny-qwen3', 'tied-f32')}
data: { train: ${train}, eval: ${held} }
lora: { r: 4, alpha: 8, dropout: 0.1 }
training:
  max_steps: ${STEPS}
  batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1.0e-2
  eval_steps: 2
  save_steps: 1
evaluation: { n_generations: 2, max_new_tokens: 6 }${grpo}
`,
  );
}

interface Outcome {
  code: number | null;
  stderr: string;
}

interface Fate {
  /** milliseconds after which it is killed */
  killAfter?: number;
  /** the limit on the size of a file, KiB */
  fileBlocks?: number;
  /** the file operation before which it kills itself: its name, and a pattern of the path */
  killBefore?: string;
  /** the checkpoint after which it is asked to stop */
  stopAfter?: string;
}

/** Runs the program, and does to it what it is told. */
function run(args: string[], { killAfter, fileBlocks, killBefore, stopAfter }: Fate = {}): Promise<Outcome> {
  // A limit on the size of a file is a full disk that needs no root; the signal that comes with it is ignored.
  const limited = `trap '' XFSZ; ulimit -f ${fileBlocks}; exec "$@"`;
  const [command, argv] =
    fileBlocks === undefined
      ? [process.execPath, [program, ...args]]
      : ['bash', ['-c', limited, 'bash', process.execPath, program, ...args]];
  const child = spawn(command, argv, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: {
      ...process.env,
      ...(killBefore !== undefined && { KILL_BEFORE: killBefore, NODE_OPTIONS: `--require ${hook}` }),
    },
  });
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
  const timer = killAfter === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter);
  const output = args[args.indexOf('--output') + 1];
  const watch = setInterval(() => {
    if (stopAfter === undefined || !existsSync(join(output, stopAfter))) return;
    clearInterval(watch);
    child.kill('SIGTERM');
  }, 2);
  return new Promise((done) =>
    child.on('close', (code) => {
      clearTimeout(timer);
      clearInterval(watch);
      done({ code, stderr });
    }),
  );
}

const bytes = (directory: string, name: string): string =>
  readFileSync(join(directory, name)).toString('base64');

/** Rows of the metrics without what time and memory make of them. */
function metrics(directory: string): unknown[] {
  return readFileSync(join(directory, 'metrics.jsonl'), 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) =>
      Object.fromEntries(
        Object.entries(JSON.parse(line) as Record<string, number>).filter(
          ([key]) => !/seconds|^system\/|per_second/.test(key),
        ),
      ),
    );
}

describe.each(['sft', 'grpo'] as const)('a %s run', (method) => {
  let config: string;
  let whole: string;
  let milliseconds: number;
  const train = (output: string, ...more: string[]): string[] => [
    ...['train', '--config', config, '--output', output, '--quiet'],
    ...more,
  ];

  beforeAll(async () => {
    config = experiment(method);
    whole = join(temporary(), 'whole');
    const begin = performance.now();
    const { code, stderr } = await run(train(whole));
    milliseconds = performance.now() - begin;
    expect(stderr).toBe('');
    expect(code).toBe(0);
  }, 60_000);

  const expectSame = (directory: string): void => {
    expect(bytes(directory, 'adapter_model.safetensors')).toBe(bytes(whole, 'adapter_model.safetensors'));
    expect(bytes(directory, 'samples.jsonl')).toBe(bytes(whole, 'samples.jsonl'));
    expect(metrics(directory)).toEqual(metrics(whole));
    // What was set aside as damaged stays for whoever wants to look at it.
    const files = readdirSync(directory).filter((name) => !name.startsWith('damaged-'));
    expect(files.sort()).toEqual(readdirSync(whole).sort());
  };

  it('killed at random moments and resumed ends with the same bytes as one that was not', async () => {
    const random = new Random(7, 'kills', method);
    const output = join(temporary(), 'killed');
    let kills = 0;
    for (let attempt = 0; attempt < 40; attempt++) {
      // From the loading of the program, which a kill must survive too, to the end; later ones let it get on.
      const killAfter = attempt < 5 ? milliseconds * (0.3 + 0.6 * random.uniform()) : undefined;
      const { code, stderr } = await run(train(output, '--resume'), { killAfter });
      if (code === 0) break;
      expect([
        code,
        stderr.replace(
          /.*: (no checkpoint yet; beginning anew|there is no run to resume; beginning one)\n/,
          '',
        ),
      ]).toEqual([null, '']);
      kills++;
    }
    expect(kills).toBeGreaterThan(0);
    expectSame(output);
  }, 120_000);

  it.each([
    ['while its logs are begun', 'rename', 'metrics\\.jsonl$'],
    ['in the middle of a save', 'rename', 'checkpoint-3\\.\\d+\\.tmp/adapter_config\\.json$'],
    ['before the checksums of a save', 'rename', 'checkpoint-4\\.\\d+\\.tmp/checksums\\.json$'],
    ['before a save gets its name', 'rename', 'checkpoint-4$'],
    ['inside the rotation', 'rm', '\\.checkpoint-1\\.0\\.tmp$'],
    ['before the last adapter', 'rename', 'killed/adapter_model\\.safetensors$'],
    ['before the last file', 'rename', 'killed/trainer_state\\.json$'],
  ])(
    'killed %s and resumed ends with the same bytes',
    async (_, operation, pattern) => {
      const output = join(temporary(), 'killed');
      const first = await run(train(output), { killBefore: `${operation} ${pattern}` });
      expect([first.code, first.stderr]).toEqual([null, '']);
      expect((await run(train(output, '--resume'))).code).toBe(0);
      expectSame(output);
    },
    60_000,
  );

  it('asked to stop by SIGTERM saves its step, exits with 130, and goes on to the same bytes', async () => {
    const output = join(temporary(), 'stopped');
    const { code, stderr } = await run(train(output), { stopAfter: 'checkpoint-2' });
    expect(code).toBe(130);
    expect(stderr).toMatch(/saved after step \d; go on with --resume\n/);
    expect((await run(train(output, '--resume'))).code).toBe(0);
    expectSame(output);
  }, 60_000);

  it('keeps the last adapter, and says so, when the best checkpoint is damaged', async () => {
    const output = join(temporary(), 'best');
    cpSync(whole, output, { recursive: true });
    const { best_model_checkpoint: best } = JSON.parse(
      readFileSync(join(whole, 'trainer_state.json'), 'utf8'),
    ) as {
      best_model_checkpoint: string | null;
    };
    expect(method === 'sft' || best !== null).toBe(true);
    if (best === null) return; // the last step was the best: nothing would be loaded
    rmSync(join(output, 'trainer_state.json'));
    const file = join(output, best, 'adapter_model.safetensors');
    const content = readFileSync(file);
    content[content.length - 5] ^= 1;
    writeFileSync(file, content);
    const { code, stderr } = await run(train(output, '--resume'));
    expect(code).toBe(0);
    expect(stderr).toMatch(/the adapter is that of the last step, not of step \d, which was the best/);
    expect(bytes(output, 'adapter_model.safetensors')).toBe(
      bytes(join(whole, `checkpoint-${STEPS}`), 'adapter_model.safetensors'),
    );
  }, 60_000);

  it('finds a turned byte in its latest checkpoint, goes on from the one before, and says so', async () => {
    // As if the power had gone just before the end: the last checkpoint is there, what follows it is not.
    const output = join(temporary(), 'turned');
    cpSync(whole, output, { recursive: true });
    for (const name of ['trainer_state.json', 'training_args.json', 'adapter_model.safetensors'])
      rmSync(join(output, name));
    const file = join(output, `checkpoint-${STEPS}`, 'optimizer.safetensors');
    const content = readFileSync(file);
    content[content.length >> 1] ^= 0x10;
    writeFileSync(file, content);
    const { code, stderr } = await run(train(output, '--resume'));
    expect(stderr).toMatch(
      /optimizer\.safetensors: its bytes are not those that were saved .*damaged and not used/,
    );
    expect(code).toBe(0);
    expectSame(output);
  }, 60_000);

  it('loses nothing when the disk is full inside a save, and goes on when it is not any more', async () => {
    const output = join(temporary(), 'full');
    mkdirSync(output);
    // Blocks of 1 KiB: large enough for the text files, too small for the adapter or its moments.
    const { code, stderr } = await run(train(output), { fileBlocks: 24 });
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/checkpoint-\d+.*: cannot be written: the file is larger than the system allows/);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(readdirSync(output).filter((name) => name.startsWith('.checkpoint'))).toEqual([]);
    expect((await run(train(output, '--resume'))).code).toBe(0);
    expectSame(output);
  }, 60_000);
});
