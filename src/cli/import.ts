/** `grpolab import`: records from foreign formats. */
import type { ImportOptions, ImportResult } from '../data/import';
import { importCsv, importTwcs } from '../data/import';
import type { TwcsCounts } from '../data/import-twcs';
import { strictJson } from '../runtime/files';
import { formatBytes, Progress } from '../runtime/progress';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';

/** `counts` are those of a TWCS file. */
type Imported = ImportResult & { counts?: TwcsCounts };

/** One bar for bytes read, one for records written. */
class ImportProgress {
  private bar: Progress | undefined;
  private phase = '';

  constructor(
    private readonly io: Io,
    private readonly quiet: boolean,
  ) {}

  readonly update: NonNullable<ImportOptions['onProgress']> = (phase, done, total) => {
    checkInterrupt(this.io);
    if (this.phase !== phase) {
      this.close();
      const unit = phase === 'read' ? { format: formatBytes } : { unit: 'records' };
      this.bar = new Progress({ label: phase, total, ...unit, stream: this.io.stderr, quiet: this.quiet });
      this.phase = phase;
    }
    this.bar?.update(done);
  };

  close(): void {
    this.bar?.close();
  }
}

function summary({ records, output, counts }: Imported): string[] {
  const lines = [`${records} records in ${output}`];
  if (counts === undefined) return lines;
  const left = [
    `${counts.answered_not_in_file} to a tweet that is not in the file`,
    `${counts.answers_with_blank_text} with a blank text`,
    `${counts.answers_in_a_circle} in a circle of answers`,
    `${counts.later_turns} later in a thread`,
  ];
  return [
    `${counts.rows} rows: ${counts.duplicate_ids} with an id that an earlier row has (left out), ${counts.blank_texts} with a blank text`,
    `${counts.answers} answers; left out: ${left.join(', ')}`,
    ...lines,
  ];
}

export async function importRecords(args: Arguments, io: Io): Promise<number> {
  const from = args.choice('from', ['csv', 'twcs'] as const);
  const [input, output, firstTurn] = [
    args.required('input'),
    args.required('output'),
    args.flag('first-turn'),
  ];
  if (firstTurn && from === 'csv')
    throw new UsageError('--first-turn is for --from twcs: a CSV of records has no threads', 'import');
  const progress = new ImportProgress(io, args.flag('quiet'));
  const options: ImportOptions = {
    skipInvalid: args.flag('skip-invalid'),
    stdin: io.stdin,
    signal: io.signal,
    onProgress: progress.update,
  };
  let result: Imported;
  try {
    result =
      from === 'csv'
        ? await importCsv(input, output, options)
        : await importTwcs(input, output, { ...options, firstTurn });
  } finally {
    progress.close();
  }
  const { rejected, notices, counts } = result;
  if (rejected.count > 0) notify(io, `${rejected.count} bad rows set aside in ${rejected.path}`);
  for (const notice of notices) notify(io, `notice: ${notice}`);
  const printed = new LineWriter(io.stdout);
  if (args.flag('json')) {
    const counted = counts ?? { records: result.records };
    await printed.line(strictJson({ from, input, output, ...counted, rejected, notices }));
  } else for (const line of summary(result)) await printed.line(line);
  await printed.flush();
  return 0;
}
