/** Options that several commands share. */
import type { OptionSpecs } from './arguments';

export const MODEL: OptionSpecs = {
  model: {
    value: 'M',
    required: true,
    describe: 'directory of a Hugging Face model, or a hub id owner/name',
  },
};
export const ADAPTER: OptionSpecs = {
  adapter: { value: 'DIR', describe: "LoRA adapter in PEFT's format, made for this model" },
};
export const BASE_WEIGHTS: OptionSpecs = {
  dtype: {
    value: 'D',
    default: 'float32',
    describe: 'of the base weights in memory: float32, bfloat16 or nf4',
  },
  'matmul-precision': {
    value: 'P',
    default: 'float32',
    describe: 'of products with bfloat16 or nf4 weights: float32, or bfloat16 (summed in float32)',
  },
};
export const INPUT: OptionSpecs = {
  input: { value: 'F', required: true, describe: 'JSONL file, .jsonl.gz, or - for standard input' },
  'skip-invalid': { describe: 'set bad lines aside in *.rejected.jsonl with the reason, and go on' },
};
export const JSON_LINES: OptionSpecs = {
  json: { describe: 'JSON lines, one for each input line (this command prints nothing else anyway)' },
};

export const EMBEDDING: OptionSpecs = {
  embedding: {
    value: 'E',
    default: 'lexical',
    describe: 'lexical, or a sentence encoder in ONNX form: a directory, or a hub id owner/name',
  },
};
