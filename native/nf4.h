// Weights in 4 bits: NF4 in blocks of 64, twice quantised (src/model/nf4.ts), as panels of 16 columns.
#ifndef GRPOLAB_NF4_H_
#define GRPOLAB_NF4_H_

#include <cstdint>

// Of a panel: 2 k words of codes, row by row, column j in bits 4 (j % 8) of word j / 8; then 4 words for each block of 64 rows,
// its scale's code of column j in bits 8 (j % 4) of word j / 4; then of each column the first block of its second group of 256
// blocks, and as floats the scale of its first group, of its second, and the offset.
inline int64_t Nf4Words(int64_t k) { return 2 * k + k / 16 + 64; }

// The k of panels of so many words; 0 where there is none.
inline int64_t Nf4Inputs(int64_t words) {
  const int64_t k = (words - 64) * 16 / 33;
  return k > 0 && k % 64 == 0 && Nf4Words(k) == words ? k : 0;
}

// Rows [begin, end) of panel p as floats [end - begin, 16].
void WidenNf4(const uint32_t* panels, int64_t k, int64_t p, int64_t begin, int64_t end, float* out);

#endif  // GRPOLAB_NF4_H_
