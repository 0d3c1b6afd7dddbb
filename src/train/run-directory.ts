/** `runs/<name>/`: everything that a run leaves behind, written so that a crash never leaves half a file. */
import { appendFileSync } from 'node:fs';
import path from 'node:path';
import { stringify } from 'yaml';
import { atomicWriteFile, ensureDirectory, strictJson } from '../runtime/files';
import type { Policy } from '../policy/policy';
import type { Experiment } from './config';
import type { LoopResult, StepRecord } from './loop';

/** What `trainer_state.json` holds; names as in transformers where it has them. */
export interface TrainerState {
  global_step: number;
  log_history: Record<string, number | null>[];
  interrupted: boolean;
  /** Reward components that run on a substitute, by name. */
  degraded: readonly string[];
  /** Values that went outside their bounds, each named once. */
  alerts: readonly string[];
}

/** Bounds whose crossing is worth a warning (reference system, section 6). */
const alertRules: { key: string; below?: number; above?: number; advice: string }[] = [
  {
    key: 'train/kl_penalty',
    above: 15,
    advice: 'the policy runs away from the warm start: raise grpo.kl_coeff to 0.2',
  },
  {
    key: 'train/avg_reward',
    below: 0.3,
    advice: 'look at samples.jsonl, and raise grpo.temperature to 0.9 if all replies are alike',
  },
  { key: 'train/reply_characters', below: 10, advice: 'replies shrink: look at samples.jsonl' },
  { key: 'train/reply_characters', above: 280, advice: 'replies grow: lower grpo.max_new_tokens' },
];

/** A step whose gradient was not finite has values that JSON cannot hold; `train/skipped` says why they are null. */
function finiteOrNull(record: StepRecord): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(record).map(([key, value]) => [key, Number.isFinite(value) ? value : null]),
  );
}

export class RunDirectory {
  readonly alerts: string[] = [];

  private constructor(
    readonly directory: string,
    private readonly notify: (line: string) => void,
  ) {}

  /** @param notify  gets warnings that a user should see at once */
  static async open(
    directory: string,
    experiment: Experiment,
    notify: (line: string) => void,
  ): Promise<RunDirectory> {
    await ensureDirectory(directory);
    const run = new RunDirectory(directory, notify);
    await atomicWriteFile(run.file('config.resolved.yaml'), stringify(experiment));
    for (const name of ['metrics.jsonl', 'samples.jsonl', 'run.log'])
      await atomicWriteFile(run.file(name), '');
    return run;
  }

  file(name: string): string {
    return path.join(this.directory, name);
  }

  log(line: string): void {
    appendFileSync(this.file('run.log'), `${new Date().toISOString()} ${line}\n`);
  }

  metrics(record: StepRecord): void {
    appendFileSync(this.file('metrics.jsonl'), `${strictJson(finiteOrNull(record))}\n`);
    for (const { key, below, above, advice } of alertRules) {
      const value = record[key];
      if (value === undefined) continue;
      const low = below !== undefined && value < below;
      const high = above !== undefined && value > above;
      const name = `${key} ${low ? `below ${below}` : `above ${above}`}`;
      if ((!low && !high) || this.alerts.includes(name)) continue;
      this.alerts.push(name);
      this.warn(
        `step ${record.step}: ${key} is ${value.toPrecision(3)}, ${name.slice(key.length + 1)}: ${advice}`,
      );
    }
  }

  warn(line: string): void {
    this.log(`warning: ${line}`);
    this.notify(line);
  }

  sample(value: unknown): void {
    appendFileSync(this.file('samples.jsonl'), `${strictJson(value)}\n`);
  }

  /** The final files: adapter, trainer_state.json, training_args.json. */
  async finish(
    policy: Policy,
    experiment: Experiment,
    result: LoopResult,
    degraded: readonly string[],
  ): Promise<void> {
    await policy.save(this.directory);
    const state: TrainerState = {
      global_step: result.steps,
      log_history: result.history.map(finiteOrNull),
      interrupted: result.interrupted,
      degraded,
      alerts: this.alerts,
    };
    await atomicWriteFile(this.file('training_args.json'), `${strictJson(experiment, 2)}\n`);
    await atomicWriteFile(this.file('trainer_state.json'), `${strictJson(state, 2)}\n`);
    this.log(
      result.interrupted ? `stopped after step ${result.steps}` : `finished after step ${result.steps}`,
    );
  }
}
