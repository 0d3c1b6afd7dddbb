import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenPath, readGolden } from '../../test/golden';
import { fullLogits, largestDifference, nextLogProbs } from '../../test/golden-model';
import { openSafetensors } from '../model/safetensors';
import { LocalPolicy } from './local';

interface Padded {
  input_ids: number[][];
  attention_mask: number[][];
  position_ids: number[][];
  rows: { length: number; logprobs: number[] }[];
}

interface Forward {
  pad_token_id: number;
  models: Record<
    string,
    {
      single: { input_ids: number[]; logprobs: number[]; logprobs_f64: number[] };
      right_padded: Padded;
      left_padded: Padded;
      long: { input_ids: number[]; logprobs: number[]; logprobs_f64: number[] };
      greedy: {
        prompts: number[][];
        max_new_tokens: number;
        eos_token_id: number | null;
        new_ids: number[][];
        logprobs: number[][];
      }[];
    }
  >;
}

const golden = readGolden<Forward>('forward.json');
const tolerance = 2e-5;

const computed = Object.keys(golden.models).filter((name) => 'single' in golden.models[name]);

describe.each(computed)('%s against transformers', (name) => {
  const expected = golden.models[name];
  let policy: LocalPolicy;
  beforeAll(() => {
    policy = LocalPolicy.load({ modelDirectory: goldenPath('tiny-qwen3', name) });
  });
  afterAll(() => policy.dispose());

  const whole = (ids: number[]): Float32Array =>
    fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]);

  it('gives the same logits', () => {
    const file = openSafetensors(goldenPath('forward-logits.safetensors'));
    const logits = file.read(`${name}.single.logits`);
    file.close();
    expect(largestDifference(whole(expected.single.input_ids), logits)).toBeLessThan(tolerance);
  });

  it.each(['single', 'long'] as const)(
    'gives the same log-probabilities, whatever the prompt length (%s)',
    async (key) => {
      const { input_ids: ids, logprobs_f64: reference } = expected[key];
      for (const promptLength of [1, Math.floor(ids.length / 3), ids.length - 1]) {
        const [logProbs] = await policy.logProbs([
          { promptIds: ids.slice(0, promptLength), completionIds: ids.slice(promptLength) },
        ]);
        expect(largestDifference(logProbs, reference.slice(promptLength - 1))).toBeLessThan(tolerance);
      }
    },
  );

  it.each(['right_padded', 'left_padded'] as const)('does not see padding (%s)', (key) => {
    const { input_ids: ids, attention_mask: mask, position_ids: positions, rows } = expected[key];
    const logits = fullLogits(policy, ids, mask, positions);
    rows.forEach(({ length, logprobs }, row) => {
      const start = mask[row].indexOf(1);
      const own = ids[row].slice(start, start + length);
      const got = nextLogProbs(logits, policy.config.vocabSize, own, row * ids[row].length + start);
      expect(largestDifference(got, logprobs)).toBeLessThan(tolerance);
    });
  });

  it('continues greedily with the same tokens and log-probabilities, alone and in a batch', async () => {
    for (const greedy of expected.greedy) {
      const groups = await policy.sample(
        greedy.prompts.map((tokenIds, i) => ({ id: String(i), tokenIds })),
        {
          groupSize: 1,
          temperature: 0,
          maxNewTokens: greedy.max_new_tokens,
          stopTokenIds: greedy.eos_token_id === null ? [] : [greedy.eos_token_id],
          seed: 0,
        },
      );
      groups.forEach(({ completions: [completion] }, i) => {
        const end = greedy.eos_token_id === null ? -1 : greedy.new_ids[i].indexOf(greedy.eos_token_id);
        const length = end < 0 ? greedy.new_ids[i].length : end + 1;
        expect(completion.tokenIds).toEqual(greedy.new_ids[i].slice(0, length));
        expect(completion.finishReason).toBe(end < 0 ? 'length' : 'stop');
        const logProbs = greedy.logprobs[i].slice(0, length);
        expect(largestDifference(completion.logProbs, logProbs)).toBeLessThan(tolerance);
      });
    }
  });
});

describe('a checkpoint in shards', () => {
  const sharded = readdirSync(goldenPath('tiny-qwen3')).filter((name) => name.endsWith('-sharded'));

  it.each(sharded)('%s computes what the single file computes', (name) => {
    const ids = golden.models[name.replace('-sharded', '')].single.input_ids;
    const [a, b] = [name, name.replace('-sharded', '')].map((model) => {
      const policy = LocalPolicy.load({ modelDirectory: goldenPath('tiny-qwen3', model) });
      const logits = fullLogits(policy, [ids], [ids.map(() => 1)], [ids.map((_, i) => i)]);
      policy.dispose();
      return logits;
    });
    expect(largestDifference(a, b)).toBe(0);
  });
});
