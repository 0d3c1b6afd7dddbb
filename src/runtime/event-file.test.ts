import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../../test/cli';
import { DataError } from './errors';
import { crc32c, EventFile } from './event-file';
import { packageRoot } from './machine';

/** What TensorBoard finds in a directory. */
interface Accumulated {
  scalars: Record<string, [step: number, value: number | string][]>;
  texts: Record<string, [step: number, text: string][]>;
  version: number;
}

/** TensorBoard's own reader. A value that is not finite comes as its name. */
const readerProgram = `
import json, math, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
number = lambda x: x if math.isfinite(x) else str(x)
def read(directory):
    accumulator = EventAccumulator(directory, size_guidance={'scalars': 0, 'tensors': 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    assert all(accumulator.SummaryMetadata(t).plugin_data.plugin_name == 'text' for t in tags['tensors'])
    return {
        'scalars': {t: [[e.step, number(e.value)] for e in accumulator.Scalars(t)] for t in tags['scalars']},
        'texts': {t: [[e.step, e.tensor_proto.string_val[0].decode()] for e in accumulator.Tensors(t)] for t in tags['tensors']},
        'version': accumulator.file_version}
print(json.dumps([read(directory) for directory in sys.argv[1:]]))
`;

function tensorBoardReads(...directories: string[]): Accumulated[] {
  const python = join(packageRoot, '.venv', 'bin', 'python');
  const result = spawnSync(python, ['-c', readerProgram, ...directories], { encoding: 'utf8' });
  expect(result.status, result.stderr).toBe(0);
  return JSON.parse(result.stdout) as Accumulated[];
}

const onlyFile = (directory: string): string => {
  const names = readdirSync(directory);
  expect(names).toHaveLength(1);
  return join(directory, names[0]);
};

/** Bit by bit, the definition. */
function slowCrc32c(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes)
    for (let bit = 0; bit < 8; bit++) {
      const out = (crc ^ (byte >>> bit)) & 1;
      crc = (crc >>> 1) ^ (out === 1 ? 0x82f63b78 : 0);
    }
  return ~crc >>> 0;
}

/** Undoes the mask of TFRecord. */
function unmasked(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated << 15) | (rotated >>> 17)) >>> 0;
}

/** The records of a file, each checked against its checksums and lengths. */
function records(bytes: Buffer): Buffer[] {
  const found: Buffer[] = [];
  let rest = bytes;
  while (rest.length > 0) {
    const length = Number(rest.readBigUInt64LE(0));
    expect(unmasked(rest.readUInt32LE(8))).toBe(slowCrc32c(rest.subarray(0, 8)));
    const data = rest.subarray(12, 12 + length);
    expect(data).toHaveLength(length);
    expect(unmasked(rest.readUInt32LE(12 + length))).toBe(slowCrc32c(data));
    found.push(data);
    rest = rest.subarray(16 + length);
  }
  return found;
}

describe('crc32c', () => {
  it('gives the values of RFC 3720, B.4', () => {
    const ascending = Uint8Array.from({ length: 32 }, (_, i) => i);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(ascending)).toBe(0x46dd794e);
    expect(crc32c(ascending.slice().reverse())).toBe(0x113fdb5c);
    const read = '01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000 00000000'; // prettier-ignore
    expect(crc32c(Buffer.from(read.replaceAll(' ', ''), 'hex'))).toBe(0xd9963a56);
  });
});

