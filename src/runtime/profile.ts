/** Which ops a piece of work spends its time in. */
import protobuf from 'protobufjs';
import { binding } from './tf';

/** All runs of one kind of op. */
export interface OpProfile {
  op: string;
  count: number;
  /** Sum over its runs; two that run side by side count twice. */
  seconds: number;
}

/** The part of TensorFlow's xplane.proto that says what ran when. */
const spaceType = protobuf
  .parse(
    `syntax = "proto3";
   message Event { int64 metadata_id = 1; int64 offset_ps = 2; int64 duration_ps = 3; }
   message Line { string name = 2; repeated Event events = 4; }
   message Metadata { int64 id = 1; string name = 2; string display_name = 4; }
   message Plane { string name = 2; repeated Line lines = 3; map<int64, Metadata> event_metadata = 4; }
   message Space { repeated Plane planes = 1; }`,
    { keepCase: true },
  )
  .root.lookupType('Space');

interface Plane {
  lines?: { events?: { metadata_id?: number; duration_ps?: number }[] }[];
  event_metadata?: Record<string, { id?: number; name?: string }>;
}

/**
 * Runs some work and tells where TensorFlow's time went, the longest first. Profiling itself costs some microseconds an op.
 */
export async function profiled<T>(work: () => Promise<T>): Promise<{ result: T; ops: OpProfile[] }> {
  binding.profileStart();
  let result: T;
  let bytes: Uint8Array;
  try {
    result = await work();
  } finally {
    bytes = binding.profileStop();
  }
  return { result, ops: summary((spaceType.decode(bytes).toJSON() as { planes?: Plane[] }).planes ?? []) };
}

function summary(planes: readonly Plane[]): OpProfile[] {
  const totals = new Map<string, OpProfile>();
  for (const { lines = [], event_metadata: metadata = {} } of planes) {
    const names = new Map(Object.values(metadata).map(({ id, name = '' }) => [Number(id), name]));
    for (const { metadata_id: id, duration_ps: duration = 0 } of lines.flatMap(({ events = [] }) => events)) {
      // The run of a kernel is named after its node and its op, `n12:MatMul`; other events have other forms.
      const op = /^[^:]+:_?([A-Z]\w*)$/.exec(names.get(Number(id)) ?? '')?.[1];
      if (op === undefined) continue;
      const total = totals.get(op) ?? { op, count: 0, seconds: 0 };
      total.count++;
      total.seconds += Number(duration) / 1e12;
      totals.set(op, total);
    }
  }
  return [...totals.values()].sort((a, b) => b.seconds - a.seconds);
}
