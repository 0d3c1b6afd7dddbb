// Fake keys in the environment, used against a server on this machine that repeats them in its errors: no file that a command
// writes, and nothing that it prints, may hold one. Tries are files and outputs that were looked through.
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { golden } from './library.mjs';
import { isUnexpected } from './outcome.mjs';
import { emptyCounts, jsonLines, runProgram, trainArgs, writeExperiment } from './runs.mjs';

const NAMES = [
  'OPENAI_API_KEY',
  'HF_TOKEN',
  'HUGGING_FACE_HUB_TOKEN',
  'TINKER_API_KEY',
  'JUDGE_KEY',
  'GITHUB_TOKEN',
];
NAMES.push('AWS_SECRET_ACCESS_KEY', 'JUPYTER_TOKEN', 'ANTHROPIC_API_KEY');
/** Every key holds this, so that a search for it finds all, encoded or not. */
const MARK = 'campaignSecret7f3a91';
const KEYS = Object.fromEntries(NAMES.map((name, i) => [name, `hf_${MARK}${name.replaceAll('_', '')}${i}`]));
const NEEDLES = [MARK, ...Object.values(KEYS).map((key) => Buffer.from(key).toString('base64').slice(4, -4))];
NEEDLES.push(...Object.values(KEYS).map((key) => Buffer.from(key).toString('hex')));

const GRADES = { engagement: 5, relevance: 6, creativity: 7, naturalness: 8 };
/** Grades of one reply, and of two, in one answer. */
const ANSWER = JSON.stringify({ ...GRADES, first: GRADES, second: GRADES });

/** Answers chats; below /refuse and for anything else it repeats the key in an error. */
function startServer() {
  const seen = new Set();
  const server = createServer((request, response) => {
    const key = request.headers.authorization ?? request.headers['x-api-key'] ?? '';
    if (key.includes(MARK)) seen.add(request.url.split('/')[1]);
    request.resume().on('end', () => {
      const isChat = request.url.startsWith('/v1/chat');
      const message = { role: 'assistant', content: ANSWER };
      const answer = {
        id: 'c',
        object: 'chat.completion',
        created: 0,
        model: 'm',
        choices: [{ index: 0, message, finish_reason: 'stop' }],
      };
      response.writeHead(isChat ? 200 : 401, { 'content-type': 'application/json' });
      response.end(JSON.stringify(isChat ? answer : { error: { message: `wrong key ${key}`, code: key } }));
    });
  });
  return new Promise((done) =>
    server.listen(0, '127.0.0.1', () =>
      done({ server, seen, url: `http://127.0.0.1:${server.address().port}` }),
    ),
  );
}

function judgeFile(directory, name, url, key) {
  const file = path.join(directory, `${name}.yaml`);
  const cache = path.join(directory, 'cache', name);
  writeFileSync(
    file,
    `type: judge\nbase_url: ${url}\nmodel: m\napi_key_env: ${key}\nmax_retries: 1\ncache_directory: ${cache}\n`,
  );
  return file;
}

/** A training without keys, one with a judge as its reward, and one on a server. */
function trainings(directory, url, judge) {
  const sft = writeExperiment(path.join(directory, 'sft'), 'sft', { steps: 2 });
  const grpo = writeExperiment(path.join(directory, 'grpo'), 'grpo', {
    steps: 2,
    more: `reward: ${judge}\n`,
  });
  const tinker = path.join(directory, 'tinker.yaml');
  writeFileSync(
    tinker,
    `method: sft
model: ${golden('tiny-qwen3', 'tied-f32')}
data: { train: ${directory}/sft/train.jsonl }
policy: { type: tinker, base_url: ${url}, api_key_env: TINKER_API_KEY, timeout_seconds: 5 }
`,
  );
  const configs = { sft, grpo, tinker };
  return Object.entries(configs).map(([name, config]) =>
    trainArgs(config, path.join(directory, 'out', name)),
  );
}

