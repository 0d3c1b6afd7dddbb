// Arithmetic on vectors of 16 floats. This file is compiled once for each instruction set
// (scripts/setup.mjs: GRPOLAB_KERNELS names the result), so it uses nothing from the standard library whose code a linker
// might take from the copy of another instruction set.
#include "kernels.h"

#include <math.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
// The same at any address.
typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));

// Lanes of a register, and rows whose sums fit into the registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRowsAtOnce = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRowsAtOnce = 6;
#else
constexpr int kLanes = 4, kRowsAtOnce = 3;
#endif
constexpr int kParts = kWidth / kLanes;
typedef float Register __attribute__((vector_size(kLanes * 4)));
typedef float LooseRegister __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE Vector Load(const float* at) { return *reinterpret_cast<const Loose*>(at); }
INLINE void Store(float* at, Vector values) { *reinterpret_cast<Loose*>(at) = values; }
INLINE Vector Fill(float value) { return Vector{} + value; }
INLINE Vector Larger(Vector a, Vector b) { return a > b ? a : b; }

// Lane i of the result is lane (i + N) % 16.
template <int N>
INLINE Vector Turned(Vector v) {
  Integers order;
  for (int i = 0; i < kWidth; i++) order[i] = (i + N) % kWidth;
  return __builtin_shuffle(v, order);
}

// The sum of the lanes, in a fixed order.
INLINE float Sum(Vector v) {
  v += Turned<8>(v);
  v += Turned<4>(v);
  v += Turned<2>(v);
  v += Turned<1>(v);
  return v[0];
}

INLINE float Largest(Vector v) {
  v = Larger(v, Turned<8>(v));
  v = Larger(v, Turned<4>(v));
  v = Larger(v, Turned<2>(v));
  v = Larger(v, Turned<1>(v));
  return v[0];
}

// e^x to about 1e-7 of its value: x = n log 2 + r with |r| <= log(2) / 2, and the series of e^r to r^7. Below -87, where
// float32 leaves its normal range, 0.
INLINE Vector Exp(Vector x) {
  const Integers tiny = x < -87.0f;
  const Vector limited = x > 88.0f ? Fill(88.0f) : (tiny ? Fill(-87.0f) : x);
  const Vector shifter = Fill(12582912.0f);  // 1.5 * 2^23: the sum's low bits are round(x / log 2)
  const Vector shifted = limited * 1.44269504088896341f + shifter;
  const Vector n = shifted - shifter;
  const Vector r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = Fill(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u;  // of 2^n as a float; a NaN in p stays one
  return tiny ? Vector{} : p * reinterpret_cast<Vector>(power);
}

// A register of b: floats, or the floats whose upper halves b holds.
INLINE Register Line(const float* b) { return *reinterpret_cast<const LooseRegister*>(b); }
INLINE Register Line(const uint16_t* b) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  typedef uint16_t LooseHalves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
  const Halves halves = *reinterpret_cast<const LooseHalves*>(b);
  return reinterpret_cast<Register>(__builtin_convertvector(halves, Words) << 16);
}

// Sums of R rows into the first columns of a result.
template <int R>
INLINE void StoreSums(const Register (&sums)[R][kParts], float* out, int64_t ldo, int64_t columns, Into into) {
  const bool is_direct = columns == kWidth && into == Into::kStore;
  float lines[R * kWidth];
  // Unrolled: sums that are looked at with a variable would be kept in memory.
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    float* target = is_direct ? out + r * ldo : lines + r * kWidth;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; p++) *reinterpret_cast<LooseRegister*>(target + p * kLanes) = sums[r][p];
  }
  if (is_direct) return;
  for (int r = 0; r < R; r++) {
    float* result = out + r * ldo;
    const float* line = lines + r * kWidth;
    if (columns == kWidth) {
      Store(result, Load(result) + Load(line));
      continue;
    }
    for (int64_t j = 0; j < columns; j++) result[j] = into == Into::kAdd ? result[j] + line[j] : line[j];
  }
}

