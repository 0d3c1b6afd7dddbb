/** `grpolab logprobs`: how likely a model finds given tokens. */
import { z } from 'zod';
import { parserOf } from '../data/records';
import { DataError } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { readModelConfig } from '../model/config';
import type { ModelConfig } from '../model/config';
import type { Sequence } from '../policy/policy';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { checkTokenIds, readInput } from './lines';
import { baseWeights, loadPolicy } from './load-policy';
import { openModelDirectory } from './open-model';

/** Sequences computed between two reports. The policy forms its own passes within them. */
const CHUNK = 64;

const fields = parserOf(
  z.object({
    token_ids: z.array(z.unknown(), { error: 'a list of token ids' }),
    prompt_length: z.int({ error: 'an integer >= 1' }).min(1, { error: 'an integer >= 1' }).nullish(),
  }),
);

/** A line's tokens, parted after `prompt_length` of them. @throws DataError */
export function parseSequence(value: unknown, config: ModelConfig): Sequence {
  const line = fields(value);
  const ids = checkTokenIds(line.token_ids, config, 'token_ids');
  const promptLength = line.prompt_length ?? 1;
  if (promptLength >= ids.length) {
    throw new DataError(
      `prompt_length is ${promptLength} of ${ids.length} token_ids; expected at least one token after the prompt`,
    );
  }
  return { promptIds: ids.slice(0, promptLength), completionIds: ids.slice(promptLength) };
}

/** {log_probs, sum, perplexity}: sum and perplexity = exp(-sum / n) in double precision of the f32 values. */
export function describeLogProbs(values: Float32Array): {
  log_probs: number[];
  sum: number;
  perplexity: number;
} {
  const sum = values.reduce((total, value) => total + value, 0);
  return { log_probs: Array.from(values), sum, perplexity: Math.exp(-sum / values.length) };
}

export async function logprobs(args: Arguments, io: Io): Promise<number> {
  const weights = baseWeights(args);
  const modelDirectory = await openModelDirectory(args, io);
  const config = readModelConfig(modelDirectory);
  const lines = await readInput(args, io, (value) => parseSequence(value, config));
  const policy = loadPolicy(args, io, modelDirectory, weights);
  const output = new LineWriter(io.stdout);
  const progress = new Progress({
    ...{ label: 'logprobs', unit: 'lines', total: lines.length },
    ...{ stream: io.stderr, quiet: args.flag('quiet') },
  });
  try {
    for (let start = 0; start < lines.length; start += CHUNK) {
      checkInterrupt(io);
      const chunk = lines.slice(start, start + CHUNK);
      for (const values of await policy.logProbs(chunk.map(({ value }) => value)))
        await output.line(strictJson(describeLogProbs(values)));
      await output.flush();
      progress.advance(chunk.length);
    }
  } finally {
    progress.close();
    policy.dispose();
  }
  return 0;
}
