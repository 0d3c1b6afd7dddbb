import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseLines, temporaryDirectory, temporaryFile } from '../../test/cli';
import { goldenPath } from '../../test/golden';
import { loadTokenizer } from '../model/tokenizer';
import type { Tokenizer } from '../model/tokenizer';
import type { Completion, Policy, Prompt, SampleOptions } from '../policy/policy';
import { DataError } from '../runtime/errors';
import type { TweetReplies } from './model-replies';
import { fewShotTurns, policyAnswerer } from './answerers';
import type { AnswerOptions } from './answerers';
import { writeReplies } from './write-replies';
import type { TweetToAnswer, WriteRepliesOptions } from './write-replies';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(goldenPath('tiny-qwen3', 'tied-f32'));
});

interface Call {
  prompts: readonly Prompt[];
  options: SampleOptions;
}

/** Says what it was asked: `t0, draw 1 of seed 3`, or `t0, greedy`. @param afterCall  told of each call once it is answered */
function talking(afterCall: (calls: readonly Call[]) => void = () => {}): { policy: Policy; calls: Call[] } {
  const calls: Call[] = [];
  const never = (): never => {
    throw new Error('writing replies does not train');
  };
  const complete = (text: string): Completion => {
    const tokenIds = [...tokenizer.encode(`  ${text}\n`), tokenizer.eosTokenId];
    const logProbs = new Float32Array(tokenIds.length).fill(-0.25);
    return { tokenIds, logProbs, finishReason: 'stop' };
  };
  const sample: Policy['sample'] = (prompts, options) => {
    calls.push({ prompts, options });
    options.signal?.throwIfAborted();
    const groups = prompts.map((prompt) => ({
      prompt,
      completions: Array.from({ length: options.groupSize }, (_, g) =>
        complete(
          `${prompt.id}, ${options.temperature === 0 ? 'greedy' : `draw ${g} of seed ${options.seed}`}`,
        ),
      ),
    }));
    afterCall(calls);
    return Promise.resolve(groups);
  };
  return {
    calls,
    policy: {
      sample,
      ...{ logProbs: never, forwardBackward: never, optimStep: never, save: never, load: never },
    },
  };
}

const tweets = Array.from({ length: 5 }, (_, t) => ({
  tweet_id: `t${t}`,
  tweet: `Is tea number ${t} any good?`,
}));
/** So many replies that two tweets are one chunk. */
const GENERATIONS = 160;
type Options = WriteRepliesOptions & AnswerOptions;
const options: Options = {
  ...{ generations: GENERATIONS, temperature: 0.7, topP: 0.9, maxNewTokens: 50, seed: 3 },
};
const few = { ...options, generations: 2 };

/** What a policy answers, written. */
const write = (policy: Policy, asked: readonly TweetToAnswer[], file: string, own: Options) =>
  writeReplies(policyAnswerer(policy, tokenizer, own), asked, file, own);

const place = (): string => path.join(temporaryDirectory(), 'replies', 'm.jsonl');

/** The bytes of an uninterrupted run. */
async function whole(own: Options = options): Promise<Buffer> {
  const file = place();
  await write(talking().policy, tweets, file, own);
  return readFileSync(file);
}

