/** Shapes that the data of several figures share: estimates with their intervals, what was sampled, models. */
import { z } from 'zod';
import { ShapeError } from '../runtime/errors';
import { stylesOf } from './theme';

/** [low, high] */
export const intervalSchema = z
  .tuple([z.number(), z.number()])
  .refine(([low, high]) => low <= high, 'expected [low, high], low first');

/** A value that does not exist, and why. */
export const missingSchema = z.strictObject({ value: z.null(), reason: z.string().min(1) });

/** A value with its bootstrap interval, or why there is none. */
export const estimateSchema = z.union([
  z.strictObject({ value: z.number(), ci: intervalSchema }),
  missingSchema,
]);

/** An estimate of a quantity that is above 0 wherever it exists. */
export const positiveEstimateSchema = z.union([
  z.strictObject({
    value: z.number().positive(),
    ci: intervalSchema.refine(([low]) => low > 0, 'expected above 0'),
  }),
  missingSchema,
]);

/** A value with its interval, or why there is none. */
export type Estimate = z.output<typeof estimateSchema>;

/** A mean over seeds with the band around it, none of one seed; or why there is no value. */
export const seedMeanSchema = z.union([
  z.strictObject({ value: z.number(), band: intervalSchema.optional() }),
  missingSchema,
]);

/** A mean over seeds with the band around it, or why there is no value. */
export type SeedMean = z.output<typeof seedMeanSchema>;

/** What the bands of seed means reach over: from the smallest to the largest seed, or one standard deviation to each side. */
export const bandSchema = z.enum(['min-max', 'sd']).default('min-max');

/** What the intervals of a figure come from. */
export const samplingFields = {
  /** of the bootstrap intervals */
  level: z.number().gt(0).lt(1).default(0.95),
  /** held-out tweets, the unit of the bootstrap */
  tweets: z.int().positive(),
  /** training seeds of every trained model */
  seeds: z.int().positive().optional(),
};

export interface Sampling {
  readonly level: number;
  readonly tweets: number;
  readonly seeds?: number;
}

/** The first model that repeats a name, or whose look another one has, with what is wrong. */
function firstRepeated(names: readonly string[]): { at: number; message: string } | undefined {
  const looks = stylesOf(names).map(({ marker, color }) => `${marker} ${color}`);
  for (const [at, name] of names.entries()) {
    if (names.indexOf(name) !== at) return { at, message: `a second model "${name}"; expected each once` };
    const other = looks.indexOf(looks[at]);
    if (other !== at)
      return { at, message: `"${name}" would look like "${names[other]}"; leave models out or rename one` };
  }
  return undefined;
}

/** One entry a model, each with a name and a look of its own. */
export function modelsOf<S extends z.ZodObject<{ name: z.ZodString }>>(schema: S, most = 10) {
  return z
    .array(schema)
    .min(1)
    .max(most)
    .superRefine((models, context) => {
      const repeated = firstRepeated(models.map((model) => (model as { name: string }).name));
      if (repeated === undefined) return;
      context.addIssue({ code: 'custom', path: [repeated.at, 'name'], message: repeated.message });
    });
}

/** `1,200 tweets` */
export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${count.toLocaleString('en-US')} ${count === 1 ? noun : plural}`;
}

/** `95 %` */
export function percentOf(level: number): string {
  return `${Number((100 * level).toPrecision(6))} %`;
}

/** What the intervals are: `bootstrap 95 % intervals, n = 200 tweets, 3 seeds`. */
export function intervalNote({ level, tweets, seeds }: Sampling): string {
  const trained = seeds === undefined ? '' : `, ${counted(seeds, 'seed')}`;
  return `bootstrap ${percentOf(level)} intervals, n = ${counted(tweets, 'tweet')}${trained}`;
}

/** What lines and bands of seed means are, and of how many seeds: `Lines: mean over seeds (n = 3 seeds); bands: ...`. */
export function seedNote(
  models: readonly { readonly label: string; readonly seeds: number }[],
  band: 'min-max' | 'sd',
): string {
  const counts = [...new Set(models.map(({ seeds }) => seeds))];
  if (counts.join() === '1') return 'Lines: one training seed a model; no bands.';
  const each = models.map(({ label, seeds }) => `${label} ${seeds}`).join(', ');
  const n = counts.length === 1 ? `n = ${counted(counts[0], 'seed')}` : `seeds: ${each}`;
  const reach = band === 'sd' ? '± 1 standard deviation over seeds' : 'from the smallest to the largest seed';
  return `Lines: mean over seeds (${n}); bands: ${reach}.`;
}

/** @throws ShapeError naming the value that does not lie above the one before it */
export function requireRising(what: string, values: readonly number[]): void {
  const at = values.findIndex((value, i) => i > 0 && value <= values[i - 1]);
  if (at >= 0)
    throw new ShapeError(`${what} ${values[at]} follows ${values[at - 1]}; expected rising values.`);
}