// A product asks for what comes so many bytes later, across pages, where the processor's own prefetching stops; into the second
// level of the cache, which has more room for what is on its way. Of lines that do not follow each other, the next few.
constexpr int64_t kAhead = 8192, kLinesAhead = 8;
INLINE void Prefetch(const void* at) { __builtin_prefetch(at, 0, 2); }

template <int R, typename B>
INLINE void Tile(const float* x, int64_t step, int64_t row, int64_t k, const B* b, int64_t ldb, float* out,
                 int64_t ldo, int64_t columns, Into into) {
  Register sums[R][kParts];
#pragma GCC unroll 64
  for (int i = 0; i < R * kParts; i++) sums[i / kParts][i % kParts] = Register{};
  const int64_t ahead = ldb == kWidth ? kAhead / static_cast<int64_t>(kWidth * sizeof(B)) : kLinesAhead;
  for (int64_t i = 0; i < k; i++) {
    Prefetch(b + (i + ahead) * ldb);
    Register line[kParts];
#pragma GCC unroll 4
    for (int p = 0; p < kParts; p++) line[p] = Line(b + i * ldb + p * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const float factor = x[i * step + r * row];
#pragma GCC unroll 4
      for (int p = 0; p < kParts; p++) sums[r][p] += line[p] * factor;
    }
  }
  StoreSums<R>(sums, out, ldo, columns, into);
}

// Products in float32 with a b of floats or of bfloat16.
template <typename B>
struct Single {
  typedef B Element;

  // The layout of packed rows is known to the compiler: one of the two strides is a constant.
  template <int R>
  static void Run(Rows x, int64_t k, const B* b, int64_t ldb, float* out, int64_t ldo, int64_t columns, Into into) {
    if (x.step == kWidth && x.row == 1 && ldb == kWidth)
      Tile<R, B>(x.data, kWidth, 1, k, b, kWidth, out, ldo, columns, into);
    else if (x.step == kWidth && x.row == 1)
      Tile<R, B>(x.data, kWidth, 1, k, b, ldb, out, ldo, columns, into);
    else
      Tile<R, B>(x.data, x.step, x.row, k, b, ldb, out, ldo, columns, into);
  }
};

#if defined(__AVX512BF16__)
// Two lines of 16 halves as pairs, 16 words.
INLINE __m512i Pairs(__m512i lines) {
  typedef int16_t Shorts __attribute__((vector_size(64)));
  const Shorts order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(reinterpret_cast<__m512i>(order), lines);
}

// Lines 2 i and 2 i + 1 of b as pairs: of what Round laid out, and of bfloat16 as it is.
INLINE __m512i PairLine(const float* b, int64_t i, int64_t) { return _mm512_loadu_si512(b + i * kWidth); }
INLINE __m512i PairLine(const uint16_t* b, int64_t i, int64_t k) {
  const uint16_t* at = b + 2 * i * kWidth;
  return Pairs(2 * i + 1 < k ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi16(0xffff, at));
}

// Products of what Round laid out, with a b of the same kind or of bfloat16.
template <typename B>
struct Paired {
  typedef B Element;

  template <int R>
  static void Run(Rows x, int64_t k, const B* b, int64_t, float* out, int64_t ldo, int64_t columns, Into into) {
    Register sums[R][kParts];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) sums[r][0] = Register{};
    const int64_t pairs = (k + 1) / 2;
    for (int64_t i = 0; i < pairs; i++) {
      Prefetch(reinterpret_cast<const char*>(b) + 64 * i + kAhead);
      const __m512i line = PairLine(b, i, k);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        int32_t pair;
        memcpy(&pair, x.data + i * kWidth + r, sizeof(pair));
        const __m512i factor = _mm512_set1_epi32(pair);
        sums[r][0] = _mm512_dpbf16_ps(sums[r][0], (__m512bh)factor, (__m512bh)line);
      }
    }
    StoreSums<R>(sums, out, ldo, columns, into);
  }
};
#endif

template <typename B>
using Block = void (*)(Rows, int64_t, const B*, int64_t, float*, int64_t, int64_t, Into);