describe('writing replies', () => {
  it('writes a line a tweet in their order: n trimmed samples and a greedy reply', async () => {
    const file = place();
    const returned = await write(talking().policy, tweets, file, few);
    const drawn = (text: string) => {
      const tokens = tokenizer.encode(`  ${text}\n`).length + 1;
      return { log_prob: -0.25 * tokens, tokens };
    };
    const expected = tweets.map(({ tweet_id, tweet }) => {
      const generations = [`${tweet_id}, draw 0 of seed 3`, `${tweet_id}, draw 1 of seed 3`];
      const greedy = `${tweet_id}, greedy`;
      return { ...{ tweet_id, tweet }, generations, greedy, drawn: generations.map(drawn) };
    });
    expect(returned).toEqual(expected);
    expect(parseLines<TweetReplies>(readFileSync(file, 'utf8'))).toEqual(expected);
  });

  it('samples as it is told to, and once without temperature, in the stream of evaluations', async () => {
    const { policy, calls } = talking();
    await write(policy, tweets, place(), few);
    const common = { maxNewTokens: 50, seed: 3, stream: 'evaluation' };
    expect(calls.map((call) => call.options)).toEqual([
      expect.objectContaining({ ...common, groupSize: 2, temperature: 0.7, topP: 0.9 }),
      expect.objectContaining({ ...common, groupSize: 1, temperature: 0, topP: 1 }),
    ]);
    for (const { prompts } of calls)
      expect(prompts.map(({ id }) => id)).toEqual(['t0', 't1', 't2', 't3', 't4']);
  });

  it("asks the study's question, after the examples as earlier turns where there are some", async () => {
    const question = (tweet: string) =>
      `Generate an engaging Twitter reply to this tweet:\n\n${tweet}\n\nReply:`;
    const ids = (messages: { role: string; content: string }[]) =>
      tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, enableThinking: false });
    const asked = { role: 'user', content: question(tweets[0].tweet) };
    const shots = [
      { tweet: 'Rain?', reply: 'Boats.' },
      { tweet: 'Sun?', reply: 'Hats.' },
    ];
    const turns = [
      { role: 'user', content: question('Rain?') },
      { role: 'assistant', content: 'Boats.' },
      { role: 'user', content: question('Sun?') },
      { role: 'assistant', content: 'Hats.' },
      asked,
    ];
    expect(fewShotTurns(shots, tweets[0].tweet)).toEqual(turns);
    const [bare, shown] = [talking(), talking()];
    await write(bare.policy, tweets, place(), few);
    await write(shown.policy, tweets, place(), { ...few, shots });
    for (const { prompts } of bare.calls) expect(prompts[0].tokenIds).toEqual(ids([asked]));
    for (const { prompts } of shown.calls) expect(prompts[0].tokenIds).toEqual(ids(turns));
  });

  it('tells of every chunk that is on disk', async () => {
    const file = place();
    const seen: number[][] = [];
    const onProgress = (done: number, total: number, written: number): void => {
      const lines = existsSync(file) ? parseLines(readFileSync(file, 'utf8')).length : 0;
      seen.push([done, total, written, lines]);
    };
    await write(talking().policy, tweets, file, { ...options, onProgress });
    expect(seen).toEqual([
      [0, 5, 0, 0],
      [2, 5, 2, 2],
      [4, 5, 4, 4],
      [5, 5, 5, 5],
    ]);
    seen.length = 0;
    await write(talking().policy, tweets, file, { ...options, resume: true, onProgress });
    expect(seen).toEqual([[5, 5, 0, 5]]);
  });

  it('takes one tweet at a time where it has more replies than a chunk', async () => {
    const { policy, calls } = talking();
    await write(policy, tweets.slice(0, 2), place(), { ...options, generations: 700 });
    expect(calls.map(({ prompts }) => prompts.length)).toEqual([1, 1, 1, 1]);
  });

  it('says in one line that a place cannot be written to', async () => {
    const file = temporaryFile('file', 'mine');
    const writing = write(talking().policy, tweets, path.join(file, 'm.jsonl'), few);
    await expect(writing).rejects.toThrow(DataError);
    await expect(writing).rejects.toThrow(/cannot be made a directory/);
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });
});

