/** Settings of the heuristic reward: weights and thresholds, with the study's values as defaults. */

import { z } from 'zod';

const share = (value: number, what: string): z.ZodDefault<z.ZodNumber> =>
  z.number().min(0).max(1).default(value).describe(what);
const characters = (value: number, what: string): z.ZodDefault<z.ZodNumber> =>
  z.number().int().min(1).default(value).describe(`${what}, code points`);

/** The six components, in the order in which they are reported. */
export type HeuristicComponent =
  'relevance' | 'length' | 'sentiment' | 'diversity' | 'punctuation' | 'engagement';

/** Weights of the six components, which sum to 1; `defaults` are those of a weight that is not given. */
export function weightsSchema(defaults: Readonly<Record<HeuristicComponent, number>>) {
  return z
    .strictObject({
      relevance: share(defaults.relevance, 'weight'),
      length: share(defaults.length, 'weight'),
      sentiment: share(defaults.sentiment, 'weight'),
      diversity: share(defaults.diversity, 'weight'),
      punctuation: share(defaults.punctuation, 'weight'),
      engagement: share(defaults.engagement, 'weight'),
    })
    .superRefine((weights, context) => {
      const sum = Object.values(weights).reduce((a, b) => a + b, 0);
      if (Math.abs(sum - 1) <= 1e-9) return;
      const message = `the six weights sum to ${Number(sum.toFixed(6))}, expected 1. Change the others too: a weight that is not given keeps its default.`;
      context.addIssue({ code: 'custom', message });
    });
}

const STUDY_WEIGHTS = {
  ...{ relevance: 0.3, length: 0.15, sentiment: 0.15 },
  ...{ diversity: 0.1, punctuation: 0.1, engagement: 0.2 },
};

/** What is decided before the components: replies that are too short or too long. */
export const guardsSchema = z
  .strictObject({
    min_length: characters(3, 'a shorter reply scores 0'),
    max_length: characters(500, 'a longer reply scores too_long_reward'),
    too_long_reward: share(0.3, 'total of a reply that is too long'),
  })
  .refine((o) => o.min_length <= o.max_length, {
    error: 'expected min_length <= max_length. Put them in order.',
  });

const lengthSchema = z
  .strictObject({
    tiny_below: characters(20, 'a shorter reply has length 0.3'),
    short_below: characters(50, 'a shorter reply has length 0.6'),
    good_up_to: characters(150, 'up to here length is 1'),
    long_up_to: characters(280, 'up to here 0.8, beyond it 0.4'),
  })
  .refine(
    (o) => o.tiny_below <= o.short_below && o.short_below <= o.good_up_to && o.good_up_to <= o.long_up_to,
    {
      error: 'expected tiny_below <= short_below <= good_up_to <= long_up_to. Put them in order.',
    },
  );

const punctuationSchema = z
  .strictObject({
    sparse_below: share(0.01, 'share of marks below which the value is 0.7'),
    good_up_to: share(0.08, 'up to here 1'),
    dense_up_to: share(0.15, 'up to here 0.8, beyond it 0.3'),
  })
  .refine((o) => o.sparse_below <= o.good_up_to && o.good_up_to <= o.dense_up_to, {
    error: 'expected sparse_below <= good_up_to <= dense_up_to. Put them in order.',
  });

const GENERIC_PHRASES =
  'thanks, thank you, agree, agreed, this, nice, great, good point, interesting, true, exactly, same, yep, yes, no, lol, haha';

const engagementSchema = z.strictObject({
  generic_phrases: z
    .array(z.string().trim().min(1))
    .default(() => GENERIC_PHRASES.split(', '))
    .describe('whole words that make a short reply generic'),
  generic_below: characters(30, 'length below which a generic phrase counts'),
  capitals_above: characters(10, 'length above which ALL CAPS counts'),
});

/** Schema of the heuristic reward's settings; every part may be left out. */
export const heuristicSchema = z.strictObject({
  weights: weightsSchema(STUDY_WEIGHTS).prefault({}),
  guards: guardsSchema.prefault({}),
  length: lengthSchema.prefault({}),
  diversity: z.strictObject({ repetitive_below: share(0.5, 'share of unique words') }).prefault({}),
  punctuation: punctuationSchema.prefault({}),
  engagement: engagementSchema.prefault({}),
});

/** Settings with every default filled in. */
export type HeuristicOptions = z.output<typeof heuristicSchema>;