describe('an event file', () => {
  it('is read back by TensorBoard, also after it was cut back and continued', async () => {
    const directory = temporaryDirectory();
    const markdown = '| tweet | reply |\n|--|--|\n| Größe 🙂 | *so* `it` goes |';
    const first = await EventFile.open(directory);
    first.scalars(0, { 'eval/reward': 0.25 });
    first.scalars(1, { 'train/total_loss': -0.125, 'train/kl_penalty': 0, 'system/rss_bytes': 607424512 });
    first.text(1, 'samples/one', markdown);
    const { size } = first;
    first.scalars(2, { 'train/total_loss': 99, lost: 1 });
    first.text(2, 'samples/one', 'lost');
    first.close();
    const before = temporaryDirectory();
    copyFileSync(first.path, join(before, basename(first.path)));

    const second = await EventFile.open(directory, size);
    expect(second.size).toBe(size);
    second.scalars(2, { 'train/total_loss': 0.1, 'train/kl_penalty': NaN });
    second.scalars(3_000_000_000, { 'train/total_loss': -Infinity });
    second.text(2, 'samples/one', '');
    second.close();
    expect(onlyFile(directory)).toMatch(/events\.out\.tfevents\.\d{10}\./);
    const [uncut, continued] = tensorBoardReads(before, directory);
    expect(uncut.scalars['train/total_loss']).toEqual([[1, -0.125], [2, 99]]); // prettier-ignore
    expect(uncut.texts['samples/one']).toEqual([[1, markdown], [2, 'lost']]); // prettier-ignore
    expect(continued).toEqual({
      version: 2,
      scalars: {
        'eval/reward': [[0, 0.25]],
        'train/total_loss': [[1, -0.125], [2, Math.fround(0.1)], [3_000_000_000, '-inf']], // prettier-ignore
        'train/kl_penalty': [[1, 0], [2, 'nan']], // prettier-ignore
        'system/rss_bytes': [[1, 607424512]],
      },
      texts: { 'samples/one': [[1, markdown], [2, '']] }, // prettier-ignore
    });
  });

  it('consists of whole records whose checksums hold, whatever is written and wherever it is cut', async () => {
    const scalars = fc.record({
      step: fc.nat(),
      values: fc.dictionary(fc.string(), fc.float(), { minKeys: 1, maxKeys: 5 }),
    });
    const text = fc.record({ step: fc.nat(), tag: fc.string(), markdown: fc.string({ unit: 'grapheme' }) });
    const calls = fc.array(fc.oneof(scalars, text), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(calls, fc.nat(), async (written, at) => {
        const directory = temporaryDirectory();
        const file = await EventFile.open(directory);
        const sizes = [file.size];
        for (const call of written) {
          if ('values' in call) file.scalars(call.step, call.values);
          else file.text(call.step, call.tag, call.markdown);
          sizes.push(file.size);
        }
        const bytes = readFileSync(file.path);
        expect(bytes).toHaveLength(file.size);
        expect(records(bytes)).toHaveLength(written.length + 1);
        const kept = at % sizes.length;
        file.truncate(sizes[kept]);
        file.scalars(1, { after: 1 });
        file.close();
        const cut = readFileSync(file.path);
        expect(cut.subarray(0, sizes[kept])).toEqual(bytes.subarray(0, sizes[kept]));
        expect(records(cut)).toHaveLength(kept + 2);
      }),
      { numRuns: 60 },
    );
  });

  it('has every call on the disk at once, and writes nothing for no values', async () => {
    const file = await EventFile.open(temporaryDirectory());
    file.scalars(1, { a: 1 });
    expect(records(readFileSync(file.path))).toHaveLength(2);
    file.scalars(2, {});
    file.sync();
    expect(readFileSync(file.path)).toHaveLength(file.size);
    expect(records(readFileSync(file.path))).toHaveLength(2);
    file.close();
  });

  it('continues the newest of several, by the second in its name', async () => {
    const directory = temporaryDirectory();
    for (const seconds of [999, 1001, 1000])
      writeFileSync(join(directory, `events.out.tfevents.${seconds}.a`), '');
    writeFileSync(join(directory, 'notes.txt'), '');
    const file = await EventFile.open(directory);
    expect(file.path).toBe(join(directory, 'events.out.tfevents.1001.a'));
    file.close();
    expect(records(readFileSync(file.path))[0].toString('latin1')).toContain('brain.Event:2');
    expect(readdirSync(directory)).toHaveLength(4);
  });

  it('begins a new file where there is none, also when a place to cut at is given', async () => {
    const file = await EventFile.open(join(temporaryDirectory(), 'run', 'tb'), 12345);
    file.close();
    expect(file.path).toContain(hostname());
    expect(records(readFileSync(file.path))).toHaveLength(1);
  });
});

