import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { ConfigError, DataError, GrpolabError, NumericError } from '../runtime/errors';
import { makeFigure, readFigure } from './draw';
import { exportFigures } from './export';
import { smallTestFigures } from './small-test';
import type { Figure } from './spec';
import { summariseSplit } from './split-summary';

const ROOT = mkdtempSync(join(tmpdir(), 'grpolab-figures-'));
let folders = 0;

function freshFolder(): string {
  return join(ROOT, String(folders++));
}

afterEach(() => vi.unstubAllEnvs());
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const PHASE = { engagement: [0, 0.1, 0.2, 0.4], replyLength: [12, 40, 80, 120] };
const SPLIT = makeFigure('split', {
  kind: 'split-distributions',
  data: summariseSplit({ phase1: PHASE, phase2: PHASE }),
});
const CHARTS = smallTestFigures({
  curves: {
    sft: [{ step: 1, loss: 2 }],
    grpo: [{ step: 1, reward: 0.5, rewardStd: 0.1, kl: 0, completionLength: 9 }],
  },
  change: {
    measures: [
      { name: 'Reward', before: [0.4, 0.5], after: [0.5, 0.7], difference: 0.15, interval: [0.1, 0.2] },
    ],
  },
});

function bytes(folder: string, file: string): Buffer {
  return readFileSync(join(folder, file));
}

describe('exportFigures with a browser', () => {
  it('writes the same bytes in every run: vector, print image and JSON', async () => {
    const [first, second] = [freshFolder(), freshFolder()];
    const result = await exportFigures([SPLIT, CHARTS[1]], first);
    // Another order: what was drawn before must not show in a figure.
    await exportFigures([CHARTS[1], SPLIT], second);

    expect(result).toMatchObject({ rendered: true, browser: expect.stringMatching(/ \d+\.\d+/) as string });
    const names = ['split', 'before_after'];
    const files = names.flatMap((name) => ['json', 'svg', 'pdf', 'png'].map((format) => `${name}.${format}`));
    expect(readdirSync(first).sort()).toEqual([...files].sort());
    expect(result.files.map((file) => file.slice(first.length + 1)).sort()).toEqual([...files].sort());
    for (const file of files) expect(bytes(first, file).equals(bytes(second, file)), file).toBe(true);

    const png = bytes(first, 'split.png');
    expect(png.readUInt32BE(16)).toBe((SPLIT.spec.width * 300) / 96);
    expect(png.includes('pHYs')).toBe(true);
    expect(bytes(first, 'split.svg').toString()).toContain('Phase 1, SFT (n = 4 replies)');
    expect(bytes(first, 'split.pdf').toString('latin1')).toContain('/CreationDate (D:20000101000000');
  });

  it('draws with the browser from npm alone', async () => {
    vi.stubEnv('GRPOLAB_CHROME', 'npm');
    const folder = freshFolder();
    const result = await exportFigures([SPLIT], folder, { formats: ['svg'] });
    expect(result.browser).toMatch(/^@sparticuz\/chromium \d+/);
    expect(readdirSync(folder).sort()).toEqual(['split.json', 'split.svg']);
  });

  it('refuses attributes that plotly does not know, instead of dropping them', async () => {
    const misspelt: Figure = {
      ...SPLIT,
      spec: { ...SPLIT.spec, data: [{ type: 'scatter', x: [1], y: [1], colour: 'red' }] },
    };
    const attempt = exportFigures([misspelt], freshFolder(), { formats: ['svg'] });
    await expect(attempt).rejects.toThrow(/figure "split" is not a valid plotly figure: .*colour/);
    await expect(attempt).rejects.toBeInstanceOf(GrpolabError);
  });
});

describe('exportFigures without a browser', () => {
  it('writes the JSON and says in one line what to install', async () => {
    vi.stubEnv('GRPOLAB_CHROME', join(ROOT, 'no-such-browser'));
    const folder = freshFolder();
    const result = await exportFigures([SPLIT], folder);
    expect(readdirSync(folder)).toEqual(['split.json']);
    expect(result.rendered).toBe(false);
    expect(result.reason).toMatch(/no-such-browser: there is no such file.*Install Chrome or Chromium/);
    expect(result.reason).not.toContain('\n');
  });

  it('says why a program that is no browser did not start', async () => {
    vi.stubEnv('GRPOLAB_CHROME', process.execPath);
    const result = await exportFigures([SPLIT], freshFolder());
    expect(result).toMatchObject({
      rendered: false,
      reason: expect.stringContaining(process.execPath) as string,
    });
  });

  it('needs none when only the JSON is wanted', async () => {
    vi.stubEnv('GRPOLAB_CHROME', join(ROOT, 'no-such-browser'));
    expect(await exportFigures([SPLIT], freshFolder(), { formats: [] })).toMatchObject({ rendered: true });
  });

  it('refuses names that cannot be file names or would overwrite each other', async () => {
    const folder = freshFolder();
    await expect(exportFigures([{ ...SPLIT, name: '../split' }], folder)).rejects.toThrow(ConfigError);
    await expect(exportFigures([SPLIT, SPLIT], folder)).rejects.toThrow(/two figures are named "split"/);
    expect(existsSync(folder)).toBe(false);
  });

  it('refuses result data with a number that JSON cannot hold', async () => {
    const wrong: Figure = { ...SPLIT, data: { value: Number.NaN } };
    await expect(exportFigures([wrong], freshFolder(), { formats: [] })).rejects.toThrow(NumericError);
  });
});

describe('readFigure', () => {
  it('draws every exported figure again from its JSON alone', async () => {
    const folder = freshFolder();
    await exportFigures([SPLIT, ...CHARTS], folder, { formats: [] });
    for (const figure of [SPLIT, ...CHARTS]) {
      const again = readFigure(join(folder, `${figure.name}.json`));
      expect(again.name).toBe(figure.name);
      expect(JSON.stringify(again.spec)).toBe(JSON.stringify(figure.spec));
    }
  });

  it('refuses other JSON, and names a key that does not belong', () => {
    const path = join(ROOT, 'other.json');
    writeFileSync(path, '{"kind": "training-curves"}');
    expect(() => readFigure(path)).toThrow(DataError);
    const head = { format: 'grpolab-figure', version: 1, name: 'curves', kind: 'training-curves' };
    writeFileSync(path, JSON.stringify({ ...head, data: { stf: [] } }));
    expect(() => readFigure(path)).toThrow(/unknown key "(data\.)?stf"/);
  });
});
