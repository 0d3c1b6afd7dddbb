/** Finding the model that `--model` names. */
import { formatBytes, Progress } from '../runtime/progress';
import { resolveModel } from '../model/hub';
import type { DownloadProgress } from '../model/hub';
import type { Arguments } from './arguments';
import type { Io } from './io';

/** Does work that may download from the hub, with a progress bar once it does. */
export async function withDownloadBar<T>(
  args: Arguments,
  io: Io,
  work: (onDownload: (progress: DownloadProgress) => void) => Promise<T>,
): Promise<T> {
  let progress: Progress | undefined;
  try {
    return await work(({ file, loadedBytes, totalBytes }) => {
      progress ??= new Progress({
        ...{ label: 'download', stream: io.stderr, quiet: args.flag('quiet'), format: formatBytes },
      });
      progress.total = totalBytes;
      progress.update(loadedBytes, file);
      if (loadedBytes < totalBytes) return;
      progress.close();
      progress = undefined;
    });
  } finally {
    progress?.close();
  }
}

/** Shows a bar of each model that takes more than a second to load. */
export function loadBar(args: Arguments, io: Io): (loadedBytes: number, totalBytes: number) => void {
  let start: number | undefined;
  let progress: Progress | undefined;
  return (loadedBytes, totalBytes) => {
    start ??= performance.now();
    if (progress === undefined && performance.now() - start > 1000)
      progress = new Progress({
        ...{ label: 'load', total: totalBytes, initial: loadedBytes },
        ...{ stream: io.stderr, quiet: args.flag('quiet'), format: formatBytes },
      });
    progress?.update(loadedBytes);
    if (loadedBytes < totalBytes) return;
    progress?.close();
    [start, progress] = [undefined, undefined];
  };
}

/**
 * The directory of `--model`; a hub id is downloaded first, with a progress bar.
 * @throws CheckpointError  when there is no such model
 */
export function openModelDirectory(args: Arguments, io: Io): Promise<string> {
  return withDownloadBar(args, io, (onDownload) => resolveModel(args.required('model'), onDownload));
}