// One function for each number of rows; a constant, so that nothing of this file runs on a processor that cannot.
template <int R, typename Kind>
struct Blocks {
  static constexpr void Set(Block<typename Kind::Element>* blocks) {
    blocks[R] = Kind::template Run<R>;
    Blocks<R - 1, Kind>::Set(blocks);
  }
};

template <typename Kind>
struct Blocks<0, Kind> {
  static constexpr void Set(Block<typename Kind::Element>*) {}
};

template <typename Kind>
struct Table {
  Block<typename Kind::Element> of[kRowsAtOnce + 1];
  constexpr Table() : of{} { Blocks<kRowsAtOnce, Kind>::Set(of); }
};

template <typename Kind>
constexpr Table<Kind> table;

template <typename Kind>
void Product(Rows x, int64_t k, const typename Kind::Element* b, int64_t ldb, float* out, int64_t ldo, int64_t columns,
             Into into) {
  for (int64_t r = 0; r < x.count; r += kRowsAtOnce) {
    const int64_t count = x.count - r < kRowsAtOnce ? x.count - r : kRowsAtOnce;
    table<Kind>.of[count]({x.data + r * x.row, x.step, x.row, count}, k, b, ldb, out + r * ldo, ldo, columns, into);
  }
}

#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
template <typename B>
using Rounded = Paired<B>;

void Round(float* lines, int64_t k) {
  for (int64_t i = 0; i < k; i += 2) {
    const __m512 first = _mm512_loadu_ps(lines + i * kWidth);
    const __m512 second = i + 1 < k ? _mm512_loadu_ps(lines + (i + 1) * kWidth) : _mm512_setzero_ps();
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(lines + i / 2 * kWidth, Pairs(halves));
  }
}
#else
constexpr bool kPairs = false;
template <typename B>
using Rounded = Single<B>;

void Round(float* lines, int64_t k) {
  for (int64_t i = 0; i < k; i++) {
    const Vector x = Load(lines + i * kWidth);
    const Bits bits = reinterpret_cast<Bits>(x);
    // To the nearest, of two to the even one; a NaN stays one.
    const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const Bits result = x == x ? rounded : bits | 0x400000;
    Store(lines + i * kWidth, reinterpret_cast<Vector>(result & 0xffff0000));
  }
}
#endif

void Widen(const uint16_t* x, int64_t n, float* out) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  typedef uint16_t LooseHalves __attribute__((vector_size(32), aligned(2), may_alias));
  for (int64_t i = 0; i < n; i += kWidth) {
    const Halves halves = *reinterpret_cast<const LooseHalves*>(x + i);
    Store(out + i, reinterpret_cast<Vector>(__builtin_convertvector(halves, Bits) << 16));
  }
}

void WidenNf4Rows(const uint32_t* x, const float* scales, int64_t rows, float* out) {
  const Vector values = {-1,
                         -0.6961928009986877f,
                         -0.5250730514526367f,
                         -0.39491748809814453f,
                         -0.28444138169288635f,
                         -0.18477343022823334f,
                         -0.09105003625154495f,
                         0,
                         0.07958029955625534f,
                         0.16093020141124725f,
                         0.24611230194568634f,
                         0.33791524171829224f,
                         0.44070982933044434f,
                         0.5626170039176941f,
                         0.7229568362236023f,
                         1};
  const Bits shifts = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
  const Bits lower = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0, 0, 0, 0, 0, 0, 0, 0};
  const Vector scale = Load(scales);
  for (int64_t i = 0; i < rows; i++) {
    const Bits words = ((Bits{} + x[2 * i]) & lower) | ((Bits{} + x[2 * i + 1]) & ~lower);
    const Integers codes = reinterpret_cast<Integers>((words >> shifts) & 15);
    Store(out + i * kWidth, __builtin_shuffle(values, codes) * scale);
  }
}

// Swaps the off-diagonal quarters of all blocks of 2 S rows and columns.
template <int S>
INLINE void SwapQuarters(Vector* rows) {
  Integers low, high;
  for (int j = 0; j < kWidth; j++) {
    low[j] = j & S ? j - S + kWidth : j;
    high[j] = j & S ? j + kWidth : j + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) {
    if (i & S) continue;
    const Vector a = rows[i], b = rows[i + S];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + S] = __builtin_shuffle(a, b, high);
  }
}

