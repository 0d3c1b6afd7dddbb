/**
 * Finds and starts the headless browser that draws figures: the one named by GRPOLAB_CHROME, else the system's
 * Chrome or Chromium, else the one that npm's @sparticuz/chromium carries.
 */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Browser } from 'playwright-core';
import { messageOf } from '../runtime/errors';
import { npmChromium, npmFonts } from './npm-chromium';

/** A program to start, and what it needs in its environment. */
export interface BrowserCommand {
  readonly executable: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** A place where a browser may be. `command` throws when it is not there. */
interface BrowserSource {
  readonly name: string;
  readonly command: () => Promise<BrowserCommand>;
}

/** A running browser, or in one line why there is none and what to install. */
export type LaunchResult =
  | { readonly browser: Browser; readonly name: string; readonly notices: readonly string[] }
  | { readonly browser: undefined; readonly reason: string };

const SYSTEM_BROWSERS = ['google-chrome', 'google-chrome-stable', 'chromium', 'chromium-browser'];

const ADVICE =
  'Install Chrome or Chromium (Debian: apt-get install chromium) or run `npm install --include=dev`, ' +
  'or set GRPOLAB_CHROME to a browser (GRPOLAB_CHROME=npm takes the one from npm).';

/** No graphics card, no network traffic of its own, no first-run pages; glyphs at their exact widths. */
const FLAGS = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--font-render-hinting=none',
  '--force-color-profile=srgb',
];

function programFile(path: string): BrowserSource {
  return {
    name: path,
    command: async () => {
      if (!existsSync(path)) throw new Error('there is no such file');
      return { executable: path, environment: await npmFonts() };
    },
  };
}

const NPM_SOURCE: BrowserSource = { name: '@sparticuz/chromium', command: npmChromium };

function systemSources(): BrowserSource[] {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  const paths = SYSTEM_BROWSERS.flatMap((program) => folders.map((folder) => join(folder, program)));
  return paths.filter((path) => existsSync(path)).map(programFile);
}

/** Where to look, in order. A browser that the user names is the only one tried. */
function browserSources(): BrowserSource[] {
  const wanted = process.env.GRPOLAB_CHROME ?? '';
  if (wanted === 'npm') return [NPM_SOURCE];
  if (wanted !== '') return [programFile(wanted)];
  return [...systemSources(), NPM_SOURCE];
}

/**
 * Playwright gives the browser a fresh profile folder, removes it at `close`, talks over a pipe (so the browser ends
 * with this process, however that ends) and leaves the sandbox off: as root, in containers and on systems without
 * user namespaces it could not start, and the only page it ever opens is our own figure, offline.
 */
async function start(command: BrowserCommand): Promise<Browser> {
  const { chromium } = await import('playwright-core');
  const inherited = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined,
  );
  return chromium.launch({
    executablePath: command.executable,
    env: { ...Object.fromEntries(inherited), ...command.environment },
    args: FLAGS,
    // Ctrl-C belongs to the run, which saves its state first.
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    timeout: 60_000,
  });
}

/** Why a start failed, in one line: what the browser itself printed, else what the launcher says. */
function startFailure(error: unknown): string {
  const message = messageOf(error);
  const printed = /^\[pid=\d+\]\[err\] (.+)$/m.exec(message);
  return (printed?.[1] ?? message.split('\n')[0]).trim();
}

/**
 * Starts the first browser that works. One that was found but did not start is named in `notices`.
 * The caller closes the browser.
 */
export async function launchBrowser(): Promise<LaunchResult> {
  const failures: string[] = [];
  for (const source of browserSources()) {
    try {
      const browser = await start(await source.command());
      const notices = failures.map(
        (failure) => `A browser did not start and another took its place: ${failure}`,
      );
      return { browser, name: `${source.name} ${browser.version()}`, notices };
    } catch (error) {
      failures.push(`${source.name}: ${startFailure(error)}`);
    }
  }
  return { browser: undefined, reason: `no browser could be started (${failures.join('; ')}). ${ADVICE}` };
}
