/** Characters that a terminal would obey, or that end a line. */
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/**
 * The errors that a user can meet. Each message says what was expected, what came, where, and what to do,
 * in one line; the command line prints it without a stack and exits with 2.
 */
export class GrpolabError extends Error {
  override readonly name: string = 'GrpolabError';

  /** What is quoted from a file may hold line ends, and what a terminal would obey: a message is one line of plain text. */
  constructor(message: string, options?: ErrorOptions) {
    super(message.replace(/\s*[\r\n]\s*/g, ' ').replace(CONTROL, escaped), options);
  }
}

/** A setting is missing, unknown, out of range, or asks for what cannot be done. */
export class ConfigError extends GrpolabError {
  override readonly name = 'ConfigError';
}

/** A data file or a record in it is not what its format says. Message starts with `file:line:` where known. */
export class DataError extends GrpolabError {
  override readonly name = 'DataError';
}

/** Arrays or tensors whose sizes do not fit together. */
export class ShapeError extends GrpolabError {
  override readonly name = 'ShapeError';
}

/** A model, adapter or checkpoint directory that cannot be read, is damaged, or belongs to another model. */
export class CheckpointError extends GrpolabError {
  override readonly name = 'CheckpointError';
}

/** A loss, gradient or weight that is not finite. */
export class NumericError extends GrpolabError {
  override readonly name = 'NumericError';
}

/** There is no memory for what was to be computed; `cause` is what TensorFlow or Node said. */
export class MemoryError extends GrpolabError {
  override readonly name = 'MemoryError';
}

/** A server that trains or samples for us refused, could not be reached, or gave what cannot be understood. */
export class RemoteError extends GrpolabError {
  override readonly name = 'RemoteError';

  constructor(
    message: string,
    /** of HTTP, where there was an answer */
    readonly status?: number,
  ) {
    super(message);
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
