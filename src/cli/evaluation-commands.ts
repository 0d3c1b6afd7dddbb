/** The commands that compare models and draw what came of it. */
import type { Command } from './command';
import { EMBEDDING } from './shared-options';

export const evaluate: Command = {
  name: 'evaluate',
  summary: 'models side by side: Pass@k, diversity, quality, tests between every two',
  usage: '[--replies NAME=F]... [--models NAME=MODEL[+ADAPTER]]... [--config F] [--test-data F] [--output D]',
  options: {
    replies: {
      value: 'NAME=F',
      repeatable: true,
      describe: 'replies on file: lines with tweet_id, tweet, generations',
    },
    models: {
      value: 'NAME=M',
      repeatable: true,
      describe: 'MODEL or MODEL+ADAPTER: generates n replies to each test tweet',
    },
    'baseline-lora': {
      value: 'DIR',
      describe: 'adapter of the model "baseline", on the model that it names',
    },
    'grpo-lora': { value: 'DIR', describe: 'adapter of the model "grpo"' },
    model: { value: 'M', describe: 'base model of the two, instead of the one that the adapter names' },
    config: {
      value: 'F',
      describe: 'YAML: models by name, here, behind a server or on file, or lists of them: see below',
    },
    'test-data': {
      value: 'F',
      describe: 'records: tweets to reply to, and the replies of people as references',
    },
    'max-tweets': { value: 'N', describe: 'only so many of its tweets' },
    examples: {
      value: 'F',
      describe: 'records of which a few-shot prompt shows the best; none of a test tweet',
    },
    'skip-invalid': { describe: 'set bad records aside in *.rejected.jsonl with the reason, and go on' },
    n: { value: 'N', default: '10', describe: 'sampled replies a tweet, beside a greedy one' },
    temperature: { value: 'T', default: '0.7', describe: 'of the samples' },
    'top-p': { value: 'P', default: '0.9', describe: 'of the samples' },
    'max-new-tokens': { value: 'N', default: '100', describe: 'tokens of a reply, at most' },
    k: { value: 'K', default: '1,5,10', describe: 'of Pass@k and USQ@k' },
    reward: { value: 'R', default: 'heuristic', describe: 'as in grpolab reward' },
    'min-reward': {
      value: 'R',
      describe: 'that a reply needs to pass, for Pass@k; 0.6, or none where --min-world-quality is given',
    },
    'min-world-quality': {
      value: 'Q,Q',
      describe:
        'the truth that a reply needs to pass, on tweets of the embedded world; Pass@k of others beside',
    },
    judge: {
      value: 'F',
      describe: 'YAML of an LLM judge (configs/rewards/judge.yaml) that compares every two models',
    },
    learned: { value: 'DIR', describe: 'a reward of train-reward: the Engagement row' },
    ...EMBEDDING,
    tokenizer: {
      value: 'T',
      default: 'wordpunct',
      describe: 'of text metrics: wordpunct, treebank or whitespace',
    },
    seed: { value: 'N', default: '42', describe: 'of samples and bootstrap' },
    output: { value: 'D', default: 'runs/evaluation', describe: 'replies and reports' },
    resume: { describe: 'go on with replies that were generated before, with the same settings' },
    json: { describe: 'one JSON object' },
  },
  details: [
    '--config: models: { NAME: { model, adapter, dtype, matmul_precision, shots, seed } };',
    'of a server: { base_url, model, api_key_env }; or { replies }',
    'Writes evaluation.json, .md, .csv, .tex and .html, replies/NAME.jsonl, and beside it with what settings they were drawn.',
    'With --test-data a model that is run here also gives the perplexity of the replies of people.',
    'Models must be on the same tweets.',
    'The tweet is the unit of intervals and tests. World quality is shown for tweets of the embedded world.',
  ],
  run: async (args, io) => (await import('./evaluate.js')).evaluate(args, io),
};

export const figures: Command = {
  name: 'figures',
  summary: 'the six figures of the paper as SVG, PDF, PNG and JSON',
  usage: '[--results data/results] [--output figures] [--only 1,3]',
  options: {
    results: { value: 'D', default: 'data/results', describe: 'what `npm run study -- --publish` wrote' },
    output: { value: 'D', default: 'figures', describe: 'where the files go' },
    only: { value: 'N', describe: 'numbers of the figures to draw' },
    json: { describe: 'one JSON object' },
  },
  run: async (args, io) => (await import('./figures.js')).figures(args, io),
};
