/**
 * The table of commands. Options are declared here, so that the help loads nothing else; `run` imports the command's
 * module, so that only commands that compute load TensorFlow.
 */
import { DEFAULTS, GRPO_RATES, shippedPath, SIZES } from '../study/settings';
import type { Command } from './command';
import { evaluate, figures } from './evaluation-commands';
import { ADAPTER, BASE_WEIGHTS, EMBEDDING, INPUT, JSON_LINES, MODEL } from './shared-options';

const doctor: Command = {
  name: 'doctor',
  summary: 'say what versions, backend, device, models and fallbacks are in force, and why',
  usage: '[--model DIR] [--shape P=2,G=4,Tp=96,Tc=100] [--rank 16] [--json]',
  options: {
    model: {
      value: 'DIR',
      describe: 'also check this model: parameters, bytes of a GRPO step by part and by dtype, does it fit',
    },
    shape: {
      value: 'S',
      default: 'P=2,G=4,Tp=96,Tc=100',
      describe: 'of that step: prompts, completions a prompt, tokens of each',
    },
    rank: { value: 'R', default: '16', describe: "of that step's adapter (lora.r)" },
    json: { describe: 'one JSON object' },
  },
  run: async (args, io) => (await import('./doctor.js')).doctor(args, io),
};

const split: Command = {
  name: 'split',
  summary: 'split records into an SFT phase and a GRPO phase that share no tweet',
  usage: '--input F --output-dir D [--ratio 0.5] [--test-fraction 0] [--seed 42]',
  options: {
    ...INPUT,
    'output-dir': { value: 'D', required: true, describe: 'where the files go; made when missing' },
    ratio: {
      value: 'R',
      default: '0.5',
      aliases: ['split-ratio'],
      describe: 'share of the training replies for phase 1 (SFT)',
    },
    'test-fraction': {
      value: 'R',
      default: '0',
      describe: 'share of the replies set aside before as a test set',
    },
    seed: { value: 'N', default: '42', describe: 'of the shuffle' },
    json: { describe: 'one JSON object: files, statistics, validation' },
  },
  details: [
    'Writes train_phase1_sft.jsonl, train_phase2_grpo.jsonl, phase_split_statistics.json,',
    'phase_split_distributions.png (and .svg, .json) and, with a test fraction, test_data.jsonl.',
    'Exits with 1 when the phases differ too much; the statistics say in what.',
  ],
  run: async (args, io) => (await import('./split.js')).split(args, io),
};

const importCommand: Command = {
  name: 'import',
  summary: 'turn CSV files into records',
  usage: '--from csv|twcs --input F --output F',
  options: {
    from: {
      value: 'csv|twcs',
      required: true,
      describe: "the study's columns, or Customer Support on Twitter",
    },
    input: { value: 'F', required: true, describe: 'CSV file, .csv.gz, or - for standard input' },
    output: { value: 'F', required: true, describe: 'records, .jsonl or .jsonl.gz' },
    'first-turn': { describe: "twcs: keep only answers to a thread's first tweet" },
    'skip-invalid': { describe: 'set bad rows aside in *.rejected.jsonl with the reason, and go on' },
    json: { describe: 'one JSON object: counts' },
  },
  details: [
    'csv: columns tweet_id, tweet, reply and, optionally, those of the records; others are kept as text.',
    'twcs: every row that answers another row of the file becomes a record; threads are rebuilt.',
    'Separated by comma, tab or semicolon, as the header shows; UTF-8.',
  ],
  run: async (args, io) => (await import('./import.js')).importRecords(args, io),
};

const clean: Command = {
  name: 'clean',
  summary: 'normalise texts, drop duplicate replies, put the best records first',
  usage: '--input F --output F [--embedding lexical|DIR|ID] [--threshold C]',
  options: {
    ...INPUT,
    output: { value: 'F', required: true, describe: 'records, .jsonl or .jsonl.gz' },
    ...EMBEDDING,
    threshold: {
      value: 'C',
      describe: "cosine above which two replies are near-duplicates; default: the embedding's own",
    },
    'keep-near-duplicates': { describe: 'drop only replies that are equal' },
    json: { describe: 'one JSON object: counts by rule' },
  },
  details: [
    'Characters repeated three times or more collapse to two, but for digits (1000000) and in web addresses;',
    '#CamelCase becomes words, white space is folded.',
    'Of equal or nearly equal replies the one with most likes stays. Prints how many records each rule touched.',
  ],
  run: async (args, io) => (await import('./clean.js')).clean(args, io),
};

