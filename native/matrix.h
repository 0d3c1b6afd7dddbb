// Frozen matrices as panels of 16 columns: what decoding (native/decode.cc) multiplies by, and training where weights are kept
// in fewer bits than float32 (native/matrix.cc).
#ifndef GRPOLAB_MATRIX_H_
#define GRPOLAB_MATRIX_H_

#include <vector>

#include "kernels.h"
#include "ops.h"

// A matrix [k, n]. Its columns are equal parts, each padded with zeros to whole panels.
struct Panels {
  enum class Format { kNone, kFloat, kBfloat16, kNf4 };
  Format format = Format::kNone;
  const void* data = nullptr;
  int64_t panels = 0, k = 0;
  // Products are in bfloat16: x as Kernels::round lays it out.
  bool rounded = false;

  Panels() = default;
  // floats [panels, k, 16]; or bfloat16 [panels, k, 16], two in each int32, the first in the lower half; or NF4, int32
  // [panels, 2 k + k / 16 + 64] (native/nf4.cc).
  Panels(const OpInputs& in, int i);
  bool ok() const { return format != Format::kNone; }

  // Rows [begin, end) of panel p as floats [end - begin, 16]: where they lie, or widened into scratch.
  const float* Lines(int64_t p, int64_t begin, int64_t end, float* scratch) const;
  // Asks for such rows, which will be needed soon.
  void Prefetch(int64_t p, int64_t begin, int64_t end) const;
  // Whether a product with so many rows takes panels as they lie.
  bool InPlace(int64_t rows) const;
  // Panels [first, last) as a product with so many rows takes them; null for those of bfloat16 that it takes as they lie.
  std::vector<const float*> Wide(int64_t first, int64_t last, int64_t rows, std::vector<float>* scratch) const;
  // out [rows, columns] (+)= x times panel p, which `wide` may be (or null).
  void Product(Rows x, int64_t p, const float* wide, float* out, int64_t ldo, int64_t columns, Into into) const;
  // Column n of a matrix of one part: [k].
  void Column(int64_t n, float* out) const;
};

// Up to 16 rows of x [count, ldx], n columns of them, as lines of 16: out [n, 16].
void PackBlock(const float* x, int64_t ldx, int64_t count, int64_t n, float* out);

// Where the columns of a panel stand in a matrix whose n columns are so many equal parts.
struct Columns {
  int64_t first, count;
  Columns(int64_t panel, int64_t panels, int64_t n, int64_t parts);
};

#endif  // GRPOLAB_MATRIX_H_