void Transpose(const float* x, int64_t ldx, float* out) {
  Vector rows[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) rows[i] = Load(x + i * ldx);
  SwapQuarters<8>(rows);
  SwapQuarters<4>(rows);
  SwapQuarters<2>(rows);
  SwapQuarters<1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) Store(out + i * kWidth, rows[i]);
}

// 16 values from `at`, of which `count` are there; the others are `filler`.
INLINE Vector Some(const float* at, int64_t count, float filler) {
  if (count >= kWidth) return Load(at);
  float lanes[kWidth];
  for (int64_t i = 0; i < kWidth; i++) lanes[i] = i < count ? at[i] : filler;
  return Load(lanes);
}

INLINE void StoreSome(float* at, int64_t count, Vector values) {
  if (count >= kWidth) Store(at, values);
  else memcpy(at, &values, count * sizeof(float));
}

INLINE float SquareSum(const float* x, int64_t n) {
  Vector sums{};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vector v = Load(x + i);
    sums += v * v;
  }
  float sum = Sum(sums);
  for (; i < n; i++) sum += x[i] * x[i];
  return sum;
}

void NormRows(const float* x, int64_t ldx, int64_t rows, int64_t k, const float* weight, float eps, float* out) {
  for (int64_t r = 0; r < rows; r++) {
    const float* row = x + r * ldx;
    const float inverse = 1.0f / sqrtf(SquareSum(row, k) / k + eps);
    for (int64_t i = 0; i < k; i++) out[i * kWidth + r] = row[i] * inverse * weight[i];
  }
}

void NormRotate(const float* x, int64_t dim, const float* weight, float eps, const float* cos, const float* sin,
                float scale, float* out) {
  const float inverse = 1.0f / sqrtf(SquareSum(x, dim) / dim + eps);
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t left = half - i, j = i + half;
    const Vector a = Some(x + i, left, 0) * inverse * Some(weight + i, left, 0);
    const Vector b = Some(x + j, left, 0) * inverse * Some(weight + j, left, 0);
    const Vector c = Some(cos + i, left, 0), s = Some(sin + i, left, 0);
    StoreSome(out + i, left, (a * c - b * s) * scale);
    StoreSome(out + j, left, (b * c + a * s) * scale);
  }
}

void NormRotateGrad(const float* x, int64_t dim, const float* weight, float eps, const float* cos, const float* sin,
                    float scale, const float* gradient, float* dx, float* dweight) {
  const float inverse = 1.0f / sqrtf(SquareSum(x, dim) / dim + eps);
  const int64_t half = dim / 2;
  Vector dots{};
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t left = half - i, j = i + half;
    const Vector first = Some(gradient + i, left, 0), second = Some(gradient + j, left, 0);
    const Vector c = Some(cos + i, left, 0), s = Some(sin + i, left, 0);
    const Vector a = (first * c + second * s) * scale, b = (second * c - first * s) * scale;
    const Vector x0 = Some(x + i, left, 0), x1 = Some(x + j, left, 0);
    StoreSome(dweight + i, left, Some(dweight + i, left, 0) + a * x0 * inverse);
    StoreSome(dweight + j, left, Some(dweight + j, left, 0) + b * x1 * inverse);
    const Vector d0 = a * Some(weight + i, left, 0), d1 = b * Some(weight + j, left, 0);
    StoreSome(dx + i, left, d0);
    StoreSome(dx + j, left, d1);
    dots += d0 * x0 + d1 * x1;
  }
  const float shift = Sum(dots) * inverse * inverse / dim;
  for (int64_t i = 0; i < dim; i++) dx[i] = inverse * (dx[i] - x[i] * shift);
}

float Norm(const float* x, int64_t n, const float* weight, float eps, float* y) {
  const float inverse = 1.0f / sqrtf(SquareSum(x, n) / n + eps);
  for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * weight[i];
  return inverse;
}

