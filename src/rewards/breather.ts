const LONGEST_BREATH_MS = 20;

/**
 * A pause for long work on the main thread: awaited again and again, it lets timers, requests and Ctrl-C in whenever 20
 * ms have passed.
 *
 * @returns throws the reason of the signal once that is aborted
 */
export function breather(signal?: AbortSignal): () => Promise<void> {
  let last = performance.now();
  return async () => {
    signal?.throwIfAborted();
    if (performance.now() - last < LONGEST_BREATH_MS) return;
    await new Promise<void>((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
    last = performance.now();
  };
}
