/** Alerts: which values of a step a user should know about at once, and what to do then. Pure logic, no file. */
import { z } from 'zod';
import type { StepRecord } from './loop';

/** A value that left its bounds. */
export interface Alert {
  /** e.g. `train/kl_penalty above 15`; the same whenever it happens. */
  name: string;
  /** One line with step, value and remedy. */
  message: string;
}

/** When a value is out of bounds, and the remedy in the config's keys. */
interface AlertRule {
  /** Of these, the ones that the record has: not every method logs each of them. */
  keys: readonly string[];
  below?: number;
  above?: number;
  /** NaN and infinities are out of bounds; nothing else is. */
  finite?: true;
  /** Steps in a row that it takes; default 1. */
  steps?: number;
  /** The bound is one for replies to tweets and says nothing of another task. */
  replies?: true;
  advice: string;
}

/**
 * Bounds of KL, reward and length: those of the study. Zero signal and entropy are ours: runs of 60 steps that went well
 * stayed below 0.4 and above 0.2 nats.
 */
const alertRules: readonly AlertRule[] = [
  {
    keys: ['train/loss', 'train/policy_loss', 'train/total_loss', 'eval/loss'],
    finite: true,
    advice: 'lower training.learning_rate, or look for broken examples among those that run.log names',
  },
  {
    keys: ['train/kl_penalty'],
    above: 15,
    advice:
      'the policy runs away from the warm start: raise grpo.kl_coeff to 0.2, or lower training.learning_rate',
  },
  {
    keys: ['train/avg_reward'],
    below: 0.3,
    replies: true,
    advice:
      'look at samples.jsonl, and raise grpo.temperature to 0.9 if the replies to a tweet are all alike',
  },
  {
    keys: ['train/reply_characters'],
    below: 10,
    replies: true,
    advice: 'replies shrink: look at samples.jsonl, raise grpo.kl_coeff to 0.2 or grpo.min_new_tokens',
  },
  {
    keys: ['train/reply_characters'],
    above: 280,
    replies: true,
    advice: 'replies grow longer than a tweet: look at samples.jsonl, lower grpo.max_new_tokens',
  },
  {
    keys: ['train/zero_signal_share'],
    above: 0.8,
    steps: 10,
    advice:
      'most groups have equal rewards, from which nothing is learned: raise grpo.temperature to 0.9 or grpo.n_generations',
  },
  {
    keys: ['train/entropy'],
    below: 0.1,
    advice:
      'the policy hardly varies any more: raise grpo.temperature to 0.9 and grpo.kl_coeff to 0.2, or lower training.learning_rate',
  },
];

/** What a monitor remembers, for a checkpoint. */
export const monitorStateSchema = z.strictObject({
  /** Steps in a row that each alert's value has been out of bounds; without those inside. */
  outside: z.record(z.string(), z.int().positive()),
  /** Alerts so far, each once, in the order in which they came first. */
  raised: z.array(z.string()),
});

/** What a monitor remembers, for a checkpoint. */
export type MonitorState = z.output<typeof monitorStateSchema>;

function boundOf({ below, above, steps = 1 }: AlertRule): string {
  const bound =
    below !== undefined ? `below ${below}` : above !== undefined ? `above ${above}` : 'not finite';
  return steps === 1 ? bound : `${bound} for ${steps} steps`;
}

function isOutside({ below, above, finite }: AlertRule, value: number): boolean {
  if (finite) return !Number.isFinite(value);
  return (below !== undefined && value < below) || (above !== undefined && value > above);
}

/**
 * Watches the records of a run. An alert is given when its value leaves the bounds, not again while it stays outside, and
 * anew when it has been inside and leaves again.
 */
export class Monitor {
  private readonly rules: readonly AlertRule[];
  private readonly outside: Map<string, number>;
  private readonly raised: Set<string>;

  /**
   * @param replies  the task is replies to tweets: watch the bounds of their reward (0.3) and length (10..280) too
   * @param state    of a checkpoint: the monitor goes on as if it had never stopped
   */
  constructor({ replies, state }: { replies: boolean; state?: MonitorState }) {
    this.rules = alertRules.filter((rule) => replies || rule.replies === undefined);
    this.outside = new Map(Object.entries(state?.outside ?? {}));
    this.raised = new Set(state?.raised);
  }

  /** @returns the alerts of this step; a value that the record does not have leaves its alert as it is */
  check(record: StepRecord): Alert[] {
    return this.rules.flatMap((rule) => rule.keys.flatMap((key) => this.checkKey(rule, key, record)));
  }

  get state(): MonitorState {
    return { outside: Object.fromEntries(this.outside), raised: [...this.raised] };
  }

  private checkKey(rule: AlertRule, key: string, record: StepRecord): Alert[] {
    const value = record[key] as number | undefined;
    // A NaN is neither inside nor outside of bounds; that of a loss has its own alert.
    if (value === undefined || (Number.isNaN(value) && !rule.finite)) return [];
    const bound = boundOf(rule);
    const name = `${key} ${bound}`;
    if (!isOutside(rule, value)) {
      this.outside.delete(name);
      return [];
    }
    const steps = (this.outside.get(name) ?? 0) + 1;
    this.outside.set(name, steps);
    if (steps !== (rule.steps ?? 1)) return [];
    this.raised.add(name);
    const shown = Number.isFinite(value) ? Number(value.toPrecision(4)) : value;
    return [{ name, message: `step ${record.step}: ${key} is ${shown}, ${bound}: ${rule.advice}` }];
  }
}