void NormGrad(const float* x, int64_t n, const float* weight, float inverse, const float* dy, float* dx,
              float* dweight) {
  Vector dots{};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vector g = Load(dy + i), v = Load(x + i);
    Store(dweight + i, Load(dweight + i) + g * v * inverse);
    const Vector gw = g * Load(weight + i);
    Store(dx + i, gw);
    dots += gw * v;
  }
  float dot = Sum(dots);
  for (; i < n; i++) {
    dweight[i] += dy[i] * x[i] * inverse;
    dx[i] = dy[i] * weight[i];
    dot += dx[i] * x[i];
  }
  const float shift = dot * inverse * inverse / n;
  for (i = 0; i < n; i++) dx[i] = inverse * (dx[i] - x[i] * shift);
}

void Gate(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vector g = Some(x + i, n - i, 0), u = Some(x + n + i, n - i, 0);
    StoreSome(y + i, n - i, g / (Exp(-g) + 1.0f) * u);
  }
}

void GateGrad(const float* x, int64_t n, const float* dy, float* dx) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vector g = Some(x + i, n - i, 0), u = Some(x + n + i, n - i, 0), d = Some(dy + i, n - i, 0);
    const Vector sigmoid = 1.0f / (Exp(-g) + 1.0f);
    StoreSome(dx + i, n - i, d * u * sigmoid * (1.0f + g * (1.0f - sigmoid)));
    StoreSome(dx + n + i, n - i, d * g * sigmoid);
  }
}

float Exponentials(float* x, int64_t n, float* maximum) {
  Vector most = Load(x);
  for (int64_t i = kWidth; i < n; i += kWidth) most = Larger(Load(x + i), most);
  const float max = Largest(most);
  *maximum = max;
  Vector sums{};
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vector e = Exp(Load(x + i) - max);
    Store(x + i, e);
    sums += e;
  }
  return Sum(sums);
}

void Hide(float* x, int64_t first, int64_t last, const int32_t* limits) {
  Integers limit;
  memcpy(&limit, limits, sizeof limit);
  for (int64_t i = first; i < last; i++) {
    const Integers line = Integers{} + static_cast<int32_t>(i);
    Store(x + i * kWidth, line >= limit ? Fill(-INFINITY) : Load(x + i * kWidth));
  }
}

void ColumnExponentials(float* x, int64_t n, float* maxima, float* totals) {
  Vector most = Load(x);
  for (int64_t i = 1; i < n; i++) most = Larger(Load(x + i * kWidth), most);
  Vector sums{};
  for (int64_t i = 0; i < n; i++) {
    const Vector e = Exp(Load(x + i * kWidth) - most);
    Store(x + i * kWidth, e);
    sums += e;
  }
  Store(maxima, most);
  Store(totals, sums);
}

void ShiftedExponentials(float* x, int64_t n, const float* shifts) {
  const Vector shift = Load(shifts);
  for (int64_t i = 0; i < n; i++) Store(x + i * kWidth, Exp(Load(x + i * kWidth) - shift));
}

void SoftmaxGrad(const float* weights, int64_t n, const float* inner, float* gradients) {
  const Vector mean = Load(inner);
  for (int64_t i = 0; i < n * kWidth; i += kWidth)
    Store(gradients + i, Load(weights + i) * (Load(gradients + i) - mean));
}

void Divide(float* x, int64_t n, float divisor) {
  for (int64_t i = 0; i < n; i += kWidth) Store(x + i, Load(x + i) / divisor);
}

float Dot(const float* x, const float* y, int64_t n) {
  Vector sums{};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) sums += Load(x + i) * Load(y + i);
  float sum = Sum(sums);
  for (; i < n; i++) sum += x[i] * y[i];
  return sum;
}

void GatedTile(const float* gate, const float* up, int64_t columns, float* out) {
  float tile[kWidth * kWidth];
  for (int64_t r = 0; r < kWidth; r++) {
    const Vector g = Load(gate + r * kWidth);
    Store(tile + r * kWidth, g / (Exp(-g) + 1.0f) * Load(up + r * kWidth));
  }
  for (int64_t i = 0; i < columns; i++)
    for (int64_t r = 0; r < kWidth; r++) out[i * kWidth + r] = tile[r * kWidth + i];
}

