/** When a reply passes, for Pass@k. */
import { z } from 'zod';
import { parseStrict } from '../runtime/strict';

/** When Pass@k counts a reply as good: length, repetition, and a least reward or truth. */
export const qualitySchema = z
  .strictObject({
    min_characters: z.int().min(0).default(10).describe('code points of the trimmed reply'),
    max_characters: z.int().min(1).default(300).describe('code points'),
    max_repetition: z.number().min(0).max(1).default(0.5).describe('1 - different words / words'),
    min_reward: z.number().min(0).max(1).default(0.6).describe('total of the reward; 0 asks for none'),
    min_world_quality: z
      .number()
      .min(0)
      .max(1)
      .default(0)
      .describe('by the known truth of the embedded world; 0 asks for none'),
  })
  .refine((o) => o.min_characters <= o.max_characters, {
    error: 'expected min_characters <= max_characters. Put them in order.',
  });

/** The thresholds of a check, every default filled in. */
export type QualitySettings = z.output<typeof qualitySchema>;

/** A check that Pass@k counts by. */
export interface QualityCheck {
  /** As a report names it, with its thresholds. */
  name: string;
  needsTruth: boolean;
  /**
   * @param total  the reward of the reply
   * @param truth  its quality by a known truth; where there is none, a check that asks for it is never passed
   */
  passes(reply: string, total: number, truth?: number | null): boolean;
}

/** Words that servers and scripts leave where a reply should be. */
const ERROR_TEXT = /^\s*(\[?error\b|exception\b|traceback\b|null$|undefined$|nan$)/i;

/** 1 - different words / words, lower-cased, parted by white space; 0 for a reply without words. */
export function repetitionOf(reply: string): number {
  const words = reply.toLowerCase().split(/\s+/u).filter(Boolean);
  return words.length === 0 ? 0 : 1 - new Set(words).size / words.length;
}

/**
 * The study's check of length and repetition, a least reward and a least truth: not empty, no error text, so many
 * characters, at most so much repetition, a total of at least `min_reward`, a truth of at least `min_world_quality`.
 * @throws ConfigError  for settings that are unknown or out of range
 */
export function qualityCheck(settings: z.input<typeof qualitySchema> = {}): QualityCheck {
  const o = parseStrict(qualitySchema, settings, 'quality');
  const asked = [
    ...(o.min_reward > 0 ? [`reward >= ${o.min_reward}`] : []),
    ...(o.min_world_quality > 0 ? [`world quality >= ${o.min_world_quality}`] : []),
  ];
  const form = `${o.min_characters} to ${o.max_characters} characters, repetition <= ${o.max_repetition}`;
  return {
    name: [form, ...asked].join(', '),
    needsTruth: o.min_world_quality > 0,
    passes: (reply, total, truth) => {
      const trimmed = reply.trim();
      const length = Array.from(trimmed).length;
      return (
        length > 0 &&
        length >= o.min_characters &&
        length <= o.max_characters &&
        repetitionOf(trimmed) <= o.max_repetition &&
        !ERROR_TEXT.test(trimmed) &&
        (o.min_reward === 0 || total >= o.min_reward) &&
        (o.min_world_quality === 0 || (truth ?? -1) >= o.min_world_quality)
      );
    },
  };
}
