// Does the package work where it is installed? Packs it, installs it in an empty project from the registry alone, runs its
// set-up, and uses it there: the typed entry, the command line, a step of training. `npm run test:package`, some minutes.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'grpolab-package-'));
const project = path.join(work, 'project');
let [passed, failed] = [0, 0];

/** Runs a command to its end. @throws  with its output */
function run(command, args, cwd = project) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (status === 0) return stdout;
  throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `exit ${status}`}\n${stdout}${stderr}`);
}

function check(name, work) {
  const begin = Date.now();
  try {
    work();
    passed++;
    console.log(`ok    ${name} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.message}`);
  }
}

function requireThat(condition, text) {
  if (!condition) throw new Error(text);
}

const USE = `import { data, policy, runtime, train } from 'grpolab';
const experiment: train.Experiment = train.parseExperiment({ method: 'sft', data: { train: 'x' } });
const open: (options: policy.LocalPolicyOptions) => policy.LocalPolicy = policy.LocalPolicy.load;
const sum: number = runtime.tf.tidy(() => runtime.tf.sum([1, 2, 3]).dataSync()[0]);
console.log(experiment.training.learning_rate, typeof open, sum, typeof data.splitPhases);
`;

try {
  let tarball = '';
  check('npm pack has the build and what set-up needs, and neither sources nor tests', () => {
    const [{ filename, files, size }] = JSON.parse(
      run('npm', ['pack', '--json', '--pack-destination', work], root),
    );
    tarball = path.join(work, filename);
    const names = files.map((file) => file.path);
    for (const name of [
      'dist/index.js',
      'dist/index.d.ts',
      'bin/grpolab.mjs',
      'scripts/setup.mjs',
      'native/graph.cc',
      'LICENSE',
    ])
      requireThat(names.includes(name), `${name} is not in the package`);
    const odd = names.filter((name) =>
      /^(src|test|notebooks|bench|figures)\/|\.test\.|native\/build/.test(name),
    );
    requireThat(odd.length === 0, `these are in the package: ${odd.slice(0, 5).join(', ')}`);
    requireThat(size < 5e6, `the package has ${size} bytes`);
  });
  check('it installs in an empty project', () => {
    fs.mkdirSync(project);
    fs.writeFileSync(path.join(project, 'package.json'), '{ "name": "project", "private": true }\n');
    run('npm', [
      'install',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      tarball,
      'typescript@5.9.3',
      '@types/node@20',
    ]);
  });
  check('without its set-up it says what to do', () => {
    const output = run('npx', ['grpolab', 'doctor']);
    requireThat(/Run `npx grpolab setup`/.test(output), output);
  });
  check('grpolab setup builds the binding', () => run('npx', ['grpolab', 'setup']));
  check('its typed entry compiles and runs', () => {
    fs.writeFileSync(path.join(project, 'use.ts'), USE);
    const options = [
      '--strict',
      '--module',
      'node16',
      '--moduleResolution',
      'node16',
      '--skipLibCheck',
      'use.ts',
    ];
    run('npx', ['tsc', ...options]);
    const output = run(process.execPath, ['use.js']).trim();
    requireThat(output === '0.0002 function 6 function', output);
  });
  check('it trains', () => {
    const model = path.join(root, 'data/model');
    const own = path.join(project, 'node_modules/grpolab');
    const settings = [
      'training.max_steps=2',
      'data.max_eval_examples=1',
      `data.eval=${own}/data/world/heldout.jsonl`,
    ];
    run('npx', [
      ...['grpolab', 'train', '--config', `${own}/configs/baseline_warmstart_small.yaml`, '--model', model],
      ...['--data', `${own}/data/world/sample.jsonl`, '--output', 'run', '--quiet'],
      ...settings.flatMap((text) => ['--set', text]),
    ]);
    requireThat(fs.existsSync(path.join(project, 'run/adapter_model.safetensors')), 'there is no adapter');
  });
} finally {
  fs.rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
