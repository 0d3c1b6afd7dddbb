/** The data of the figure of LoRA parameters: of every model's adapters, a mean over seeds for each module. */
import { z } from 'zod';
import { mean } from '../metrics/statistics';
import { LORA_TARGETS } from '../model/peft';
import { ShapeError } from '../runtime/errors';
import { bandSchema, modelsOf, seedMeanSchema } from './result-shapes';
import type { SeedMean } from './result-shapes';
import { rangeOf } from './training-panels';

export const loraParametersSchema = z.strictObject({
  band: bandSchema,
  models: modelsOf(
    z.strictObject({
      name: z.string().min(1),
      seeds: z.int().positive(),
      /** r of the adapter, which no effective rank exceeds */
      rank: z.int().positive(),
      modules: z
        .array(
          z.strictObject({
            layer: z.int().nonnegative(),
            module: z.enum(LORA_TARGETS),
            /** ||s B A||_F */
            norm: seedMeanSchema,
            effectiveRank: seedMeanSchema,
          }),
        )
        .min(1),
    }),
    4,
  ),
});

/** Size and effective rank of every model's adapters, by layer and module. */
export type LoraParameters = z.input<typeof loraParametersSchema>;

/** What `analyseAdapter` says of one adapter, as far as the figure needs it. */
export interface AnalysedAdapter {
  readonly rank: number;
  readonly modules: readonly {
    readonly layer: number;
    readonly module: (typeof LORA_TARGETS)[number];
    readonly norm: number;
    readonly effectiveRank: { readonly value: number } | { readonly value: null; readonly reason: string };
  }[];
}

/** The mean and, of several seeds, the band from the smallest to the largest. */
function seedMean(values: readonly number[]): SeedMean {
  return values.length === 1 ? { value: values[0] } : { value: mean(values), band: rangeOf(values) };
}

function meanOfRanks(ranks: readonly AnalysedAdapter['modules'][number]['effectiveRank'][]): SeedMean {
  const values = ranks.flatMap(({ value }) => (value === null ? [] : [value]));
  if (values.length === ranks.length) return seedMean(values);
  const [none] = ranks.flatMap((rank) => (rank.value === null ? [rank.reason] : []));
  const share = ranks.length === 1 ? '' : ` in ${ranks.length - values.length} of ${ranks.length} seeds`;
  return { value: null, reason: `${none}${share}` };
}

function summariseModel(name: string, seeds: readonly AnalysedAdapter[]): LoraParameters['models'][number] {
  if (seeds.length === 0) throw new ShapeError(`${name}: no adapter; expected one a seed.`);
  const [{ rank, modules }] = seeds;
  for (const other of seeds) {
    const same =
      other.rank === rank &&
      other.modules.length === modules.length &&
      other.modules.every(
        ({ layer, module }, i) => layer === modules[i].layer && module === modules[i].module,
      );
    if (!same)
      throw new ShapeError(
        `${name}: its adapters differ in rank or modules; expected those of one configuration.`,
      );
  }
  return {
    ...{ name, seeds: seeds.length, rank },
    modules: modules.map(({ layer, module }, i) => ({
      ...{ layer, module },
      norm: seedMean(seeds.map((seed) => seed.modules[i].norm)),
      effectiveRank: meanOfRanks(seeds.map((seed) => seed.modules[i].effectiveRank)),
    })),
  };
}

/**
 * Means over seeds of norm and effective rank, with the band from the smallest to the largest seed. An effective rank that
 * a seed does not have, the mean does not have either.
 *
 * @param adapters  of each model by name, one `analyseAdapter` a seed
 * @throws ShapeError  when a model has no adapter, or adapters of several ranks or modules
 */
export function summariseAdapters(
  adapters: Readonly<Record<string, readonly AnalysedAdapter[]>>,
): LoraParameters {
  const models = Object.entries(adapters).map(([name, seeds]) => summariseModel(name, seeds));
  return { band: 'min-max', models };
}
