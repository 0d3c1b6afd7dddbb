/** `grpolab train`: one experiment from a YAML file. */
import path from 'node:path';
import { strictJson } from '../runtime/files';
import { Progress } from '../runtime/progress';
import { loadExperiment } from '../train/config';
import type { Experiment } from '../train/config';
import { runExperiment } from '../train/run';
import type { RunHooks } from '../train/run';
import type { Arguments } from './arguments';
import type { Io } from './io';
import { checkInterrupt, LineWriter, notify } from './io';
import { withDownloadBar } from './open-model';

/** The options that stand for a key of the file; they win over it and over --set. */
function withOptions(experiment: Experiment, args: Arguments): Experiment {
  const data = args.text('data');
  return {
    ...experiment,
    model: args.text('model') ?? experiment.model,
    checkpoint_path: args.text('adapter') ?? experiment.checkpoint_path,
    output_dir: args.text('output') ?? experiment.output_dir,
    data: data === undefined ? experiment.data : { ...experiment.data, train: data },
  };
}

export async function train(args: Arguments, io: Io): Promise<number> {
  const experiment = withOptions(loadExperiment(args.required('config'), args.list('set')), args);
  const progress = new Progress({
    label: experiment.method,
    unit: 'steps',
    stream: io.stderr,
    quiet: args.flag('quiet'),
  });
  let note = '';
  try {
    const hooks: RunHooks = {
      signal: io.signal,
      notify: (line) => notify(io, line),
      onStep: (record, totalSteps) => {
        progress.total = totalSteps;
        if ('train/loss' in record) note = `loss ${record['train/loss'].toFixed(3)}`;
        if ('train/avg_reward' in record)
          note = `reward ${record['train/avg_reward'].toFixed(3)} KL ${record['train/kl_penalty'].toFixed(2)}`;
        progress.update(record.step, note);
      },
    };
    const result = await withDownloadBar(args, io, (onDownload) =>
      runExperiment(experiment, { ...hooks, onDownload }),
    );
    result.policy.dispose();
    progress.finish(note);
    const last = result.history[result.history.length - 1];
    const output = new LineWriter(io.stdout);
    if (args.flag('json'))
      await output.line(strictJson({ directory: result.directory, steps: result.steps, last }));
    else await output.line(`${result.steps} steps; adapter and logs in ${path.resolve(result.directory)}`);
    await output.flush();
    checkInterrupt(io);
    return 0;
  } finally {
    progress.close();
  }
}
