/**
 * The reward of configs/tasks/question_small.yaml: one question mark, at the end, and not many words before it.
 *
 * @param {Record<string, unknown>} record  the line of data
 * @param {string} completion               what the model wrote
 */
export function reward(record, completion) {
  const text = completion.trim();
  const words = text.split(/\s+/).filter((word) => word !== '').length;
  const asks = text.indexOf('?') === text.length - 1 && words > 1 ? 1 : 0;
  const short = Math.max(0, 1 - Math.max(0, words - 8) / 8);
  return { total: asks * (0.5 + 0.5 * short), components: { asks, short } };
}
