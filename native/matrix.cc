// Matrices as panels: how they are laid out, and products with those that are kept in fewer than 32 bits
// (src/model/matrix.ts has the same as graphs of TensorFlow's ops). Weights are widened to float32 a few panels at a time, and
// all arithmetic is in float32; or x and dy (and weights in 4 bits) are rounded to bfloat16, and only sums are in float32.
//
//   GrpolabPack(matrix) -> [panels, k, 16]: a matrix [k, n] as panels of 16 columns
//   GrpolabPackHalves(matrix) -> the same in bfloat16, and whether nothing was cut off
//   GrpolabKeep(panels) -> the same, where it is quick to read
//   GrpolabProduct(x [N, k], panels) -> x W [N, n]
//   GrpolabProductGrad(dy [N, n], panels) -> dy W^T [N, k]
//   GrpolabColumns(panels, ids [N]) -> columns of W as rows [N, k]

#include "matrix.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>

#include "nf4.h"

Panels::Panels(const OpInputs& in, int i) {
  if (in.rank(i) != 2 && in.rank(i) != 3) return;
  panels = in.dim(i, 0);
  data = in.data(i);
  if (in.rank(i) == 2) {
    k = Nf4Inputs(in.dim(i, 1));
    if (in.dtype(i) == TF_INT32 && k > 0) format = Format::kNf4;
    return;
  }
  k = in.dim(i, 1);
  if (in.dtype(i) == TF_FLOAT && in.dim(i, 2) == kWidth) format = Format::kFloat;
  if (in.dtype(i) == TF_INT32 && in.dim(i, 2) == kWidth / 2) format = Format::kBfloat16;
}

const float* Panels::Lines(int64_t p, int64_t begin, int64_t end, float* scratch) const {
  if (format == Format::kNf4) {
    WidenNf4(static_cast<const uint32_t*>(data), k, p, begin, end, scratch);
    return scratch;
  }
  const int64_t first = (p * k + begin) * kWidth;
  if (format == Format::kFloat) return static_cast<const float*>(data) + first;
  BestKernels().widen(static_cast<const uint16_t*>(data) + first, (end - begin) * kWidth, scratch);
  return scratch;
}

void Panels::Prefetch(int64_t p, int64_t begin, int64_t end) const {
  // Bytes of a row; of one in 4 bits without its scales.
  const int64_t size = format == Format::kFloat ? 64 : format == Format::kBfloat16 ? 32 : 8;
  const int64_t panel = format == Format::kNf4 ? 4 * Nf4Words(k) : size * k;
  const char* from = static_cast<const char*>(data) + p * panel;
  for (int64_t at = begin * size; at < end * size; at += 64) __builtin_prefetch(from + at);
}

void Panels::Column(int64_t n, float* out) const {
  float line[kWidth];
  for (int64_t i = 0; i < k; i++) out[i] = Lines(n / kWidth, i, i + 1, line)[n % kWidth];
}

bool Panels::InPlace(int64_t rows) const {
  constexpr int64_t kFewRows = 2 * kWidth;
  if (format == Format::kFloat) return true;
  return format == Format::kBfloat16 && (rows <= kFewRows || (rounded && BestKernels().pairs));
}

std::vector<const float*> Panels::Wide(int64_t first, int64_t last, int64_t rows, std::vector<float>* scratch) const {
  std::vector<const float*> result(last - first, nullptr);
  const bool in_place = InPlace(rows);
  if (in_place && format != Format::kFloat) return result;
  const int64_t size = k * kWidth;
  if (!in_place) scratch->resize(std::max<size_t>(scratch->size(), (last - first) * size));
  for (int64_t p = first; p < last; p++) {
    float* wide = scratch->data() + (p - first) * size;
    result[p - first] = Lines(p, 0, k, wide);
    if (rounded && format == Format::kNf4) BestKernels().round(wide, k);  // bfloat16 that is widened has nothing to round
  }
  return result;
}

void Panels::Product(Rows x, int64_t p, const float* wide, float* out, int64_t ldo, int64_t columns, Into into) const {
  const Kernels& kernels = BestKernels();
  if (wide != nullptr)
    return (rounded ? kernels.product_rounded : kernels.product)(x, k, wide, kWidth, out, ldo, columns, into);
  const uint16_t* halves = static_cast<const uint16_t*>(data) + p * k * kWidth;
  (rounded ? kernels.product_half_rounded : kernels.product_half)(x, k, halves, kWidth, out, ldo, columns, into);
}

