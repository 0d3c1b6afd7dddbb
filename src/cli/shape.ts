/** The shape of a batch, as `bench` and `doctor` take it. */
import type { StepShape } from '../model/memory';
import { UsageError } from './arguments';

/**
 * `P=4,G=4,Tp=96,Tc=48`: prompts, completions a prompt, tokens of a prompt, tokens of a completion.
 * @throws UsageError  naming the command's help
 */
export function parseShape(text: string, command: string): StepShape {
  const shape: Record<string, number> = {};
  for (const part of text.split(',')) {
    const match = /^(P|G|Tp|Tc)=(\d+)$/.exec(part.trim());
    if (match === null || Number(match[2]) < 1)
      throw new UsageError(`--shape is "${text}"; expected P=4,G=4,Tp=96,Tc=48 with integers >= 1`, command);
    shape[match[1]] = Number(match[2]);
  }
  for (const name of ['P', 'G', 'Tp', 'Tc'])
    if (shape[name] === undefined)
      throw new UsageError(`--shape lacks ${name}; expected P=4,G=4,Tp=96,Tc=48`, command);
  return shape as unknown as StepShape;
}
