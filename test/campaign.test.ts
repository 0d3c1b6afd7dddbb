/** The damaged files of the reliability campaign, a few of each; kills, full disks and bad lines have tests of their own. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

const output = mkdtempSync(join(tmpdir(), 'campaign-'));
afterAll(() => rmSync(output, { recursive: true, force: true }));

const parts = [
  'fuzz-safetensors',
  'fuzz-tokenizer',
  'fuzz-config',
  'fuzz-adapter',
  'fuzz-jsonl',
  'fuzz-yaml',
];

it.each(parts)('%s: each file is read rightly or refused in one clear line', (part) => {
  const args = ['bench/campaign.mjs', part, '--small', '--output', join(output, part)];
  const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect([status, stdout]).toEqual([0, expect.stringContaining(part)]);
});
