// The arithmetic of the ops, compiled once for each instruction set that the processor may have: native/kernels.cc.
#ifndef GRPOLAB_KERNELS_H_
#define GRPOLAB_KERNELS_H_

#include <cstdint>

// Columns of a panel, and rows of a block.
constexpr int64_t kWidth = 16;
inline int64_t Ceil(int64_t n) { return (n + kWidth - 1) / kWidth; }

// How a product goes into its result.
enum class Into { kStore, kAdd };

// A matrix of up to 16 rows: element (r, i) is at data[i * step + r * row].
struct Rows {
  const float* data;
  int64_t step;
  int64_t row;
  int64_t count;
};

struct Kernels {
  // out[r, j] (+)= sum over i < k of x(r, i) b[i * ldb + j], for j < columns <= 16; b must be readable to 16 columns.
  // The sum runs in the order of i, whatever the number of rows: a row's result does not depend on its neighbours.
  void (*product)(Rows x, int64_t k, const float* b, int64_t ldb, float* out, int64_t ldo, int64_t columns, Into into);
  // The same with a b of bfloat16.
  void (*product_half)(Rows x, int64_t k, const uint16_t* b, int64_t ldb, float* out, int64_t ldo, int64_t columns,
                       Into into);
  // Arithmetic in bfloat16: sums in float32 of products of numbers that are rounded to bfloat16, to the nearest (of two, the
  // even one). `round` rounds k lines of 16 floats in place, and lays them out as the products below take them: if
  // `pairs`, line i of words holds lines 2 i (lower half) and 2 i + 1 (zeros after the last).
  bool pairs;
  void (*round)(float* lines, int64_t k);
  // `product` and `product_half` of 16 rows that are lines of x, with a b that `round` laid out as well, and one of bfloat16.
  void (*product_rounded)(Rows x, int64_t k, const float* b, int64_t ldb, float* out, int64_t ldo, int64_t columns,
                          Into into);
  void (*product_half_rounded)(Rows x, int64_t k, const uint16_t* b, int64_t ldb, float* out, int64_t ldo, int64_t columns,
                               Into into);
  // out[i] = the float whose upper half is x[i], for i < n, a multiple of 16.
  void (*widen)(const uint16_t* x, int64_t n, float* out);
  // out[i * 16 + j] = value of code (x[2 i + j / 8] >> 4 (j % 8)) % 16 of NF4, times scales[j], for i < rows and j < 16.
  void (*widen_nf4)(const uint32_t* x, const float* scales, int64_t rows, float* out);
  // out[j * 16 + i] = x[i * ldx + j], for i, j < 16.
  void (*transpose)(const float* x, int64_t ldx, float* out);
  // out[i * 16 + r] = x[r * ldx + i] / rms(x[r]) * weight[i]: RMSNorm of up to 16 rows, laid out for `product`.
  void (*norm_rows)(const float* x, int64_t ldx, int64_t rows, int64_t k, const float* weight, float eps, float* out);
  // out[i] = RMSNorm of one head, rotated: pairs (i, i + dim / 2) by the angle whose cosine and sine are given.
  void (*norm_rotate)(const float* x, int64_t dim, const float* weight, float eps, const float* cos, const float* sin,
                      float scale, float* out);
  // Its gradient from that of `out`: d x is stored, d weight is added.
  void (*norm_rotate_grad)(const float* x, int64_t dim, const float* weight, float eps, const float* cos,
                           const float* sin, float scale, const float* gradient, float* dx, float* dweight);
  // RMSNorm of a row, y = x / rms * weight; returns 1 / rms. And its gradient: dx is stored, dweight added.
  float (*norm)(const float* x, int64_t n, const float* weight, float eps, float* y);
  void (*norm_grad)(const float* x, int64_t n, const float* weight, float inverse, const float* dy, float* dx,
                    float* dweight);
  // y[i] = g sigmoid(g) u with g = x[i] and u = x[n + i]; and its gradient, of g and of u.
  void (*gate)(const float* x, int64_t n, float* y);
  void (*gate_grad)(const float* x, int64_t n, const float* dy, float* dx);
  // x[i] = exp(x[i] - max x) for i < n, a multiple of 16; returns their sum, and the maximum.
  float (*exponentials)(float* x, int64_t n, float* max);
  // Of lines x [n, 16], for each column r: x[i][r] = -infinity where i >= limits[r], for first <= i < last.
  void (*hide)(float* x, int64_t first, int64_t last, const int32_t* limits);
  // x = exp(x - max x) down each column; gives the maxima, and the sums of the results.
  void (*column_exponentials)(float* x, int64_t n, float* max, float* sums);
  // x[i][r] = exp(x[i][r] - shifts[r]).
  void (*shifted_exponentials)(float* x, int64_t n, const float* shifts);
  // gradients = weights (gradients - inner[r]).
  void (*softmax_grad)(const float* weights, int64_t n, const float* inner, float* gradients);
  // x[i] /= divisor for i < n, a multiple of 16; and the sum of x[i] y[i].
  void (*divide)(float* x, int64_t n, float divisor);
  float (*dot)(const float* x, const float* y, int64_t n);
  // out[i * 16 + r] = gate(r, i) sigmoid(gate(r, i)) up(r, i) of tiles [16, 16], for i < columns.
  void (*gated_tile)(const float* gate, const float* up, int64_t columns, float* out);
  // The sum of x, in double precision.
  double (*sum)(const float* x, int64_t n);
  // max of (x[i] + bias[i]) / temperature; bias may be null.
  float (*largest)(const float* x, const float* bias, float temperature, int64_t n);
  // out[i] = exp(z), z = (x[i] + bias[i]) / temperature - max, and z to `shifted`; both may be null. Returns the sum of exp(z).
  double (*masses)(const float* x, const float* bias, float temperature, float max, int64_t n, float* out, float* shifted);
  // x[i] = 0 where keys[i] is not >= threshold.
  void (*cut)(const float* keys, float threshold, int64_t n, float* x);
  // out = -p, p = softmax(x / temperature); out may be x. Returns the largest z = x / temperature; of d = z less that,
  // sum = sum exp(d) and moment = sum p d.
  float (*negative_softmax)(const float* x, float temperature, int64_t n, float* out, double* sum, double* moment);
};

// The fastest kernels that this processor can run.
const Kernels& BestKernels();

#endif  // GRPOLAB_KERNELS_H_
