// JupyterLab as a person uses it: opens notebook 01 in a headless browser, runs it in small mode, sees the chart move while
// the cell runs, interrupts a second run, finds the state kept and the run resumed. node scripts/test-browser.mjs [SCREENSHOTS]
// Needs the set-up and a browser: Chrome or Chromium of the system, the one in GRPOLAB_CHROME, or npm's.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const { launchBrowser } = require('../dist/figures/browser.js');
const screenshots = process.argv[2] ?? fs.mkdtempSync(path.join(os.tmpdir(), 'grpolab-browser-'));
const TIMEOUT_MS = 120_000;

let [passed, failed] = [0, 0];
function check(name, isTrue, detail = '') {
  if (isTrue) passed++;
  else failed++;
  console.log(`${isTrue ? 'ok  ' : 'FAIL'} ${name}${detail === '' ? '' : `: ${detail}`}`);
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** `grpolab lab`, as `npm run lab` starts it. */
async function startLab(token) {
  const port = await freePort();
  const options = ['--no-browser', `--ServerApp.port=${port}`, `--IdentityProvider.token=${token}`];
  // Settings, opened tabs and trust of whoever runs this stay as they are.
  const own = fs.mkdtempSync(path.join(os.tmpdir(), 'grpolab-jupyter-'));
  const directories = {
    JUPYTER_CONFIG_DIR: path.join(own, 'config'),
    JUPYTER_DATA_DIR: path.join(own, 'data'),
  };
  const lab = spawn(process.execPath, [path.join(root, 'bin/grpolab.mjs'), 'lab', ...options], {
    cwd: root,
    env: { ...process.env, ...directories, GRPOLAB_SMALL: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  lab.stderr.on('data', (text) => (log += text));
  const url = `http://127.0.0.1:${port}`;
  for (const end = Date.now() + 60_000; ; await sleep(200)) {
    const answer = await fetch(`${url}/api/status?token=${token}`).catch(() => undefined);
    if (answer?.ok) return { lab, url, own, readLog: () => log };
    if (Date.now() > end || lab.exitCode !== null) throw new Error(`JupyterLab did not start:\n${log}`);
  }
}

/** What can be done with an open notebook. */
class NotebookPage {
  constructor(page) {
    this.page = page;
  }

  async open(url, token, file) {
    const { page } = this;
    await page.goto(`${url}/lab/tree/${file}?token=${token}&reset`, { waitUntil: 'domcontentloaded' });
    await page.waitForSelector('.jp-Notebook .jp-CodeCell', { timeout: TIMEOUT_MS });
    // "Run All" before the kernel is idle is lost.
    await this.waitForIdle();
  }

  async waitForIdle() {
    await this.page.waitForFunction(
      () => /\(grpolab\) \| Idle/.test(document.querySelector('#jp-main-statusbar')?.textContent ?? ''),
      undefined,
      { timeout: TIMEOUT_MS },
    );
  }

  async menu(name, item) {
    await this.page.click(`.lm-MenuBar-itemLabel:text-is("${name}")`);
    await this.page.click(`.lm-Menu-itemLabel:text-is("${item}")`);
  }

  /** Adds a cell at the end, types code and runs it. @returns its index among the code cells */
  async addCell(code) {
    const { page } = this;
    const cells = await page.locator('.jp-Notebook .jp-CodeCell').count();
    const last = page.locator('.jp-Notebook .jp-Cell').last();
    await last.scrollIntoViewIfNeeded();
    await last.locator('.jp-InputPrompt').click();
    await page.keyboard.press('Escape');
    await page.keyboard.press('b');
    await page.keyboard.press('Enter');
    await page.keyboard.insertText(code);
    await page.keyboard.press('Control+Enter');
    return cells;
  }

  /** @returns prompt, text and kinds of output of each code cell */
  cells() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map((cell) => ({
        prompt: cell.querySelector('.jp-InputPrompt')?.textContent ?? '',
        text: cell.querySelector('.jp-OutputArea')?.textContent ?? '',
        plots: cell.querySelectorAll('.js-plotly-plot').length,
        chart: [...cell.querySelectorAll('img[src^="data:image/svg+xml"]')].map((image) =>
          decodeURIComponent(image.getAttribute('src') ?? ''),
        )[0],
      })),
    );
  }

  /** Looks at the cells until `done` is true of them. @throws after the timeout */
  async watch(what, done) {
    for (const end = Date.now() + TIMEOUT_MS; ; await sleep(100)) {
      const cells = await this.cells();
      if (done(cells)) return cells;
      if (Date.now() <= end) continue;
      await this.shot('timeout');
      throw new Error(`waited ${TIMEOUT_MS / 1000} s for ${what}`);
    }
  }

  async shot(name) {
    await this.page.screenshot({ path: path.join(screenshots, `${name}.png`) });
  }
}

const stepOf = (chart) => /step (\d+)\/\d+/.exec(chart ?? '')?.[1];
const isBusy = ({ prompt }) => prompt.includes('*');

async function runAll(notebook) {
  const begin = Date.now();
  await notebook.page.click('.jp-Notebook .jp-CodeCell .jp-InputPrompt >> nth=0');
  await notebook.menu('Run', 'Run All Cells');
  const steps = new Set();
  const bars = new Set();
  const cells = await notebook.watch('all cells to end', (all) => {
    // Of the cell that runs: the chart moves before it is done.
    for (const cell of all.filter(isBusy)) {
      const step = stepOf(cell.chart);
      if (step !== undefined && cell.chart.includes('GRPO')) steps.add(step);
      const bar = /evaluate \w+ +(\d+)%/.exec(cell.text)?.[1];
      if (bar !== undefined) bars.add(bar);
    }
    if (steps.size === 4 && !notebook.isShot) {
      notebook.isShot = true;
      void notebook.page
        .locator('img[src^="data:image/svg+xml"]')
        .last()
        .scrollIntoViewIfNeeded()
        .then(() => notebook.shot('01-chart-while-running'))
        .catch(() => {});
    }
    return (
      all.every(({ prompt }) => /\[\d+\]/.test(prompt)) || all.some(({ text }) => text.includes('Error'))
    );
  });
  check(
    'every cell ran',
    cells.every(({ prompt }) => /\[\d+\]/.test(prompt)),
    `${Date.now() - begin} ms`,
  );
  check('no cell failed', !cells.some(({ text }) => /Error/.test(text)));
  check('the chart moved while its cell ran', steps.size >= 4, `steps seen: ${[...steps].join(', ')}`);
  check('a progress bar moved', bars.size >= 3, `${[...bars].join(', ')} %`);
  check('the ended runs are interactive figures', cells.filter(({ plots }) => plots > 0).length >= 3);
  check(
    'the criteria are a table',
    cells.some(({ text }) => text.includes('Success criteria')),
  );
}

async function interruptAndResume(notebook) {
  const at = await notebook.addCell(
    "const rerun = await notebook.trainSmallTest('grpo', test, { again: true });",
  );
  await notebook.watch('the second run to draw', (all) => Number(stepOf(all[at]?.chart)) >= 2);
  await notebook.page.click('.jp-ToolbarButtonComponent[data-command="notebook:interrupt-kernel"]');
  const stopped = await notebook.watch('the run to stop', (all) => !isBusy(all[at]));
  await notebook.shot('02-interrupted');
  check(
    'an interrupt stops the run and says where it is saved',
    /Interrupted: stopped after step \d+; everything is saved/.test(stopped[at].text),
  );
  const kept = await notebook.addCell('[sft.steps, test.prompts.length]');
  const values = await notebook.watch('the state', (all) => all[kept] && !isBusy(all[kept]));
  check('the variables are kept', /\[ \d+, 160 \]/.test(values[kept].text), values[kept].text.trim());
  const again = await notebook.addCell("const resumed = await notebook.trainSmallTest('grpo', test);");
  const seen = new Set();
  const ended = await notebook.watch('the resumed run to end', (all) => {
    if (/resumed after step \d+/.test(all[again]?.chart ?? '')) seen.add('resumed');
    return all[again] !== undefined && /\[\d+\]/.test(all[again].prompt);
  });
  await notebook.page.locator('.jp-Notebook .jp-CodeCell').last().scrollIntoViewIfNeeded();
  await sleep(500);
  await notebook.shot('03-resumed');
  check('the next cell resumes it', seen.has('resumed') && ended[again].plots === 1);
}

async function main() {
  fs.mkdirSync(screenshots, { recursive: true });
  fs.rmSync(path.join(root, 'runs/small-mode'), { recursive: true, force: true });
  const launched = await launchBrowser();
  if (launched.browser === undefined) throw new Error(launched.reason);
  const token = `t${Math.random().toString(36).slice(2)}`;
  const { lab, url, own, readLog } = await startLab(token);
  try {
    const answer = await fetch(`${url}/api/kernelspecs`).then(({ status }) => status);
    check('without the token nothing is served', answer === 403, `status ${answer}`);
    const specs = await fetch(`${url}/api/kernelspecs?token=${token}`).then((reply) => reply.json());
    check('the default kernel is the project’s', specs.default === 'grpolab', specs.default);
    const context = await launched.browser.newContext({ viewport: { width: 1400, height: 1300 } });
    const page = await context.newPage();
    const strangers = new Set();
    page.on('request', (request) => {
      const { hostname, origin } = new URL(request.url());
      if (!['127.0.0.1', 'localhost', ''].includes(hostname)) strangers.add(origin);
    });
    const notebook = new NotebookPage(page);
    await notebook.open(url, token, '01-small-test.ipynb');
    await runAll(notebook);
    await interruptAndResume(notebook);
    check('the page asked no other host', strangers.size === 0, [...strangers].join(' '));
  } catch (error) {
    console.error(readLog().split('\n').slice(-20).join('\n'));
    throw error;
  } finally {
    await launched.browser.close();
    lab.kill('SIGTERM');
    if (lab.exitCode === null) await once(lab, 'exit');
    fs.rmSync(own, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  check('the test ran to its end', false, error.message);
}
console.log(`screenshots: ${screenshots}`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