const trainReward: Command = {
  name: 'train-reward',
  summary: 'learn a reward from the likes of replies',
  usage: '--data F --output D [--objective rank|regression] [--embedding lexical|DIR|ID] [--seed 42]',
  options: {
    data: { ...INPUT.input, describe: 'records: JSONL file, .jsonl.gz, or - for standard input' },
    'skip-invalid': INPUT['skip-invalid'],
    output: { value: 'D', required: true, describe: 'a directory that is empty or does not exist' },
    objective: {
      value: 'O',
      default: 'rank',
      describe:
        'rank: which of two replies to one tweet got more likes; regression: the rank of the engagement',
    },
    ...EMBEDDING,
    'test-fraction': {
      value: 'R',
      default: '0.2',
      describe: 'share of the tweets held out to judge the reward',
    },
    epochs: { value: 'N', default: '20', describe: 'passes over the training replies, at most' },
    'learning-rate': { value: 'R', default: '1e-4', describe: 'of AdamW' },
    seed: { value: 'N', default: '42', describe: 'of hold-out, weights, dropout and order' },
    json: { describe: 'one JSON object: the evaluation' },
  },
  run: async (args, io) => (await import('./train-reward.js')).trainReward(args, io),
};

const reward: Command = {
  name: 'reward',
  summary: 'score replies to tweets',
  usage: '--input F [--reward heuristic|FILE.yaml] [--json]',
  options: {
    ...INPUT,
    reward: {
      value: 'R',
      default: 'heuristic',
      describe: "heuristic (the study's), sharp, a YAML file, or a directory of train-reward",
    },
    json: { describe: 'the JSON lines alone, without the summary on standard error' },
  },
  details: [
    'Input lines have tweet and reply (or prompt and completion).',
    'Output lines, in input order: {"total", "components": {...}, "degraded": [...]}.',
  ],
  run: async (args, io) => (await import('./reward.js')).reward(args, io),
};

const tokenize: Command = {
  name: 'tokenize',
  summary: 'token ids of texts, or of conversations through the chat template',
  usage: '--model M --input F --json',
  options: { ...MODEL, ...INPUT, ...JSON_LINES },
  details: [
    'Input lines have text, or messages ([{"role", "content"}]) with optional enable_thinking and',
    'add_generation_prompt. Output lines: {"token_ids", "text"}, the text decoded from the ids.',
  ],
  run: async (args, io) => (await import('./tokenize.js')).tokenize(args, io),
};

const logprobs: Command = {
  name: 'logprobs',
  summary: 'log-probabilities of given tokens',
  usage: '--model M [--adapter DIR] --input F --json',
  options: { ...MODEL, ...ADAPTER, ...BASE_WEIGHTS, ...INPUT, ...JSON_LINES },
  details: [
    'Input lines have token_ids and an optional prompt_length (default 1, the tokens that are only context).',
    'Output lines: {"log_probs", "sum", "perplexity"}: natural logarithms, of the tokens from prompt_length to the end.',
  ],
  run: async (args, io) => (await import('./logprobs.js')).logprobs(args, io),
};

