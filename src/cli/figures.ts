/** `grpolab figures`: the six figures of the paper, from results alone. */
import { exportFigures } from '../figures/export';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { paperFigures } from '../study/paper-figures';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { Io } from './io';
import { LineWriter, notify } from './io';

/** `1,3` */
function numbersOf(args: Arguments): number[] | undefined {
  const text = args.text('only');
  if (text === undefined) return undefined;
  const numbers = text.split(',').map((part) => (/^\s*[1-6]\s*$/.test(part) ? Number(part) : NaN));
  if (numbers.every(Number.isInteger)) return numbers;
  throw new UsageError(`--only is "${text}"; expected numbers from 1 to 6, such as 1,3`, 'figures');
}

/** @returns 0, or 1 when no images could be drawn */
export async function figures(args: Arguments, io: Io): Promise<number> {
  const drawn = paperFigures(args.required('results'), numbersOf(args));
  const progress = new Progress({
    ...{ label: 'figures', unit: 'figures', total: drawn.length, stream: io.stderr },
    quiet: args.flag('quiet'),
  });
  try {
    const result = await exportFigures(drawn, args.required('output'), {
      onFigure: (done) => progress.update(done),
    });
    progress.finish();
    const { files, rendered, reason, notices } = result;
    for (const line of [...notices, ...(reason === undefined ? [] : [reason])]) notify(io, line);
    const output = new LineWriter(io.stdout);
    if (args.flag('json')) await output.line(strictJson({ files, rendered }));
    else for (const file of files) await output.line(file);
    await output.flush();
    return rendered ? 0 : 1;
  } finally {
    progress.close();
  }
}
