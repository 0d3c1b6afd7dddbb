/** `grpolab doctor`: the report as text or as JSON. */
import { strictJson } from '../runtime/files';
import { formatBytes } from '../runtime/progress';
import { WEIGHT_DTYPES } from '../model/config';
import type { Arguments } from './arguments';
import { UsageError } from './arguments';
import type { DoctorReport, ModelReport } from './doctor-report';
import { examine } from './doctor-report';
import type { Io } from './io';
import { LineWriter } from './io';
import { openModelDirectory } from './open-model';
import { parseShape } from './shape';

const row = (name: string, text: string): string => `${name.padEnd(12)} ${text}`;

function deviceText({ tensorflow: { backend, device, threads } }: DoctorReport): string {
  if (backend === null) return 'none: TensorFlow cannot be loaded (see below)';
  return backend === 'gpu' ? `gpu: ${device}` : `cpu: ${device}, ${threads} threads`;
}

/** The totals as a table: a row for each type of the base weights, a column for layers kept and one for recomputed. */
function planLines({ plans, advice }: ModelReport): string[] {
  const cells = (dtype: string): string[] =>
    [false, true].map((recompute) => {
      const plan = plans.find((each) => each.dtype === dtype && each.recompute === recompute);
      return plan === undefined ? '' : `${formatBytes(plan.total_bytes)}${plan.fits ? '' : ', does NOT fit'}`;
    });
  const line = (dtype: string, [kept, again]: string[]): string =>
    row('', `${dtype.padEnd(12)} ${kept.padEnd(24)} ${again}`);
  return [
    line('dtype', ['layers kept', 'recomputed (training.gradient_checkpointing)']),
    ...WEIGHT_DTYPES.map((dtype) => line(dtype, cells(dtype))),
    ...(advice === null ? [] : [row('to fit', advice)]),
  ];
}

function modelLines(report: ModelReport): string[] {
  const { directory, parameters, layers, ...model } = report;
  const { P, G, Tp, Tc, rank } = model.step;
  const { total, ...parts } = model.bytes;
  const verdict = model.fits ? 'fits' : 'does NOT fit';
  return [
    '',
    row('model', directory),
    row(
      '',
      `${parameters.toLocaleString('en')} parameters in ${layers} layers, stored as ${model.stored_dtypes.join(', ')}`,
    ),
    row(
      '',
      `${model.tokenizer.tokens} tokens, ${model.tokenizer.chat_template ? 'with a' : 'WITHOUT a'} chat template`,
    ),
    row(
      'memory',
      `of a GRPO step: ${P} prompts of ${Tp} tokens x ${G} completions of ${Tc}, LoRA rank ${rank}`,
    ),
    ...Object.entries(parts).map(([name, bytes]) => row('', `${name.padEnd(12)} ${formatBytes(bytes)}`)),
    row(
      '',
      `${'total'.padEnd(12)} ${formatBytes(total)} of ${formatBytes(model.available_bytes)} available: ${verdict}`,
    ),
    ...planLines(report),
  ];
}

/** The report for people. */
export function reportLines(report: DoctorReport): string[] {
  const { versions, machine, python } = report;
  const known = Object.entries(versions).map(([name, version]) => `${name} ${version ?? 'missing'}`);
  const gpus = machine.gpus.map(
    ({ name, memoryFreeBytes, memoryTotalBytes }) =>
      `${name}, ${formatBytes(memoryFreeBytes)} of ${formatBytes(memoryTotalBytes)} free`,
  );
  const packages = Object.entries(python?.packages ?? {}).map(([name, version]) => `${name} ${version}`);
  return [
    row('versions', known.join(', ')),
    row('python', python === null ? 'no .venv' : packages.join(', ')),
    row('machine', `${machine.platform}, ${machine.cores} cores`),
    row(
      'memory',
      `${formatBytes(machine.memoryAvailableBytes)} of ${formatBytes(machine.memoryTotalBytes)} available`,
    ),
    row(
      'gpu',
      machine.nvidiaDriver === null
        ? 'no NVIDIA driver'
        : `driver ${machine.nvidiaDriver}; ${gpus.join('; ')}`,
    ),
    row('backend', deviceText(report)),
    row('mode', `${report.tensorflow.mode} (GRPOLAB_COMPILE: graph, xla or off)`),
    row('embeddings', report.embeddings),
    row('sentiment', report.sentiment),
    row('tokenizer', report.tokenizer),
    row('browser', report.browser ?? 'none (see below)'),
    ...report.fallbacks.map(({ part, used, reason }) => row('fallback', `${part} = ${used}: ${reason}`)),
    ...report.problems.map((problem) => row('PROBLEM', problem)),
    ...(report.model === undefined ? [] : modelLines(report.model)),
  ];
}

export async function doctor(args: Arguments, io: Io): Promise<number> {
  const isForModel = args.given('model');
  for (const name of ['shape', 'rank'])
    if (args.given(name) && !isForModel) throw new UsageError(`--${name} needs --model`, 'doctor');
  const shape = parseShape(args.required('shape'), 'doctor');
  const step = { ...shape, rank: args.integer('rank', { min: 1 }) };
  const model = isForModel ? await openModelDirectory(args, io) : undefined;
  const report = await examine(model, step);
  const output = new LineWriter(io.stdout);
  if (args.flag('json')) await output.line(strictJson(report, 2));
  else for (const line of reportLines(report)) await output.line(line);
  await output.flush();
  return 0;
}
