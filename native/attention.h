// Causal attention on the CPU: of decoding (native/decode.cc) and, with its gradient, of training (native/attention.cc).
#ifndef GRPOLAB_ATTENTION_H_
#define GRPOLAB_ATTENTION_H_

#include <cstdint>

#include "kernels.h"

// One key-value head of a sequence. Keys are panels [T / 16, D, 16], values rows [T, D rounded up to 16].
struct KeysValues {
  const float* keys;
  const float* values;
};

// Queries [first, first + count) of a block, which see the keys of one completion.
struct Segment {
  int64_t first, count;
  KeysValues own;
};

// Up to 16 queries of one prompt and one key-value head; all see the prompt, each also keys of its own completion.
struct QueryBlock {
  const float* packed;  // [D, 16], scaled
  int64_t count;
  int64_t dim;
  KeysValues prompt;
  int64_t on_prompt[kWidth];  // how many keys of the prompt each sees; ascending
  const Segment* segments;
  int64_t segment_count;
  int64_t on_own[kWidth];  // and of its own; ascending in a segment

  int64_t most_on_prompt() const { return on_prompt[count - 1]; }
  int64_t most_on_own() const {
    int64_t most = 0;
    for (int64_t q = 0; q < count && segment_count > 0; q++) most = on_own[q] > most ? on_own[q] : most;
    return most;
  }
  // Scores of a row: those on the prompt, padded, then those on its own, padded.
  int64_t own_offset() const { return Ceil(most_on_prompt()) * kWidth; }
  int64_t row_length() const { return own_offset() + Ceil(most_on_own()) * kWidth; }
};

// scores [count, row_length()]: products of queries and keys; -infinity where a query does not see.
void ScoreBlock(const QueryBlock& block, float* scores);

// found [count, D rounded up] = softmax(scores) values; log_sums (may be null): log sum exp of each row's scores. Overwrites
// the scores.
void AttendBlock(const QueryBlock& block, float* scores, float* found, float* log_sums);

#endif  // GRPOLAB_ATTENTION_H_