double SumOf(const float* x, int64_t n) {
  typedef float Floats __attribute__((vector_size(32)));
  typedef float LooseFloats __attribute__((vector_size(32), aligned(4), may_alias));
  typedef double Doubles __attribute__((vector_size(64)));
  Doubles sums[2] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int half = 0; half < 2; half++) {
      const Floats values = *reinterpret_cast<const LooseFloats*>(x + i + 8 * half);
      sums[half] += __builtin_convertvector(values, Doubles);
    }
  double lanes[8];
  const Doubles both = sums[0] + sums[1];
  memcpy(lanes, &both, sizeof lanes);
  double sum = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
  for (; i < n; i++) sum += x[i];
  return sum;
}

INLINE Vector Scaled(const float* x, const float* bias, float temperature, int64_t i, int64_t n) {
  const Vector logits = Some(x + i, n - i, -INFINITY);
  return (bias == nullptr ? logits : logits + Some(bias + i, n - i, 0.0f)) / temperature;
}

float LargestOf(const float* x, const float* bias, float temperature, int64_t n) {
  Vector most = Fill(-INFINITY);
  for (int64_t i = 0; i < n; i += kWidth) most = Larger(Scaled(x, bias, temperature, i, n), most);
  return Largest(most);
}

double Masses(const float* x, const float* bias, float temperature, float max, int64_t n, float* out, float* shifted) {
  constexpr int64_t kBlock = 512;
  double total = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = start + kBlock < n ? start + kBlock : n;
    Vector sums{};
    for (int64_t i = start; i < end; i += kWidth) {
      const Vector z = Scaled(x, bias, temperature, i, n) - max;
      const Vector e = Exp(z);
      sums += e;
      if (out != nullptr) StoreSome(out + i, n - i, e);
      if (shifted != nullptr) StoreSome(shifted + i, n - i, z);
    }
    total += Sum(sums);
  }
  return total;
}

void Cut(const float* keys, float threshold, int64_t n, float* x) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vector kept = Some(keys + i, n - i, 0) >= threshold ? Some(x + i, n - i, 0) : Vector{};
    StoreSome(x + i, n - i, kept);
  }
}

float NegativeSoftmax(const float* x, float temperature, int64_t n, float* out, double* sum, double* moment) {
  constexpr int64_t kBlock = 512;
  const float max = LargestOf(x, nullptr, temperature, n);
  double total = 0, weighted = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = start + kBlock < n ? start + kBlock : n;
    Vector sums{}, moments{};
    for (int64_t i = start; i < end; i += kWidth) {
      const Vector z = Scaled(x, nullptr, temperature, i, n) - max;
      const Vector e = Exp(z);
      sums += e;
      moments += z < -87.0f ? Vector{} : e * z;  // what is past the end is -inf
      StoreSome(out + i, n - i, e);
    }
    total += Sum(sums);
    weighted += Sum(moments);
  }
  const float factor = static_cast<float>(-1 / total);
  for (int64_t i = 0; i < n; i += kWidth) StoreSome(out + i, n - i, Some(out + i, n - i, 0) * factor);
  *sum = total;
  *moment = weighted / total;
  return max;
}

}  // namespace

extern const Kernels GRPOLAB_KERNELS;
const Kernels GRPOLAB_KERNELS = {
    Product<Single<float>>, Product<Single<uint16_t>>,
    kPairs, Round, Product<Rounded<float>>, Product<Rounded<uint16_t>>,
    Widen, WidenNf4Rows, Transpose, NormRows, NormRotate, NormRotateGrad, Norm, NormGrad, Gate, GateGrad,
    Exponentials, Hide, ColumnExponentials, ShiftedExponentials, SoftmaxGrad, Divide, Dot,
    GatedTile, SumOf, LargestOf, Masses, Cut, NegativeSoftmax,
};
