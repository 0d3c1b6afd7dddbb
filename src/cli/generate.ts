/** `grpolab generate`: replies sampled for every input line. */
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { readModelConfig } from '../model/config';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, SampleOptions } from '../policy/policy';
import type { Arguments } from './arguments';
import type { GenerateLine } from './generate-lines';
import { parseGenerateLine } from './generate-lines';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { readInput } from './lines';
import { baseWeights, loadPolicy } from './load-policy';
import { openModelDirectory } from './open-model';

/** Replies sampled between two outputs. */
const ROWS_PER_CHUNK = 256;

export interface Generation {
  text: string;
  token_ids: number[];
  log_probs: number[];
  finish_reason: 'stop' | 'length';
}

/** A completion as it is printed: its text ends before the end token and holds no special tokens. */
function describeCompletion(completion: Completion, tokenizer: Tokenizer): Generation {
  const { tokenIds, logProbs, finishReason } = completion;
  const spoken = finishReason === 'stop' ? tokenIds.slice(0, -1) : tokenIds;
  return {
    text: tokenizer.decode(spoken, { skipSpecialTokens: true }),
    token_ids: tokenIds,
    log_probs: Array.from(logProbs),
    finish_reason: finishReason,
  };
}

/** How to draw, and how many replies to show for each one that is drawn: greedy ones are all equal. */
export function samplingOf(args: Arguments): { options: SampleOptions; copies: number } {
  const temperature = args.flag('greedy') ? 0 : args.number('temperature', { min: 0 });
  const greedy = temperature === 0;
  const n = greedy && !args.given('n') ? 1 : args.integer('n', { min: 1 });
  return {
    copies: greedy ? n : 1,
    options: {
      groupSize: greedy ? 1 : n,
      temperature,
      topP: args.number('top-p', { above: 0, max: 1 }),
      topK: args.integer('top-k', { min: 0 }),
      maxNewTokens: args.integer('max-new-tokens', { min: 1 }),
      seed: args.integer('seed', { min: 0 }),
      stream: 'generate',
    },
  };
}

function readable(number: number, line: GenerateLine, generations: readonly Generation[]): string {
  const replies = generations.map(
    ({ text, finish_reason }, i) =>
      `  ${i + 1}. ${text.replaceAll('\n', '\n     ')}${finish_reason === 'length' ? ' [cut]' : ''}`,
  );
  return [`[${number}] ${line.shown}`, ...replies, ''].join('\n');
}

export async function generate(args: Arguments, io: Io): Promise<number> {
  const { options, copies } = samplingOf(args);
  const weights = baseWeights(args);
  const modelDirectory = await openModelDirectory(args, io);
  const config = readModelConfig(modelDirectory);
  const tokenizer = await loadTokenizer(modelDirectory);
  const lines = await readInput(args, io, (value) =>
    parseGenerateLine(value, tokenizer, config, {
      raw: args.flag('raw'),
      maxNewTokens: options.maxNewTokens,
    }),
  );
  const policy = loadPolicy(args, io, modelDirectory, weights);
  const output = new LineWriter(io.stdout);
  const progress = new Progress({
    ...{ label: 'generate', unit: 'prompts', total: lines.length },
    ...{ stream: io.stderr, quiet: args.flag('quiet') },
  });
  const size = Math.max(1, Math.floor(ROWS_PER_CHUNK / options.groupSize));
  try {
    for (let start = 0; start < lines.length; start += size) {
      checkInterrupt(io);
      const chunk = lines.slice(start, start + size).map(({ value }) => value);
      const groups = await policy.sample(
        chunk.map(({ prompt }) => prompt),
        {
          ...options,
          // A model without end tokens of its own ends where its tokenizer's turn ends.
          stopTokenIds: config.eosTokenIds.length > 0 ? config.eosTokenIds : tokenizer.eosTokenIds,
          signal: io.signal,
          onProgress: (share) => progress.update(start + share * chunk.length),
        },
      );
      for (const [i, { completions }] of groups.entries()) {
        const drawn = completions.map((completion) => describeCompletion(completion, tokenizer));
        const generations = Array.from({ length: copies }, () => drawn).flat();
        const line = chunk[i];
        await output.line(
          args.flag('json')
            ? strictJson({ ...line.fields, generations })
            : readable(start + i + 1, line, generations),
        );
      }
      await output.flush();
    }
  } finally {
    progress.close();
    policy.dispose();
  }
  return 0;
}
