/**
 * TensorBoard event files, written without TensorFlow's writer: that one cannot continue a file, and a resumed run has to
 * cut it back to what stood there at the checkpoint.
 *
 * A file is a sequence of TFRecords, each `length u64 | masked CRC of length | Event | masked CRC of Event`, little endian.
 * Source: TensorFlow's `record_writer.cc`, `crc32c.h`, `event.proto`, `summary.proto`; CRC32C is RFC 3720, appendix B.4.
 */
import {
  appendFileSync,
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import protobuf from 'protobufjs';
import { DataError } from './errors';
import { ensureDirectory, writeError } from './files';

/** The parts of TensorFlow's messages that are written here. */
const eventType = protobuf
  .parse(
    `syntax = "proto3";
   message Shape {}
   message Tensor { int32 dtype = 1; Shape tensor_shape = 2; repeated bytes string_val = 8; }
   message PluginData { string plugin_name = 1; }
   message Metadata { PluginData plugin_data = 1; int32 data_class = 4; }
   message Value { string tag = 1; Metadata metadata = 9; oneof value { float simple_value = 2; Tensor tensor = 8; } }
   message Summary { repeated Value value = 1; }
   message Event {
     double wall_time = 1;
     int64 step = 2;
     oneof what { string file_version = 3; Summary summary = 5; }
   }`,
    { keepCase: true },
  )
  .root.lookupType('Event');

const FILE_VERSION = 'brain.Event:2';
/** TensorFlow's DT_STRING, and the data class of summaries that are tensors. */
const [DT_STRING, DATA_CLASS_TENSOR] = [7, 2];
/** Bytes around an Event: its length with a checksum before it, its own checksum after it. */
const [HEADER, FOOTER] = [12, 4];

/** Castagnoli's polynomial with its bits reversed: the remainder of every byte. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) remainder = (remainder >>> 1) ^ (remainder & 1 ? 0x82f63b78 : 0);
  return remainder;
});

/** CRC32C (Castagnoli) as an unsigned 32-bit number. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Rotated and shifted, as TFRecord stores it, so that the CRC of data with CRCs inside stays a good one. */
function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function frame(data: Uint8Array): Buffer {
  const record = Buffer.alloc(HEADER + data.length + FOOTER);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
  record.set(data, HEADER);
  record.writeUInt32LE(maskedCrc(data), HEADER + data.length);
  return record;
}

/** What a file holds: where each whole record ends, and whether the bytes after the last one are damaged or just too few. */
function scan(bytes: Buffer): { ends: number[]; damaged: boolean } {
  const ends: number[] = [];
  for (let start = 0; start + HEADER <= bytes.length; start = ends[ends.length - 1]) {
    const lengthBytes = bytes.subarray(start, start + 8);
    if (bytes.readUInt32LE(start + 8) !== maskedCrc(lengthBytes)) return { ends, damaged: true };
    const footer = start + HEADER + Number(lengthBytes.readBigUInt64LE());
    if (footer + FOOTER > bytes.length) break;
    const data = bytes.subarray(start + HEADER, footer);
    if (bytes.readUInt32LE(footer) !== maskedCrc(data)) return { ends, damaged: true };
    ends.push(footer + FOOTER);
  }
  return { ends, damaged: false };
}

const NAME = /^events\.out\.tfevents\.(\d+)\./;

/** The event file of a directory that was begun last. */
function newestName(directory: string): string | undefined {
  const age = (name: string): number => Number(NAME.exec(name)?.[1]);
  const names = readdirSync(directory).filter((name) => NAME.test(name));
  return names.sort((a, b) => age(a) - age(b) || (a < b ? -1 : 1)).at(-1);
}

/**
 * An event file that grows by whole records. Every call has handed its bytes to the system when it returns, so a killed
 * process loses nothing that was reported before; `sync` makes them outlast a power failure.
 */
export class EventFile {
  private constructor(
    readonly path: string,
    private readonly descriptor: number,
    private bytes: number,
  ) {}

  /**
   * Continues the newest event file of a directory, or begins one where there is none. A new run in an old directory has
   * to remove the old file first.
   *
   * @param at  `size` at the checkpoint: what was written after it is cut off. Without it only what follows the last
   *            whole record is: the part of a record that a killed process may leave.
   * @throws DataError  when no record ends at `at`, or without it a checksum differs; the file is then as it was
   */
  static async open(directory: string, at?: number): Promise<EventFile> {
    await ensureDirectory(directory);
    const name = newestName(directory);
    const seconds = Math.floor(Date.now() / 1000);
    const file = path.join(directory, name ?? `events.out.tfevents.${seconds}.${hostname()}.${process.pid}`);
    try {
      const opened = new EventFile(file, openSync(file, 'a'), 0);
      try {
        if (name !== undefined) opened.cut(at);
        if (opened.bytes === 0) opened.append({ file_version: FILE_VERSION });
        return opened;
      } catch (error) {
        opened.close();
        throw error;
      }
    } catch (error) {
      throw writeError(file, error);
    }
  }

  /** Bytes so far, the end of the last record: where to cut on resume. */
  get size(): number {
    return this.bytes;
  }

  /**
   * One point in the chart of every tag, rounded to float32. NaN and infinities are written as they are: TensorBoard
   * marks them in the chart, where a gap would hide the step.
   */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const value = Object.entries(values).map(([tag, number]) => ({ tag, simple_value: number }));
    if (value.length > 0) this.append({ step, summary: { value } });
  }

  /** A text for TensorBoard's Text tab, which renders Markdown. */
  text(step: number, tag: string, markdown: string): void {
    const metadata = { plugin_data: { plugin_name: 'text' }, data_class: DATA_CLASS_TENSOR };
    const tensor = { dtype: DT_STRING, tensor_shape: {}, string_val: [Buffer.from(markdown)] };
    this.append({ step, summary: { value: [{ tag, metadata, tensor }] } });
  }

  /**
   * Cuts the file back to an earlier `size`. A TensorBoard that has it open keeps showing what it has read, and has to be
   * restarted to follow the file.
   * @throws DataError  when no record ends there; the file is then as it was
   */
  truncate(bytes: number): void {
    this.cut(bytes);
  }

  /** Makes all that was written durable: before a checkpoint that remembers `size`. */
  sync(): void {
    try {
      fsyncSync(this.descriptor);
    } catch (error) {
      throw writeError(this.path, error);
    }
  }

  close(): void {
    closeSync(this.descriptor);
  }

  private cut(at?: number): void {
    const { ends, damaged } = scan(readFileSync(this.path));
    const last = ends.at(-1) ?? 0;
    if (at === undefined ? damaged : !ends.includes(at))
      throw new DataError(
        `${this.path}: expected ${at === undefined ? 'whole records' : `a record that ends at byte ${at}`}; found ${ends.length} ` +
          `whole ones that end at byte ${last}${damaged ? ', then one whose checksum differs' : ''}. Move the file away to go on with a new one.`,
      );
    ftruncateSync(this.descriptor, at ?? last);
    this.bytes = at ?? last;
  }

  private append(event: Record<string, unknown>): void {
    const record = frame(
      eventType.encode(eventType.create({ wall_time: Date.now() / 1000, ...event })).finish(),
    );
    try {
      appendFileSync(this.descriptor, record);
    } catch (error) {
      // A full disk may have taken a part: without it the file stays readable, and the next record starts at a record's end.
      ftruncateSync(this.descriptor, this.bytes);
      throw writeError(this.path, error);
    }
    this.bytes += record.length;
  }
}
