/** `grpolab reward`: scores of replies, line by line. */
import { z } from 'zod';
import { readJsonl } from '../data/jsonl';
import { parserOf } from '../data/records';
import { DataError } from '../runtime/errors';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { loadReward } from '../rewards/config';
import { DEFAULT_BATCH_SIZE } from '../rewards/reward';
import type { ReplyPair } from '../rewards/reward';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { noticeRejected } from './lines';
import { withDownloadBar } from './open-model';

const text = z.string({ error: 'a text' }).nullish();
const fields = parserOf(z.object({ tweet: text, reply: text, prompt: text, completion: text }));

/** The pair of a line with tweet and reply, or prompt and completion. @throws DataError */
export function parsePair(value: unknown): ReplyPair {
  const line = fields(value);
  const tweet = line.tweet ?? line.prompt;
  const reply = line.reply ?? line.completion;
  if (typeof tweet === 'string' && typeof reply === 'string') return { tweet, reply };
  const missing = typeof tweet === 'string' ? 'reply (or completion)' : 'tweet (or prompt)';
  throw new DataError(`${missing} is missing; expected tweet and reply, or prompt and completion`);
}

/** Mean of everything that was scored, for the summary. */
class Means {
  private readonly sums = new Map<string, number>();
  count = 0;

  add(total: number, components: Readonly<Record<string, number>>): void {
    this.count++;
    for (const [name, value] of Object.entries({ total, ...components }))
      this.sums.set(name, (this.sums.get(name) ?? 0) + value);
  }

  toString(): string {
    const parts = [...this.sums].map(([name, sum]) => `${name} ${(sum / this.count).toFixed(3)}`);
    return `${this.count} replies${parts.length === 0 ? '' : `; means: ${parts.join(', ')}`}`;
  }
}

export async function reward(args: Arguments, io: Io): Promise<number> {
  const context = { signal: io.signal, onNotice: (line: string) => notify(io, line) };
  const model = await withDownloadBar(args, io, (onDownload) =>
    loadReward(args.required('reward'), { ...context, onDownload }),
  );
  const reader = readJsonl(args.required('input'), parsePair, {
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
    signal: io.signal,
  });
  const batchSize = model.batchSize ?? DEFAULT_BATCH_SIZE;
  const output = new LineWriter(io.stdout);
  const means = new Means();
  const progress = new Progress({
    ...{ label: 'reward', unit: 'replies', stream: io.stderr, quiet: args.flag('quiet') },
  });
  let chunk: ReplyPair[] = [];
  const scoreChunk = async (): Promise<void> => {
    checkInterrupt(io);
    for (const { total, components } of await model.scoreBatch(chunk)) {
      means.add(total, components);
      await output.line(strictJson({ total, components, degraded: model.degraded }));
    }
    progress.advance(chunk.length);
    chunk = [];
  };
  try {
    for await (const { value } of reader) {
      chunk.push(value);
      if (chunk.length === batchSize) await scoreChunk();
    }
    await scoreChunk();
  } catch (error) {
    checkInterrupt(io);
    throw error;
  } finally {
    await output.flush();
    progress.close();
    model.dispose?.();
  }
  noticeRejected(reader, io);
  if (!args.flag('json')) {
    for (const degraded of model.degraded) notify(io, `degraded: ${degraded}`);
    notify(io, `${model.name}: ${means}`);
  }
  return 0;
}