void PackBlock(const float* x, int64_t ldx, int64_t count, int64_t n, float* out) {
  int64_t i = 0;
  if (count == kWidth)
    for (; i + kWidth <= n; i += kWidth) BestKernels().transpose(x + i, ldx, out + i * kWidth);
  for (; i < n; i++)
    for (int64_t r = 0; r < count; r++) out[i * kWidth + r] = x[r * ldx + i];
}

Columns::Columns(int64_t panel, int64_t panels, int64_t n, int64_t parts) {
  const int64_t width = n / parts, each = panels / parts, begin = panel % each * kWidth;
  first = panel / each * width + begin;
  count = std::min(kWidth, width - begin);
}

namespace {

struct Options {
  int64_t parts = 1, columns = 0;
  bool rounded = false;
};

void* Create(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* options = new Options();
  unsigned char rounded = 0;
  TF_OpKernelConstruction_GetAttrBool(construction, "rounded", &rounded, status.status);
  options->rounded = rounded != 0;
  TF_OpKernelConstruction_GetAttrInt64(construction, "parts", &options->parts, status.status);
  TF_OpKernelConstruction_GetAttrInt64(construction, "columns", &options->columns, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return options;
}

template <typename T>
void Destroy(void* state) {
  delete static_cast<T*>(state);
}

// Whether a matrix's panels are those of n columns.
bool Fits(const Panels& w, const Options& options) {
  return w.ok() && options.parts > 0 && options.columns % options.parts == 0 &&
         w.panels == options.parts * Ceil(options.columns / options.parts);
}

// Attributes: transposed (the matrix is [n, k]), parts (its columns are that many equal parts, each padded by itself).
struct PackOptions {
  bool transposed = false;
  int64_t parts = 1;
};

void* CreatePack(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* options = new PackOptions();
  unsigned char transposed = 0;
  TF_OpKernelConstruction_GetAttrBool(construction, "transposed", &transposed, status.status);
  options->transposed = transposed != 0;
  TF_OpKernelConstruction_GetAttrInt64(construction, "parts", &options->parts, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return options;
}

// Calls each(place, value) for the places of a panel p of a matrix; zeros stand where it has no columns.
template <typename Each>
void ForPanel(const OpInputs& in, const PackOptions& options, int64_t p, const Each& each) {
  const int64_t k = in.dim(0, options.transposed ? 1 : 0), n = in.dim(0, options.transposed ? 0 : 1);
  const int64_t width = n / options.parts, panels = Ceil(width), begin = p % panels * kWidth;
  const int64_t first = p / panels * width + begin, count = std::min(kWidth, width - begin);
  const float* matrix = in.floats(0);
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < kWidth; j++) {
      const int64_t at = options.transposed ? (first + j) * k + i : i * n + first + j;
      each((p * k + i) * kWidth + j, j < count ? matrix[at] : 0.0f);
    }
}

// The output's [panels, k, 16], of so many words a line, in large pages; null when that failed.
void* AllocatePanels(TF_OpKernelContext* context, const OpInputs& in, const PackOptions& options, TF_DataType dtype,
                     int64_t words, int64_t* panels) {
  const int64_t k = in.dim(0, options.transposed ? 1 : 0), n = in.dim(0, options.transposed ? 0 : 1);
  *panels = options.parts * Ceil(n / options.parts);
  void* out = AllocateOutput(context, 0, dtype, {*panels, k, words});
  if (out != nullptr) UseLargePages(out, *panels * k * words * 4);
  return out;
}

void ComputePack(void* state, TF_OpKernelContext* context) {
  const auto& options = *static_cast<PackOptions*>(state);
  OpInputs in(context);
  if (!in.ok()) return;
  int64_t panels = 0;
  auto* out = static_cast<float*>(AllocatePanels(context, in, options, TF_FLOAT, kWidth, &panels));
  if (out == nullptr) return;
  ParallelFor(context, panels, [&](int64_t p) {
    ForPanel(in, options, p, [&](int64_t place, float value) { out[place] = value; });
  });
}

void ComputePackHalves(void* state, TF_OpKernelContext* context) {
  const auto& options = *static_cast<PackOptions*>(state);
  OpInputs in(context);
  if (!in.ok()) return;
  int64_t panels = 0;
  auto* out = static_cast<uint16_t*>(AllocatePanels(context, in, options, TF_INT32, kWidth / 2, &panels));
  auto* exact = static_cast<int32_t*>(AllocateOutput(context, 1, TF_INT32, {}));
  if (out == nullptr || exact == nullptr) return;
  std::atomic<uint32_t> lost{0};
  ParallelFor(context, panels, [&](int64_t p) {
    uint32_t lower = 0;
    ForPanel(in, options, p, [&](int64_t place, float value) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      out[place] = static_cast<uint16_t>(bits >> 16);
      lower |= bits & 0xffff;
    });
    lost |= lower;
  });
  *exact = lost == 0;
}

void ComputeKeep(void*, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  std::vector<int64_t> shape;
  for (int i = 0; i < in.rank(0); i++) shape.push_back(in.dim(0, i));
  auto* out = static_cast<int32_t*>(AllocateOutput(context, 0, TF_INT32, shape));
  if (out == nullptr) return;
  UseLargePages(out, in.size(0) * sizeof(int32_t));
  std::copy_n(in.ints(0), in.size(0), out);
}

// ---- products ----

// Columns [begin, end) of rows x [rows, ldx] as blocks of 16 rows: [blocks, end - begin, 16], rounded where asked for.
void PackRows(TF_OpKernelContext* context, const float* x, int64_t rows, int64_t ldx, int64_t begin, int64_t end,
              bool rounded, float* out) {
  ParallelFor(context, Ceil(rows), [&](int64_t block) {
    const int64_t count = std::min(kWidth, rows - block * kWidth), n = end - begin;
    float* to = out + block * n * kWidth;
    PackBlock(x + block * kWidth * ldx + begin, ldx, count, n, to);
    if (rounded) BestKernels().round(to, n);
  });
}

// Panels (or blocks of 16 rows) that a task takes at once: what it widens should stay in the cache, and all threads have work.
int64_t Grain(int64_t tasks, int64_t length) {
  const int64_t in_cache = (1 << 18) / (length * kWidth * static_cast<int64_t>(sizeof(float)));
  return std::max<int64_t>(1, std::min(in_cache, tasks / (ThreadCount() * 4)));
}

void ComputeProduct(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const auto& options = *static_cast<Options*>(state);
  Panels w(in, 1);
  w.rounded = options.rounded;
  const int64_t rows = in.dim(0, 0), n = options.columns;
  if (!Fits(w, options) || in.dim(0, 1) != w.k) return FailOp(context, "GrpolabProduct: the matrix does not fit");
  auto* y = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {rows, n}));
  if (y == nullptr) return;
  // Logits are in memory that is new each time, and would come in pages of 4 KiB.
  constexpr size_t kLarge = 1 << 25;
  if (rows * n * sizeof(float) > kLarge) UseLargePages(y, rows * n * sizeof(float));
  const std::unique_ptr<float[]> packed(new float[Ceil(rows) * kWidth * w.k]);
  PackRows(context, in.floats(0), rows, w.k, 0, w.k, w.rounded, packed.get());
  const int64_t grain = Grain(w.panels, w.k);
  ParallelFor(context, (w.panels + grain - 1) / grain, [&](int64_t task) {
    thread_local std::vector<float> scratch;
    const int64_t first = task * grain, last = std::min(w.panels, first + grain);
    const std::vector<const float*> wide = w.Wide(first, last, rows, &scratch);
    for (int64_t r = 0; r < rows; r += kWidth)
      for (int64_t p = first; p < last; p++) {
        const Columns columns(p, w.panels, n, options.parts);
        w.Product({&packed[r * w.k], kWidth, 1, std::min(kWidth, rows - r)}, p, wide[p - first], y + r * n + columns.first,
                  n, columns.count, Into::kStore);
      }
  });
}