describe('going on with replies', () => {
  it('gives the bytes of an uninterrupted run after one that was stopped behind its first chunk', async () => {
    const file = place();
    const stop = new AbortController();
    const reason = new Error('stopped');
    // A chunk is two calls: the samples and the greedy replies.
    const stopped = talking((calls) => calls.length === 3 && stop.abort(reason));
    const running = write(stopped.policy, tweets, file, {
      ...options,
      signal: stop.signal,
    });
    await expect(running).rejects.toBe(reason);
    expect(parseLines<TweetReplies>(readFileSync(file, 'utf8')).map(({ tweet_id: id }) => id)).toEqual([
      't0',
      't1',
    ]);
    const { policy, calls } = talking();
    const returned = await write(policy, tweets, file, { ...options, resume: true });
    expect(readFileSync(file).equals(await whole())).toBe(true);
    expect(returned.map(({ tweet_id: id }) => id)).toEqual(['t0', 't1', 't2', 't3', 't4']);
    expect(calls.flatMap(({ prompts }) => prompts.map(({ id }) => id))).toEqual([
      't2',
      't3',
      't2',
      't3',
      't4',
      't4',
    ]);
  });

  it('gives the bytes of an uninterrupted run wherever the file was cut', async () => {
    const bytes = await whole(few);
    const lines = bytes.toString().split('\n');
    const ends = lines.slice(0, -1).map((_, i) => Buffer.byteLength(`${lines.slice(0, i + 1).join('\n')}\n`));
    const cuts = fc.oneof(
      fc.integer({ min: 0, max: bytes.length }),
      fc.constantFrom(...ends, ...ends.map((end) => end - 1)),
    );
    await fc.assert(
      fc.asyncProperty(cuts, async (cut) => {
        const file = temporaryFile('m.jsonl', '');
        writeFileSync(file, bytes.subarray(0, cut));
        await write(talking().policy, tweets, file, { ...few, resume: true });
        expect(readFileSync(file).equals(bytes)).toBe(true);
      }),
      { seed: 5, numRuns: 30 },
    );
  });

  it('asks nothing of the model when all is there', async () => {
    const file = temporaryFile('m.jsonl', '');
    writeFileSync(file, await whole(few));
    const { policy, calls } = talking();
    await write(policy, tweets, file, { ...few, resume: true });
    expect(calls).toEqual([]);
    expect(readFileSync(file).equals(await whole(few))).toBe(true);
  });

  it('writes nothing when it was stopped before it began', async () => {
    const file = place();
    const signal = AbortSignal.abort(new Error('stopped'));
    const { policy, calls } = talking();
    const running = write(policy, tweets, file, { ...few, signal });
    await expect(running).rejects.toThrow('stopped');
    expect(calls).toEqual([]);
    expect(existsSync(file)).toBe(false);
  });

  /** Refused in one line, and what is on disk stays as it is to the last byte. */
  async function refused(
    content: string | Buffer,
    own: Partial<Options>,
    message: string,
    asked = tweets,
  ): Promise<void> {
    const file = temporaryFile('m.jsonl', '');
    writeFileSync(file, content);
    const { policy, calls } = talking();
    const running = write(policy, asked, file, { ...few, ...own });
    await expect(running).rejects.toThrow(DataError);
    await expect(running).rejects.toThrow(`${file}${message}`);
    await expect(running).rejects.not.toThrow(/\n/);
    expect(readFileSync(file).equals(Buffer.from(content))).toBe(true);
    expect(calls).toEqual([]);
  }

  it('is refused without being asked for, also of a file whose last line is not ended', async () => {
    const bytes = await whole(few);
    await refused(bytes, {}, ': holds replies already. Go on with --resume');
    await refused(bytes.subarray(0, -1), {}, ': holds replies already');
    const [first] = bytes.toString().split('\n');
    await refused(first, {}, ': holds replies already');
    await refused('notes of mine', {}, ': holds replies already');
    await refused('notes of mine', { resume: true }, ': its last line is not one of replies');
  });

  it('is refused where the file has other tweets, another text of one, or another number of replies', async () => {
    const bytes = await whole(few);
    const resume = true;
    await refused(
      bytes,
      { resume },
      ': tweet t2 with 2 replies is not of this evaluation',
      tweets.slice(0, 2),
    );
    const reworded = tweets.map((tweet, t) => (t === 3 ? { ...tweet, tweet: 'another' } : tweet));
    await refused(bytes, { resume }, ': tweet t3 with 2 replies is not of this evaluation', reworded);
    await refused(
      bytes,
      { resume, generations: 3 },
      ': tweet t0 with 2 replies is not of this evaluation (3 replies to each of 5 tweets)',
    );
    const open = bytes.subarray(0, -1);
    await refused(open, { resume, generations: 3 }, ': tweet t0 with 2 replies is not of this evaluation');
  });

  it.each([
    ['is no JSON', 'tea'],
    ['is no object', '3'],
    ['is null', 'null'],
    ['has no replies', '{}'],
    [
      'has replies that are no list',
      '{"tweet_id": "t1", "tweet": "Is tea number 1 any good?", "generations": 2}',
    ],
    [
      'has replies that are no texts',
      '{"tweet_id": "t1", "tweet": "Is tea number 1 any good?", "generations": [1, 2]}',
    ],
  ])('is refused where a line %s, naming file and line', async (_, line) => {
    const [first] = (await whole(few)).toString().split('\n');
    await refused(`${first}\n${line}\n`, { resume: true }, ':2: ');
  });

  it('is refused where a directory stands in the place of the file', async () => {
    const file = path.join(temporaryDirectory(), 'm.jsonl');
    mkdirSync(file);
    const running = write(talking().policy, tweets, file, { ...few, resume: true });
    await expect(running).rejects.toThrow(DataError);
    await expect(running).rejects.toThrow(`${file}: is a directory`);
  });
});
