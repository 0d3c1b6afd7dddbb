/** What changed from before to after, beside the means: how varied replies are, and which tweets gained or lost. */
import { distinctN, selfBleu4 } from '../metrics/diversity';
import { mean } from '../metrics/statistics';
import { wordpunct } from '../metrics/text';
import type { ReplyEvaluation } from '../eval/replies';
import type { SmallTestResult } from './result';

/** A measure of variety before and after. */
export interface VarietyRow {
  measure: string;
  before: number | null;
  after: number | null;
}

/** Mean over tweets with two replies or more of the self-BLEU-4 of their replies; null where there is none. */
function selfBleuOf({ prompts }: ReplyEvaluation): number | null {
  const values = prompts.flatMap(({ replies }) =>
    replies.length < 2 ? [] : (selfBleu4(replies.map(wordpunct)) ?? []),
  );
  return values.length === 0 ? null : mean(values);
}

/** Self-BLEU of the replies to a tweet (1: all alike), and distinct n-grams of all replies. */
export function varietyRows({ before, after }: Pick<SmallTestResult, 'before' | 'after'>): VarietyRow[] {
  const distinct = ({ prompts }: ReplyEvaluation, n: number): number | null =>
    distinctN(
      prompts.flatMap(({ replies }) => replies.map(wordpunct)),
      n,
    );
  return [
    { measure: 'self-BLEU-4', before: selfBleuOf(before), after: selfBleuOf(after) },
    ...[1, 2, 3].map((n) => ({
      measure: `distinct-${n}`,
      before: distinct(before, n),
      after: distinct(after, n),
    })),
  ];
}

/** A tweet whose replies changed. */
export interface ChangedPrompt {
  tweet: string;
  /** after less before, of the mean reward of its replies */
  change: number;
  'reply before': string;
  'reply after': string;
}

/** The tweets whose mean reward changed most, half of them gains and half losses, the largest gain first. */
export function changedPrompts(
  { before, after }: Pick<SmallTestResult, 'before' | 'after'>,
  count = 10,
): ChangedPrompt[] {
  const rows = before.prompts
    .map(({ tweet, reward, replies }, i) => ({
      ...{ tweet, change: after.prompts[i].reward - reward },
      ...{ 'reply before': replies[0], 'reply after': after.prompts[i].replies[0] },
    }))
    .sort((a, b) => b.change - a.change);
  if (rows.length <= count) return rows;
  const gains = Math.ceil(count / 2);
  return [...rows.slice(0, gains), ...rows.slice(rows.length - (count - gains))];
}