// Panels whose columns a chunk of dy W^T takes: dy and W are packed for a chunk at a time.
constexpr int64_t kChunkPanels = 64;

// Blocks [from, to) of 16 rows of so many panels, transposed, as a product takes them: out [to - from, panels * 16, 16].
void TransposedBlocks(const Panels& w, int64_t first, int64_t panels, int64_t from, int64_t to, float* out) {
  const int64_t begin = from * kWidth, end = std::min(w.k, to * kWidth), size = panels * kWidth * kWidth;
  thread_local std::vector<float> lines;
  lines.assign((to - from) * kWidth * kWidth, 0.0f);  // the rows that a last block lacks stay zeros
  for (int64_t p = 0; p < panels; p++) {
    if (p + 1 < panels) w.Prefetch(first + p + 1, begin, end);
    const float* wide = w.Lines(first + p, begin, end, lines.data());
    for (int64_t b = 0; b < to - from; b++)
      BestKernels().transpose(wide + b * kWidth * kWidth, kWidth, out + b * size + p * kWidth * kWidth);
  }
  if (!w.rounded) return;
  for (int64_t b = 0; b < to - from; b++) BestKernels().round(out + b * size, panels * kWidth);
}

void ComputeProductGrad(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const auto& options = *static_cast<Options*>(state);
  Panels w(in, 1);
  w.rounded = options.rounded;
  const int64_t rows = in.dim(0, 0), n = options.columns;
  if (!Fits(w, options) || in.dim(0, 1) != n) return FailOp(context, "GrpolabProductGrad: the matrix does not fit");
  auto* dx = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {rows, w.k}));
  if (dx == nullptr) return;
  const auto multiply = w.rounded ? BestKernels().product_rounded : BestKernels().product;
  const int64_t blocks = Ceil(w.k), each = w.panels / options.parts;
  const std::unique_ptr<float[]> packed(new float[Ceil(rows) * kWidth * std::min(n, kChunkPanels * kWidth)]);
  for (int64_t first = 0; first < w.panels;) {
    // A chunk ends with its part: the columns of a padded panel are not followed by those of the next.
    const int64_t panels = std::min({kChunkPanels, w.panels - first, each - first % each});
    const Columns begin(first, w.panels, n, options.parts), end(first + panels - 1, w.panels, n, options.parts);
    const int64_t columns = end.first + end.count - begin.first;
    PackRows(context, in.floats(0), rows, n, begin.first, begin.first + columns, w.rounded, packed.get());
    const int64_t grain = Grain(blocks, panels * kWidth);
    ParallelFor(context, (blocks + grain - 1) / grain, [&](int64_t task) {
      thread_local std::vector<float> scratch;
      const int64_t from = task * grain, to = std::min(blocks, from + grain), size = panels * kWidth * kWidth;
      scratch.resize(std::max<size_t>(scratch.size(), grain * size));
      TransposedBlocks(w, first, panels, from, to, scratch.data());
      for (int64_t r = 0; r < rows; r += kWidth)
        for (int64_t b = from; b < to; b++)
          multiply({&packed[r * columns], kWidth, 1, std::min(kWidth, rows - r)}, columns, &scratch[(b - from) * size],
                   kWidth, dx + r * w.k + b * kWidth, w.k, std::min(kWidth, w.k - b * kWidth),
                   first == 0 ? Into::kStore : Into::kAdd);
    });
    first += panels;
  }
}

