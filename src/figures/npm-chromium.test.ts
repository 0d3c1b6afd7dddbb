import { mkdtempSync, readFileSync, rmSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { unpackTar } from './npm-chromium';

const FOLDER = mkdtempSync(join(tmpdir(), 'grpolab-tar-'));
afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

function entry(name: string, content: string, type = '0'): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write(content.length.toString(8).padStart(11, '0'), 124);
  header.write(type, 156);
  return Buffer.concat([header, Buffer.from(content.padEnd(Math.ceil(content.length / 512) * 512, '\0'))]);
}

describe('unpackTar', () => {
  it('writes the files of an archive, folders made on the way', async () => {
    const archive = Buffer.concat([
      entry('lib/', '', '5'),
      entry('lib/a.so', 'x'.repeat(700)),
      entry('b.conf', 'hello'),
      Buffer.alloc(1024),
    ]);
    await unpackTar(archive, join(FOLDER, 'good'));
    expect(readFileSync(join(FOLDER, 'good/lib/a.so'), 'utf8')).toBe('x'.repeat(700));
    expect(readFileSync(join(FOLDER, 'good/b.conf'), 'utf8')).toBe('hello');
  });

  it('refuses a name that leaves the folder, and an archive cut short', async () => {
    await expect(unpackTar(entry('../evil', 'x'), join(FOLDER, 'inner'))).rejects.toThrow(
      /damaged at "\.\.\/evil"/,
    );
    const cut = entry('a', 'x'.repeat(600)).subarray(0, 900);
    await expect(unpackTar(cut, join(FOLDER, 'inner'))).rejects.toThrow(/damaged at "a"/);
    expect(readdirSync(FOLDER)).toEqual(['good']);
  });
});