const generate: Command = {
  name: 'generate',
  summary: 'sample replies',
  usage: '--model M [--adapter DIR] --input F [--n 10] [--temperature 0.7] [--greedy] [--seed 0] [--json]',
  options: {
    ...MODEL,
    ...ADAPTER,
    ...BASE_WEIGHTS,
    ...INPUT,
    n: {
      value: 'N',
      default: '10',
      describe: 'replies for each line (with --greedy 1, as they are all equal)',
    },
    temperature: { value: 'T', default: '0.7', describe: 'divides the logits; 0 is --greedy' },
    'top-p': {
      value: 'P',
      default: '0.9',
      describe: 'keep the likeliest tokens that sum to this; 1 keeps all',
    },
    'top-k': { value: 'K', default: '0', describe: 'keep this many likeliest tokens; 0 keeps all' },
    'max-new-tokens': { value: 'N', default: '100', describe: 'tokens of a reply, at most' },
    greedy: { describe: 'always the likeliest token' },
    seed: { value: 'N', default: '0', describe: 'of the draws' },
    raw: { describe: 'take prompt as text to continue, without the chat template' },
    json: { describe: 'JSON lines: the input fields and "generations"' },
  },
  details: [
    'Input lines have prompt_ids (token ids), or prompt (a user message, through the chat template), or tweet (the',
    "study's question about it); the first of these that a line has is used.",
    'Each generation is {"text", "token_ids", "log_probs", "finish_reason"}; log_probs are natural logarithms at',
    'temperature 1 of every token, the end token included; text leaves special tokens out.',
    'The draws of a line depend on the seed, its prompt and its id (id, else tweet_id), not on other lines or their',
    'order: equal lines get equal replies. Give them different ids to draw anew.',
  ],
  run: async (args, io) => (await import('./generate.js')).generate(args, io),
};

const merge: Command = {
  name: 'merge',
  summary: 'write a model with an adapter merged into its weights',
  usage: '--model M --adapter DIR --output D [--dtype f32|bf16|f16]',
  options: {
    ...MODEL,
    adapter: { ...ADAPTER.adapter, required: true },
    output: { value: 'D', required: true, describe: 'a directory that is empty or does not exist' },
    dtype: { value: 'TYPE', default: 'f32', describe: 'type of the written weights: f32, bf16 or f16' },
  },
  run: async (args, io) => (await import('./merge.js')).merge(args, io),
};

const lab: Command = {
  name: 'lab',
  summary: "open JupyterLab on the notebooks, with this project's kernel",
  usage: '[arguments of jupyter lab]',
  options: {},
  passThrough: true,
  details: ['Listens on localhost only and asks for its token, unless the arguments say otherwise.'],
  run: async (args, io) => (await import('./lab.js')).lab(args, io),
};

const train: Command = {
  name: 'train',
  summary: 'train by SFT, polychromic SFT or GRPO as a YAML file says',
  usage:
    '--config FILE.yaml [--set a.b=v]... [--output D] [--phases 1,2] [--seeds N,N] [--resume] [--dry-run]',
  options: {
    config: { value: 'F', required: true, describe: 'experiment file; _base_ names one to start from' },
    set: { value: 'a.b=v', repeatable: true, describe: 'overrides a key, the value read as YAML' },
    model: { value: 'M', describe: 'directory of a Hugging Face model, or a hub id, instead of model' },
    adapter: { value: 'DIR', describe: 'PEFT adapter to start from, instead of checkpoint_path' },
    data: { value: 'F', describe: 'training records, instead of data.train' },
    output: { value: 'D', describe: 'run directory, instead of output_dir' },
    phases: {
      value: '1,2',
      describe: "phase 1 is the file's warm_start, phase 2 the file itself, from the adapter of phase 1",
    },
    seeds: { value: 'N,N', describe: 'a run (with --phases two) for each seed, in seed_N below the output' },
    'dry-run': {
      describe: 'the pre-flight list: data, disk, device, memory, steps, and the time from 3 measured steps',
    },
    'price-per-hour': { value: 'R', describe: 'with --dry-run: also the cost' },
    resume: { describe: 'go on from the latest checkpoint, to the same bits; begin where there is none' },
    json: { describe: 'one JSON object: directory, steps, last row of the metrics' },
  },
  details: [
    'After Ctrl-C or SIGTERM the present step is finished and saved; --resume goes on. So it does after a crash, from the',
    'latest checkpoint (every training.save_steps steps). With --phases, --data names a directory of grpolab split, and',
    '--set phase1.KEY=v a key of phase 1.',
  ],
  run: async (args, io) => (await import('./train.js')).train(args, io),
};

