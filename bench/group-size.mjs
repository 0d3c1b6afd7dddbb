// What one more completion a prompt costs: seconds of a GRPO step against G with the prompts kept, in turn, and the line through
// them. Prompts are computed once a group, so the line does not go through the origin: G twice as large costs less than twice.
//   node bench/group-size.mjs --model DIR [--groups 2,4,8,16] [--prompts 2] [--tokens 256,64] [--rounds 3] [--steps 3]
// (models: node bench/random-model.mjs S|M DIR)
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    groups: { type: 'string', default: '2,4,8,16' },
    prompts: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '256,64' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '3' },
  },
});
if (values.model === undefined) {
  console.error('group-size: --model is missing; make one with node bench/random-model.mjs S DIR');
  process.exit(2);
}
const program = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../bin/grpolab.mjs');
const sizes = values.groups.split(',').map(Number);
const [Tp, Tc] = values.tokens.split(',').map(Number);
const seconds = new Map(sizes.map((G) => [G, []]));
for (let round = 0; round < Number(values.rounds); round++)
  for (const G of sizes) {
    const shape = `P=${values.prompts},G=${G},Tp=${Tp},Tc=${Tc}`;
    const argv = [program, 'bench', '--model', values.model, '--shape', shape, '--steps', values.steps];
    const output = execFileSync(process.execPath, [...argv, '--json', '--quiet'], { encoding: 'utf8' });
    seconds.get(G).push(...JSON.parse(output).step.all_s);
  }
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const points = sizes.map((G) => ({ G, s: median(seconds.get(G)) }));
const mean = (pick) => points.reduce((sum, point) => sum + pick(point), 0) / points.length;
const [meanG, meanS] = [mean(({ G }) => G), mean(({ s }) => s)];
const slope = mean(({ G, s }) => (G - meanG) * (s - meanS)) / mean(({ G }) => (G - meanG) ** 2);
for (const { G, s } of points)
  console.log(
    `G=${String(G).padStart(3)}  ${s.toFixed(3)} s (min ${Math.min(...seconds.get(G)).toFixed(3)})`,
  );
console.log(
  `${(1000 * slope).toFixed(1)} ms for one more completion of each of ${values.prompts} prompts, ` +
    `${(1000 * (meanS - slope * meanG)).toFixed(1)} ms at G=0: the prompts and what a step costs anyway`,
);