/** Evaluations of a model behind the server, alone and judged beside one that runs here. */
function evaluations(directory, url, judges) {
  const models = path.join(directory, 'models.yaml');
  writeFileSync(
    models,
    `models:\n  served: { base_url: ${url}/v1, model: m, api_key_env: ANTHROPIC_API_KEY }\n`,
  );
  const data = ['--test-data', path.join(directory, 'sft', 'train.jsonl'), '--max-tweets', '2'];
  const args = ['evaluate', ...data, '--n', '2', '--k', '1', '--quiet', '--config', models];
  const here = ['--models', `here=${golden('tiny-qwen3', 'tied-f32')}`, '--max-new-tokens', '4'];
  const outputs = judges.map((_, i) => path.join(directory, 'out', `judged-${i}`));
  return [
    [...args, '--output', path.join(directory, 'out', 'evaluation')],
    ...judges.map((judge, i) => [...args, ...here, '--judge', judge, '--output', outputs[i]]),
  ];
}

/** Commands that train, score, evaluate and download, most of them with a key in use. */
function commandsOf(directory, url) {
  const judge = judgeFile(directory, 'judge', `${url}/v1`, 'OPENAI_API_KEY');
  const refused = judgeFile(directory, 'refused', `${url}/refuse`, 'JUDGE_KEY');
  const ids = path.join(directory, 'ids.jsonl');
  writeFileSync(ids, jsonLines([{ token_ids: [1, 2, 3] }]));
  const input = path.join(directory, 'sft', 'train.jsonl');
  return [
    ...trainings(directory, url, judge),
    ['reward', '--input', input, '--reward', judge, '--quiet'],
    ['reward', '--input', input, '--reward', refused, '--debug', '--quiet'],
    ...evaluations(directory, url, [judge, refused]),
    ['logprobs', '--model', 'someone/private-model', '--input', ids, '--debug', '--quiet'],
    ['doctor', '--model', golden('tiny-qwen3', 'tied-f32')],
  ];
}

function filesUnder(place) {
  if (!existsSync(place)) return [];
  return readdirSync(place, { recursive: true })
    .map((name) => path.join(place, name))
    .filter((file) => statSync(file).isFile());
}

const holdsKey = (bytes) => NEEDLES.some((needle) => bytes.includes(needle));

export async function run({ directory, progress, note, fail }) {
  const { server, seen, url } = await startServer();
  const counts = emptyCounts();
  const home = path.join(directory, 'home');
  mkdirSync(home);
  const environment = {
    ...KEYS,
    HOME: home,
    HF_HOME: path.join(home, 'hub'),
    HF_ENDPOINT: `${url}/hub`,
    XDG_CACHE_HOME: path.join(home, 'cache'),
  };
  const look = (number, where, bytes) => {
    counts[holdsKey(bytes) ? 'wrong' : 'accepted']++;
    if (holdsKey(bytes)) fail(number, 'wrong', `a key in ${where}`);
  };
  const commands = commandsOf(directory, url);
  const codes = [];
  for (const [number, args] of commands.entries()) {
    const result = await runProgram(args, { environment });
    codes.push(result.code ?? result.signal);
    if (result.signal !== null || isUnexpected(result.stderr)) {
      counts.crashes++;
      fail(number, 'crashes', `${args.join(' ')}: ${result.signal ?? result.stderr.slice(-500)}`);
    }
    look(
      number,
      `the output of ${args[0]}: ${result.stdout}${result.stderr}`,
      Buffer.from(result.stdout + result.stderr),
    );
    progress(number + 1, commands.length + 1);
  }
  server.close();
  const files = filesUnder(directory);
  files.forEach((file, i) => look(commands.length + i, file, readFileSync(file)));
  const tries = commands.length + files.length;
  note(
    `${commands.length} commands (exit codes ${codes.join(' ')}), ${files.length} files; keys reached the server below ${[...seen].sort().join(', ')}`,
  );
  if (!['v1', 'refuse', 'hub'].every((place) => seen.has(place))) {
    counts.crashes++;
    fail(tries, 'crashes', `a key that should have been sent was not: only ${[...seen].join()}`);
  }
  return { tries, ...counts };
}
