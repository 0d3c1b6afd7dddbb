import { GrpolabError } from '../runtime/errors';

/** A judge that gave no usable answer, however often it was asked: the run failed, the settings may be right. */
export class JudgeError extends GrpolabError {
  override readonly name = 'JudgeError';
}