void ComputeColumns(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const auto& options = *static_cast<Options*>(state);
  const Panels w(in, 0);
  if (!Fits(w, options) || options.parts != 1) return FailOp(context, "GrpolabColumns: the matrix does not fit");
  const int64_t rows = in.size(1);
  for (int64_t r = 0; r < rows; r++)
    if (in.ints(1)[r] < 0 || in.ints(1)[r] >= options.columns)
      return FailOp(context, "GrpolabColumns: " + std::to_string(in.ints(1)[r]) + " is outside 0.." +
                                 std::to_string(options.columns - 1));
  auto* out = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {rows, w.k}));
  if (out == nullptr) return;
  ParallelFor(context, rows, [&](int64_t r) { w.Column(in.ints(1)[r], out + r * w.k); });
}

}  // namespace

void RegisterMatrixOps() {
  RegisterOp({"GrpolabPack", {"matrix: float"}, {"packed: float"}, {"transposed: bool", "parts: int"}, CreatePack,
              Guarded<ComputePack>, Destroy<PackOptions>});
  RegisterOp({"GrpolabPackHalves", {"matrix: float"}, {"packed: int32", "exact: int32"}, {"transposed: bool", "parts: int"},
              CreatePack, Guarded<ComputePackHalves>, Destroy<PackOptions>});
  RegisterOp({"GrpolabKeep", {"panels: int32"}, {"kept: int32"}, {}, [](TF_OpKernelConstruction*) -> void* { return nullptr; },
              Guarded<ComputeKeep>, [](void*) {}});
  const std::vector<const char*> shape = {"parts: int", "columns: int", "rounded: bool"};
  RegisterOp({"GrpolabProduct", {"x: float", "panels: int32"}, {"y: float"}, shape, Create, Guarded<ComputeProduct>,
              Destroy<Options>, false});
  RegisterOp({"GrpolabProductGrad", {"dy: float", "panels: int32"}, {"dx: float"}, shape, Create,
              Guarded<ComputeProductGrad>, Destroy<Options>, false});
  RegisterOp({"GrpolabColumns", {"panels: int32", "ids: int32"}, {"rows: float"}, shape, Create, Guarded<ComputeColumns>,
              Destroy<Options>, false});
}
