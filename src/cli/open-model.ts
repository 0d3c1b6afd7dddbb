/** Finding the model that `--model` names. */
import { formatBytes, Progress } from '../runtime/progress';
import { resolveModel } from '../model/hub';
import type { Arguments } from './arguments';
import type { Io } from './io';

/**
 * The directory of `--model`; a hub id is downloaded first, with a progress bar.
 * @throws CheckpointError  when there is no such model
 */
export async function openModelDirectory(args: Arguments, io: Io): Promise<string> {
  const name = args.required('model');
  const progress = new Progress({
    label: `download ${name}`,
    stream: io.stderr,
    quiet: args.flag('quiet'),
    format: formatBytes,
  });
  try {
    return await resolveModel(name, ({ file, loadedBytes, totalBytes }) => {
      progress.total = totalBytes;
      progress.update(loadedBytes, file);
    });
  } finally {
    progress.close();
  }
}
