// Outputs that cannot be written: a file where a directory is needed and the other way round, devices, names that are too long.
// Tries are commands. `refused`: in one clear line.
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { golden } from './library.mjs';
import { judgeCommand } from './outcome.mjs';
import { emptyCounts, jsonLines, runProgram, trainArgs, writeExperiment } from './runs.mjs';

/** A directory in which things stand that are not what a run needs there. */
function occupied(directory, name, entries) {
  const place = path.join(directory, name);
  mkdirSync(place, { recursive: true });
  for (const [entry, kind] of Object.entries(entries)) {
    if (kind === 'directory') mkdirSync(path.join(place, entry, 'inner'), { recursive: true });
    else writeFileSync(path.join(place, entry), 'in the way');
  }
  return place;
}

/** What a run writes, each with the wrong thing in its place. */
const IN_THE_WAY = {
  metrics: { 'metrics.jsonl': 'directory' },
  samples: { 'samples.jsonl': 'directory' },
  log: { 'run.log': 'directory' },
  config: { 'config.resolved.yaml': 'directory' },
  events: { tb: 'file' },
  pid: { 'run.pid': 'directory' },
  adapter: { 'adapter_model.safetensors': 'directory' },
  arguments: { 'training_args.json': 'directory' },
  state: { 'trainer_state.json': 'directory' },
};

function placesOf(directory) {
  const file = path.join(directory, 'file');
  writeFileSync(file, 'a file');
  symlinkSync('loop', path.join(directory, 'loop'));
  symlinkSync(path.join(directory, 'nowhere', 'deep'), path.join(directory, 'dangling'));
  const names = ['loop', 'dangling', 'n'.repeat(300)].map((name) => path.join(directory, name));
  return [file, path.join(file, 'inner'), '/dev/null', '/dev/full', '/proc/campaign', ...names];
}

function commandsOf(directory) {
  const config = writeExperiment(directory, 'sft', { steps: 2 });
  const input = path.join(directory, 'train.jsonl');
  const likes = Array.from({ length: 40 }, (_, i) => ({
    tweet_id: `t${i}`,
    tweet: `tea ${i}`,
    reply: `yes ${i}`,
    reply_likes: i,
  }));
  const many = path.join(directory, 'many.jsonl');
  writeFileSync(many, jsonLines(likes));
  const places = placesOf(directory);
  const model = golden('tiny-qwen3', 'untied-f32');
  const replies = path.join(directory, 'replies.jsonl');
  writeFileSync(replies, jsonLines([{ tweet_id: 't', tweet: 'tea?', generations: ['yes', 'no'] }]));
  const toPlaces = (args) => places.map((place) => [...args, '--output', place]);
  return [
    ...places.map((place) => trainArgs(config, place)),
    ...Object.entries(IN_THE_WAY).map(([name, entries]) =>
      trainArgs(config, occupied(directory, name, entries)),
    ),
    ...toPlaces(['clean', '--input', input, '--keep-near-duplicates', '--quiet']),
    ['clean', '--input', input, '--keep-near-duplicates', '--quiet', '--output', directory],
    ...toPlaces(['split', '--input', many, '--quiet']),
    ...toPlaces(['merge', '--model', model, '--adapter', golden('lora', 'adapter'), '--quiet']),
    ...toPlaces(['evaluate', '--replies', `a=${replies}`, '--k', '1', '--quiet']),
    ...toPlaces(['train-reward', '--input', many, '--quiet']),
    trainArgs(directory, path.join(directory, 'other')),
    trainArgs('/dev/null', path.join(directory, 'other')),
    [...trainArgs(config, path.join(directory, 'other')), '--set', `data.train=${directory}`],
  ];
}

export async function run({ small, directory, progress, note, fail }) {
  const all = commandsOf(directory);
  const commands = small ? all.filter((_, i) => i % 12 === 8) : all;
  const counts = emptyCounts();
  for (const [number, args] of commands.entries()) {
    const result = await runProgram(args, { limit: 40_000 });
    const { kind, why } = result.hung ? { kind: 'hangs', why: 'no end' } : judgeCommand(result);
    // What cannot be written must not seem to have been.
    const isWrong = kind === 'accepted';
    counts[isWrong ? 'wrong' : kind]++;
    if (isWrong || why !== undefined)
      fail(number, isWrong ? 'wrong' : kind, `${args.join(' ')}: ${why ?? 'exit code 0'}`);
    progress(number + 1, commands.length);
  }
  note(`${commands.length} commands`);
  return { tries: commands.length, ...counts };
}