const smallTest: Command = {
  name: 'small-test',
  summary: 'the whole study on 100 examples: split, SFT, GRPO, before and after on held-out prompts',
  usage: '[--model M] [--data F] [--eval-data F] [--output D] [--seed 42] [--short]',
  options: {
    model: {
      value: 'M',
      default: shippedPath('model'),
      describe: 'directory of a Hugging Face model, or a hub id',
    },
    data: {
      value: 'F',
      default: shippedPath('data'),
      describe: 'records; the first 100 train, the others are held out',
    },
    'eval-data': { value: 'F', describe: 'records whose tweets are held out, instead' },
    reward: {
      value: 'R',
      default: DEFAULTS.reward,
      describe: 'heuristic, sharp, a YAML file, or a directory of train-reward',
    },
    output: { value: 'D', default: DEFAULTS.output, describe: 'where everything is written' },
    seed: { value: 'N', default: String(DEFAULTS.seed), describe: 'of split, training and sampling' },
    'grpo-steps': {
      value: 'N',
      describe: `optimiser steps of GRPO (default ${SIZES.full.grpoSteps}; with --short ${SIZES.short.grpoSteps})`,
    },
    'learning-rate': {
      value: 'R',
      describe: `of GRPO (default ${GRPO_RATES.shipped} for the model in this repository, ${GRPO_RATES.other} for others)`,
    },
    short: {
      describe: `SFT for ${SIZES.short.sftEpochs} epoch instead of ${SIZES.full.sftEpochs}, GRPO for ${SIZES.short.grpoSteps} steps instead of ${SIZES.full.grpoSteps}; the reward is not judged`,
    },
    json: { describe: 'one JSON object' },
  },
  details: [
    'Without other tweets after the first 100 records a fifth of the tweets is held out. Held-out tweets that training',
    'has, by id or by text, are left out, and so are those whose prompts are too long (512 tokens or more).',
    'The default model and data are those of this repository.',
    'World quality is shown for the embedded world alone (no --data, no --eval-data).',
    'Exits with 1 when a success criterion fails.',
  ],
  run: async (args, io) => (await import('./small-test.js')).smallTest(args, io),
};

const bench: Command = {
  name: 'bench',
  summary: 'seconds of a GRPO step, an SFT step or sampling, by phase',
  usage:
    '--what grpo|sft|generate --model M --shape S [--steps 6] [--dtype D] [--recompute] [--profile] [--json]',
  options: {
    ...MODEL,
    what: { value: 'W', default: 'grpo', describe: 'grpo, sft or generate' },
    shape: {
      value: 'S',
      default: 'P=4,G=4,Tp=96,Tc=48',
      describe: 'prompts, completions a prompt, tokens of a prompt, tokens of a completion',
    },
    steps: { value: 'N', default: '6', describe: 'measured steps' },
    warmup: { value: 'N', default: '2', describe: 'steps before them, which compile and warm up' },
    ...BASE_WEIGHTS,
    recompute: { describe: 'layers are computed again in the backward pass: less memory, more time' },
    profile: { describe: 'one step more, with the time of each kind of op' },
    json: { describe: 'one JSON object' },
  },
  details: [
    'Prompts are random tokens: the model needs no tokenizer. LoRA r=16 on all projections.',
    'A profile is of what TensorFlow ran, fused ops of the binding (Grpolab...) as one; profiling slows a step down a little.',
  ],
  run: async (args, io) => (await import('./bench.js')).bench(args, io),
};

const setup: Command = {
  name: 'setup',
  summary: "fetch TensorFlow's libraries and build the native binding (again): nothing where all is there",
  usage: '',
  options: {},
  details: ['Needs Python 3.10 to 3.13 with venv and a C++17 compiler. In a checkout, as npm run setup.'],
  run: async (_args, io) => (await import('./setup.js')).setup(io),
};

/** Every command, in the order of the help. */
export const COMMANDS: readonly Command[] = [
  setup,
  doctor,
  smallTest,
  importCommand,
  clean,
  split,
  reward,
  trainReward,
  train,
  generate,
  evaluate,
  figures,
  logprobs,
  tokenize,
  merge,
  bench,
  lab,
];
