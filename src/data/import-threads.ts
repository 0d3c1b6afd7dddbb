/** Of each row: the first row of its thread, and how many answers lead from there to it. */
export interface Threads {
  first: Int32Array; // [rows]
  turn: Int32Array; // [rows]
}

/**
 * Threads from who answers whom. A row that answers none, or none of the file, is the first of its thread, with turn 0.
 * A circle of answers has no first row: the smallest of it is taken for it. Linear in the rows.
 *
 * @param answered  [rows] the row that each row answers, or -1
 */
export function threadsOf(answered: readonly number[]): Threads {
  const count = answered.length;
  const parents = Int32Array.from(answered);
  const first = new Int32Array(count).fill(-1);
  const turn = new Int32Array(count);
  const onPath = new Uint8Array(count);
  for (let row = 0; row < count; row++) {
    const path: number[] = [];
    let at = row;
    while (at !== -1 && first[at] === -1) {
      if (onPath[at] === 1) {
        // A circle: cut before its smallest row, and go up again from where we are, which now ends there.
        const head = path.slice(path.indexOf(at)).reduce((a, b) => Math.min(a, b));
        parents[head] = -1;
        for (const each of path) onPath[each] = 0;
        path.length = 0;
        at = row;
        continue;
      }
      onPath[at] = 1;
      path.push(at);
      at = parents[at];
    }
    for (const each of path.reverse()) {
      const parent = parents[each];
      first[each] = parent === -1 ? each : first[parent];
      turn[each] = parent === -1 ? 0 : turn[parent] + 1;
    }
  }
  return { first, turn };
}
