/** `grpolab clean`: records with normalised texts, without repeated replies, the best first. */
import type { CleanedRecords } from '../data/clean';
import { cleanRecords } from '../data/clean';
import { rejectedPathOf } from '../data/jsonl';
import { JsonlWriter } from '../data/jsonl-writer';
import type { NearDuplicateOptions } from '../data/near-duplicates';
import { checkOutput } from '../data/output-file';
import type { TweetRecord } from '../data/records';
import { parseRecord } from '../data/records';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { embeddingNamed } from '../rewards/config';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter } from './io';
import { readInput } from './lines';
import { withDownloadBar } from './open-model';

/** What near-duplicates were judged by. */
interface Likeness {
  embedding: string;
  threshold: number;
}

/** @returns the embedding and its threshold, or undefined where near-duplicates are kept */
async function openLikeness(args: Arguments, io: Io): Promise<(Likeness & NearDuplicateOptions) | undefined> {
  if (args.flag('keep-near-duplicates')) {
    const other = ['threshold', 'embedding'].find((name) => args.given(name));
    if (other === undefined) return undefined;
    throw new UsageError(`--${other} has no use with --keep-near-duplicates; give one of them`, 'clean');
  }
  const given = args.given('threshold') ? args.number('threshold', { above: 0, below: 1 }) : undefined;
  const embedder = await withDownloadBar(args, io, (onDownload) =>
    embeddingNamed(args.required('embedding'), onDownload),
  );
  const threshold = given ?? embedder.duplicateCosine;
  return { embedding: embedder.name, threshold, embed: (text) => embedder.embed(text) };
}

function withProgress(near: NearDuplicateOptions, progress: Progress, io: Io): NearDuplicateOptions {
  const onProgress = (done: number, total: number): void => {
    checkInterrupt(io);
    progress.total = total;
    progress.update(done);
  };
  return { embed: near.embed, threshold: near.threshold, onProgress };
}

function summary({ counts }: CleanedRecords, likeness: Likeness | undefined, output: string): string[] {
  const { hashtags, repeats, white_space } = counts.changed_texts;
  const judge =
    likeness === undefined ? 'not looked for' : `${likeness.embedding} cosine > ${likeness.threshold}`;
  return [
    `read ${counts.read} records`,
    `texts changed (tweets and replies): hashtags ${hashtags}, repeats ${repeats} (digits and web addresses are exempt), white space ${white_space}`,
    `dropped: ${counts.exact_duplicates} equal replies, ${counts.near_duplicates} near-duplicates (${judge})`,
    `kept ${counts.kept} records, best first: ${output}`,
  ];
}

/** Input and output may be one file: all is read before, and the file is replaced in the end, at once. */
export async function clean(args: Arguments, io: Io): Promise<number> {
  const output = args.required('output');
  await checkOutput({ output, rejectedPath: rejectedPathOf(args.required('input')) });
  const near = await openLikeness(args, io);
  const lines = await readInput<TweetRecord>(args, io, parseRecord);
  const writer = await JsonlWriter.open(output);
  const progress = new Progress({
    ...{ label: 'near-duplicates', unit: 'replies', stream: io.stderr, quiet: args.flag('quiet') },
  });
  let cleaned: CleanedRecords;
  try {
    cleaned = await cleanRecords(
      lines.map(({ value }) => value),
      near && withProgress(near, progress, io),
      io.signal,
    );
    for (const record of cleaned.records) await writer.write(record);
    checkInterrupt(io);
    await writer.commit();
  } catch (error) {
    await writer.abort();
    checkInterrupt(io);
    throw error;
  } finally {
    progress.close();
  }
  const report = { output, embedding: near?.embedding ?? null, threshold: near?.threshold ?? null };
  const stdout = new LineWriter(io.stdout);
  if (args.flag('json')) await stdout.line(strictJson({ ...report, ...cleaned.counts }));
  else for (const line of summary(cleaned, near, output)) await stdout.line(line);
  await stdout.flush();
  return 0;
}
