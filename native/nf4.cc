#include "nf4.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace {

constexpr int64_t kBlock = 64;

// The 256 values that scales are multiples of: `dynamicMap` of src/model/nf4.ts.
struct DynamicMap {
  float values[256];
  DynamicMap() {
    const float start = 0.1f;
    int64_t count = 0;
    values[count++] = 0;
    values[count++] = 1;
    for (int e = 0; e < 7; e++) {
      const int parts = 1 << e;
      const float step = static_cast<float>(static_cast<double>(1 - start) / parts);
      const auto bound = [&](int k) {
        return static_cast<float>(2 * k < parts ? start + static_cast<double>(step) * k
                                                : 1 - static_cast<double>(step) * (parts - k));
      };
      for (int k = 0; k < parts; k++) {
        const float sum = static_cast<float>(static_cast<double>(bound(k)) + bound(k + 1));
        const double power = static_cast<float>(std::pow(10.0, e - 6));
        const float value = static_cast<float>(power * (sum / 2));
        values[count++] = value;
        values[count++] = -value;
      }
    }
    std::sort(values, values + 256);
  }
};

}  // namespace

void WidenNf4(const uint32_t* panels, int64_t k, int64_t p, int64_t begin, int64_t end, float* out) {
  static const DynamicMap map;
  const uint32_t* panel = panels + p * Nf4Words(k);
  const uint32_t *codes = panel + 2 * k, *second = codes + 4 * (k / kBlock);
  float columns[3 * kWidth];  // the scales of both groups, and the offset
  std::memcpy(columns, second + kWidth, sizeof columns);
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / kBlock, stop = std::min(end, (block + 1) * kBlock);
    float absmax[kWidth];
    for (int64_t j = 0; j < kWidth; j++) {
      const uint32_t code = codes[4 * block + j / 4] >> (8 * (j % 4)) & 255;
      const float scale = columns[block < second[j] ? j : kWidth + j];
      volatile float product = map.values[code] * scale;  // rounded before the sum: an FMA would give other bits
      absmax[j] = product + columns[2 * kWidth + j];
    }
    BestKernels().widen_nf4(panel + 2 * i, absmax, stop - i, out + (i - begin) * kWidth);
    i = stop;
  }
}