describe('an event file that is not whole', () => {
  /** A closed file of three records, with the sizes after each. */
  async function written(): Promise<{ directory: string; file: string; sizes: number[] }> {
    const directory = temporaryDirectory();
    const file = await EventFile.open(directory);
    const sizes = [file.size];
    for (const step of [1, 2]) {
      file.scalars(step, { a: step });
      sizes.push(file.size);
    }
    file.close();
    return { directory, file: file.path, sizes };
  }

  it('loses the part of a record that a killed process left, and nothing else', async () => {
    const { directory, file, sizes } = await written();
    const whole = readFileSync(file);
    for (let length = sizes[1]; length < sizes[2]; length++) {
      writeFileSync(file, whole.subarray(0, length));
      const opened = await EventFile.open(directory);
      opened.close();
      expect(opened.size).toBe(sizes[1]);
      expect(readFileSync(file)).toEqual(whole.subarray(0, sizes[1]));
    }
    writeFileSync(file, '');
    (await EventFile.open(directory)).close();
    expect(readFileSync(file)).toHaveLength(sizes[0]);
  });

  it('is refused, untouched, when no record ends at the offset', async () => {
    const { directory, file, sizes } = await written();
    const bytes = readFileSync(file);
    for (const at of [0, 1, sizes[1] - 1, sizes[1] + 1, sizes[2] + 1]) {
      const opening = EventFile.open(directory, at);
      await expect(opening).rejects.toThrow(DataError);
      await expect(opening).rejects.toThrow(`${file}: expected a record that ends at byte ${at}; found 3 whole ones`); // prettier-ignore
    }
    const open = await EventFile.open(directory, sizes[2]);
    expect(() => open.truncate(sizes[2] + 7)).toThrow(DataError);
    open.close();
    expect(readFileSync(file)).toEqual(bytes);
  });

  it('is refused, untouched, when a checksum before the offset differs, and cut when one behind it does', async () => {
    const { directory, file, sizes } = await written();
    const whole = readFileSync(file);
    for (let at = sizes[1]; at < sizes[2]; at++) {
      const damaged = Buffer.from(whole);
      damaged[at] ^= 4;
      writeFileSync(file, damaged);
      await expect(EventFile.open(directory)).rejects.toThrow(
        /2 whole ones .*, then one whose checksum differs/,
      );
      await expect(EventFile.open(directory, sizes[2])).rejects.toThrow(DataError);
      expect(readFileSync(file)).toEqual(damaged);
      (await EventFile.open(directory, sizes[1])).close();
      expect(readFileSync(file)).toEqual(whole.subarray(0, sizes[1]));
    }
  });

  it('is cut back after a power failure left zeros at its end', async () => {
    const { directory, file, sizes } = await written();
    appendFileSync(file, Buffer.alloc(4096));
    const opened = await EventFile.open(directory, sizes[2]);
    opened.close();
    expect(readFileSync(file)).toHaveLength(sizes[2]);
    truncateSync(file, sizes[0]);
    await expect(EventFile.open(directory, sizes[2])).rejects.toThrow(/found 1 whole ones/);
  });

  it.skipIf(process.platform !== 'linux')(
    'ends at a whole record when the disk takes only a part of the next one',
    async () => {
      const { directory, file, sizes } = await written();
      const opened = await EventFile.open(directory, sizes[2]);
      const prlimit = (...args: string[]): string => {
        const result = spawnSync('prlimit', ['--pid', String(process.pid), ...args], { encoding: 'utf8' });
        expect(result.status, result.stderr).toBe(0);
        return result.stdout.trim();
      };
      const old = prlimit('--fsize', '--noheadings', '--output=SOFT');
      prlimit(`--fsize=${sizes[2] + 20}:`);
      try {
        expect(() => opened.scalars(3, { a: 3 })).toThrow(`${file}: cannot be written`);
        expect(readFileSync(file)).toHaveLength(sizes[2]);
      } finally {
        prlimit(`--fsize=${old}:`);
      }
      opened.scalars(3, { a: 3 });
      opened.close();
      expect(records(readFileSync(file))).toHaveLength(4);
    },
  );
});
