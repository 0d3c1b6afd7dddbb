/** Log-probabilities of the tokens of a chat completion, where the server gives them. */
import { z } from 'zod';
import { parseText } from './chat-request';

/** Summed log-probability (nats) of the tokens of a text, and their number. */
export const likelihoodSchema = z.strictObject(
  { log_prob: z.number().max(0, 'a number <= 0'), tokens: z.int().min(1, 'an integer >= 1') },
  { error: 'log_prob and tokens alone, or null' },
);
/** The summed natural log-probability of a text's tokens, and how many they are. */
export type Likelihood = z.output<typeof likelihoodSchema>;

/** A text with the likelihood of what was generated for it, its end token included where the server counts it. */
export const drawnTextSchema = z.strictObject({
  text: z.string(),
  /** null where the server does not give it, or gives that of other tokens */
  drawn: likelihoodSchema.nullable(),
});
/** A text with the likelihood of what was generated for it. */
export type DrawnText = z.output<typeof drawnTextSchema>;

/** Stands in the OpenAI API for the log-probability of a token that is too unlikely to be told. */
const UNTOLD = -9999;

const answeredSchema = z.object({
  choices: z
    .array(
      z.object({
        message: z.object({
          content: z.string(),
          reasoning: z.unknown().optional(),
          reasoning_content: z.unknown().optional(),
        }),
        logprobs: z.object({
          content: z.array(z.object({ token: z.string(), logprob: z.number().gt(UNTOLD).max(0) })).min(1),
        }),
      }),
    )
    .min(1),
});

type Answered = z.output<typeof answeredSchema>['choices'][number];

/** Whether the text is less than what was generated: a server, too, may have taken thoughts out of the message. */
function isCutOut(text: string, { message, logprobs }: Answered): boolean {
  const { content, reasoning, reasoning_content } = message;
  const isApart = [reasoning, reasoning_content].some((each) => typeof each === 'string' && each !== '');
  const generated = logprobs.content.map(({ token }) => token).join('');
  const isDropped = generated.includes('</think>') && !content.includes('</think>');
  return isApart || isDropped || content.trim() !== text;
}

/** The likelihood of what was generated for a text; null where the response does not tell it. */
export function likelihoodOf(body: unknown, text: string): Likelihood | null {
  const result = answeredSchema.safeParse(body);
  if (!result.success) return null;
  const [answered] = result.data.choices;
  if (isCutOut(text, answered)) return null;
  const { content: entries } = answered.logprobs;
  return { log_prob: entries.reduce((sum, { logprob }) => sum + logprob, 0), tokens: entries.length };
}

/** The text of a response, as `parseText` has it, with its likelihood. */
export function parseDrawn<T>(
  body: unknown,
  content: string,
  schema: z.ZodType<T>,
): { value: T } | { problem: string } {
  const text = parseText(content, z.string());
  if (!('value' in text)) return text;
  const result = schema.safeParse({ text: text.value, drawn: likelihoodOf(body, text.value) });
  return result.success ? { value: result.data } : { problem: result.error.issues[0].message };
}

/** Whether a drawn text came without its likelihood. */
export function lacksLikelihood(value: unknown): boolean {
  return drawnTextSchema.safeParse(value).data?.drawn === null;
}
