// Ops of a training pass that take the place of several of TensorFlow's, each with its gradient, on a CPU. src/model/ops.ts
// and src/model/qwen3.ts have the definitions, and the same as graphs, which serve where these ops cannot run.
//
//   GrpolabRmsNorm(x [N, D], weight [D]) -> y, inverse [N]: 1 / sqrt(mean(x^2) + eps)
//   GrpolabRmsNormGrad(x, weight, inverse, dy) -> dx, dweight
//   GrpolabGate(x [N, 2 F]) -> [N, F]: silu of the first half times the second half
//   GrpolabGateGrad(x, dy) -> dx
//   GrpolabSoftmax(logits [N, V], targets [N]) -> log p(target) and entropy [2, N], onehot(target) - p [N, V], where
//     p = softmax(logits / temperature)
//   GrpolabLora(base [N, O], x [N, I], A [I, r], B [r, o] of each module) -> y = base + scale x A B, states = scale x A
//   GrpolabLoraGrad(x, states, dy, A, B...) -> gradients of all A and B, and of x A: [N, sum of r]
//   GrpolabLoraInput(base [N, I], gradient of x A, A, B...) -> base + gradient A^T: the gradient of x

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels.h"
#include "matrix.h"
#include "ops.h"

namespace {

struct Attributes {
  float eps = 0, scale = 1, temperature = 1;
  std::vector<int64_t> offsets;
};

void* CreateNorm(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* attributes = new Attributes();
  TF_OpKernelConstruction_GetAttrFloat(construction, "eps", &attributes->eps, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return attributes;
}

void* CreateSoftmax(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* attributes = new Attributes();
  TF_OpKernelConstruction_GetAttrFloat(construction, "temperature", &attributes->temperature, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return attributes;
}

void* CreatePlain(TF_OpKernelConstruction*) { return new Attributes(); }

void* CreateLora(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* attributes = new Attributes();
  int32_t list = 0, total = 0;
  TF_OpKernelConstruction_GetAttrFloat(construction, "scale", &attributes->scale, status.status);
  TF_OpKernelConstruction_GetAttrSize(construction, "offsets", &list, &total, status.status);
  attributes->offsets.resize(std::max(list, 0));
  if (list > 0)
    TF_OpKernelConstruction_GetAttrInt64List(construction, "offsets", attributes->offsets.data(), list, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return attributes;
}

void Destroy(void* state) { delete static_cast<Attributes*>(state); }

float* Output(TF_OpKernelContext* context, int index, const std::vector<int64_t>& shape) {
  return static_cast<float*>(AllocateOutput(context, index, TF_FLOAT, shape));
}

// ---- RMSNorm, gated unit: a task is a block of rows ----

constexpr int64_t kRows = 32;

void ForRows(TF_OpKernelContext* context, int64_t rows, const std::function<void(int64_t, int64_t)>& work) {
  ParallelFor(context, (rows + kRows - 1) / kRows,
              [&](int64_t task) { work(task * kRows, std::min(rows, (task + 1) * kRows)); });
}

void ComputeNorm(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const int64_t rows = in.dim(0, 0), n = in.dim(0, 1);
  if (in.size(1) != n) return FailOp(context, "GrpolabRmsNorm: the weight does not fit");
  float* y = Output(context, 0, {rows, n});
  float* inverse = Output(context, 1, {rows});
  if (y == nullptr || inverse == nullptr) return;
  const float eps = static_cast<Attributes*>(state)->eps;
  ForRows(context, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      inverse[r] = BestKernels().norm(in.floats(0) + r * n, n, in.floats(1), eps, y + r * n);
  });
}

void ComputeNormGrad(void*, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const int64_t rows = in.dim(0, 0), n = in.dim(0, 1);
  float* dx = Output(context, 0, {rows, n});
  float* dweight = Output(context, 1, {n});
  if (dx == nullptr || dweight == nullptr) return;
  const int64_t tasks = (rows + kRows - 1) / kRows;
  std::vector<float> sums(tasks * n, 0.0f);  // one a task: the order of the sum must not depend on who is first
  ForRows(context, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      BestKernels().norm_grad(in.floats(0) + r * n, n, in.floats(1), in.floats(2)[r], in.floats(3) + r * n, dx + r * n,
                              &sums[begin / kRows * n]);
  });
  std::fill_n(dweight, n, 0.0f);
  for (int64_t task = 0; task < tasks; task++)
    for (int64_t i = 0; i < n; i++) dweight[i] += sums[task * n + i];
}

void ComputeGate(void*, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const int64_t rows = in.dim(0, 0), n = in.dim(0, 1) / 2;
  float* y = Output(context, 0, {rows, n});
  if (y == nullptr) return;
  ForRows(context, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) BestKernels().gate(in.floats(0) + r * 2 * n, n, y + r * n);
  });
}

void ComputeGateGrad(void*, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const int64_t rows = in.dim(0, 0), n = in.dim(0, 1) / 2;
  float* dx = Output(context, 0, {rows, 2 * n});
  if (dx == nullptr) return;
  ForRows(context, rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      BestKernels().gate_grad(in.floats(0) + r * 2 * n, n, in.floats(1) + r * n, dx + r * 2 * n);
  });
}

// ---- softmax of the output layer ----

// An output that starts as input 0: in its memory where nothing else needs that.
float* OutputFromFirst(TF_OpKernelContext* context, int output, const std::vector<int64_t>& shape) {
  OpStatus status;
  int input = 0, forwarded = -1;
  TF_Tensor* tensor =
      TF_ForwardInputOrAllocateOutput(context, &input, 1, output, const_cast<int64_t*>(shape.data()),
                                      static_cast<int>(shape.size()), &forwarded, status.status);
  if (!status.ok()) {
    TF_OpKernelContext_Failure(context, status.status);
    return nullptr;
  }
  auto* data = static_cast<float*>(TF_TensorData(tensor));
  TF_DeleteTensor(tensor);
  return data;
}

// The shape of a matrix among the inputs, without holding on to it.
std::vector<int64_t> InputShape(TF_OpKernelContext* context, int input) {
  OpStatus status;
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context, input, &tensor, status.status);
  if (!status.ok()) return {0, 0};
  const std::vector<int64_t> shape = {TF_Dim(tensor, 0), TF_Dim(tensor, 1)};
  TF_DeleteTensor(tensor);
  return shape;
}

void ComputeSoftmax(void* state, TF_OpKernelContext* context) {
  const std::vector<int64_t> shape = InputShape(context, 0);
  float* errors = OutputFromFirst(context, 1, shape);
  OpInputs in(context);
  if (!in.ok() || errors == nullptr) return;
  const int64_t rows = shape[0], n = shape[1];
  if (in.size(1) != rows) return FailOp(context, "GrpolabSoftmax: the targets do not fit the logits");
  for (int64_t r = 0; r < rows; r++)
    if (in.ints(1)[r] < 0 || in.ints(1)[r] >= n)
      return FailOp(context, "GrpolabSoftmax: target " + std::to_string(in.ints(1)[r]) + " is outside 0.." +
                                 std::to_string(n - 1));
  float* value = Output(context, 0, {2, rows});
  if (value == nullptr) return;
  const float temperature = static_cast<Attributes*>(state)->temperature;
  ParallelFor(context, rows, [&](int64_t r) {
    const float* logits = in.floats(0) + r * n;
    float* error = errors + r * n;  // may lie where the logits do
    const int32_t id = in.ints(1)[r];
    const float target = logits[id] / temperature;
    double sum, moment;
    const float max = BestKernels().negative_softmax(logits, temperature, n, error, &sum, &moment);
    // 1 - p(target) as the sum of the others: a difference would leave nothing of it where p(target) is near 1.
    error[id] = 0;
    error[id] = static_cast<float>(-BestKernels().sum(error, n));
    value[r] = static_cast<float>(target - max - std::log(sum));
    value[rows + r] = static_cast<float>(std::log(sum) - moment);
  });
}

// ---- LoRA ----

// One module's factors, padded so that a product may read 16 columns: A [I, r'], B [r, o'], and transposed: A [r, I'],
// B [o, r'].
struct Module {
  int64_t inputs, rank, outputs, offset, column;  // column: of its states, where all modules' stand side by side
  std::vector<float> a, b, a_rows, b_rows;
  int64_t padded_rank() const { return Ceil(rank) * kWidth; }
};

std::vector<float> Padded(const float* x, int64_t rows, int64_t columns) {
  const int64_t width = Ceil(columns) * kWidth;
  std::vector<float> result(rows * width, 0.0f);
  for (int64_t r = 0; r < rows; r++) std::copy(x + r * columns, x + (r + 1) * columns, &result[r * width]);
  return result;
}

std::vector<float> PaddedTransposed(const float* x, int64_t rows, int64_t columns) {
  const int64_t width = Ceil(rows) * kWidth;
  std::vector<float> result(columns * width, 0.0f);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) result[c * width + r] = x[r * columns + c];
  return result;
}

enum class Layout { kForward, kBackward, kInput };

// The modules whose factors start at an input.
std::vector<Module> Modules(const OpInputs& in, int start, const Attributes& attributes, Layout layout) {
  std::vector<Module> modules;
  int64_t column = 0;
  for (size_t i = 0; i < attributes.offsets.size(); i++) {
    const int a = start + static_cast<int>(2 * i), b = a + 1;
    Module m{in.dim(a, 0), in.dim(a, 1), in.dim(b, 1), attributes.offsets[i], column, {}, {}, {}, {}};
    if (layout == Layout::kForward) {
      m.a = Padded(in.floats(a), m.inputs, m.rank);
      m.b = Padded(in.floats(b), m.rank, m.outputs);
    } else if (layout == Layout::kBackward) {
      m.b_rows = PaddedTransposed(in.floats(b), m.rank, m.outputs);
    } else {
      m.a_rows = PaddedTransposed(in.floats(a), m.inputs, m.rank);
    }
    column += m.rank;
    modules.push_back(std::move(m));
  }
  return modules;
}

int64_t TotalRank(const std::vector<Module>& modules) {
  return modules.back().column + modules.back().rank;
}

// Blocks of 16 rows of an output that starts as `base`.
void ForBlocks(TF_OpKernelContext* context, int64_t rows, int64_t columns, const float* base, float* out,
               const std::function<void(int64_t, int64_t)>& work) {
  ParallelFor(context, Ceil(rows), [&](int64_t block) {
    const int64_t begin = block * kWidth, count = std::min(kWidth, rows - begin);
    if (base != out) std::copy(base + begin * columns, base + (begin + count) * columns, out + begin * columns);
    work(begin, count);
  });
}

void ComputeLora(void* state, TF_OpKernelContext* context) {
  const auto& attributes = *static_cast<Attributes*>(state);
  const std::vector<int64_t> shape = InputShape(context, 0);
  float* y = OutputFromFirst(context, 0, shape);
  OpInputs in(context);
  if (!in.ok() || y == nullptr) return;
  const int64_t rows = shape[0], inputs = in.dim(1, 1);
  const std::vector<Module> modules = Modules(in, 2, attributes, Layout::kForward);
  const int64_t total = TotalRank(modules);
  float* states = Output(context, 1, {rows, total});
  if (states == nullptr) return;
  const Kernels& kernels = BestKernels();
  ForBlocks(context, rows, shape[1], in.floats(0), y, [&](int64_t begin, int64_t count) {
    thread_local std::vector<float> packed, state_rows;
    packed.resize(inputs * kWidth);
    // Rows of some thousand columns fall on the same places of the cache: laid out as lines, all stay there.
    PackBlock(in.floats(1) + begin * inputs, inputs, count, inputs, packed.data());
    for (const Module& m : modules) {
      const int64_t width = m.padded_rank();
      state_rows.resize(kWidth * width);
      for (int64_t j = 0; j < width; j += kWidth)
        kernels.product({packed.data(), kWidth, 1, count}, inputs, &m.a[j], width, &state_rows[j], width, kWidth,
                        Into::kStore);
      for (float& value : state_rows) value *= attributes.scale;
      for (int64_t r = 0; r < count; r++)
        std::copy(&state_rows[r * width], &state_rows[r * width] + m.rank, states + (begin + r) * total + m.column);
      const int64_t ldb = Ceil(m.outputs) * kWidth;
      for (int64_t j = 0; j < m.outputs; j += kWidth)
        kernels.product({state_rows.data(), 1, width, count}, m.rank, &m.b[j], ldb, y + begin * shape[1] + m.offset + j,
                        shape[1], std::min(kWidth, m.outputs - j), Into::kAdd);
    }
  });
}

// out [r, columns, at `first`] = left^T [N, r] times the columns [first, first + 16) of right [N, ldr], with `store` called
// for each element.
template <typename Store>
void OuterPanel(const float* left, int64_t ldl, int64_t rank, int64_t rows, const float* right, int64_t ldr,
                int64_t first, int64_t columns, const Store& store) {
  const int64_t count = std::min(kWidth, columns - first);
  std::vector<float> edge;
  if (first + kWidth > ldr || first + kWidth > columns) {  // a product reads 16 columns
    edge.assign(rows * kWidth, 0.0f);
    for (int64_t i = 0; i < rows; i++) std::copy_n(right + i * ldr + first, count, &edge[i * kWidth]);
  }
  float tile[kWidth * kWidth];
  for (int64_t r = 0; r < rank; r += kWidth) {
    const int64_t some = std::min(kWidth, rank - r);
    BestKernels().product({left + r, ldl, 1, some}, rows, edge.empty() ? right + first : edge.data(),
                          edge.empty() ? ldr : kWidth, tile, kWidth, kWidth, Into::kStore);
    for (int64_t i = 0; i < some; i++)
      for (int64_t j = 0; j < count; j++) store(r + i, first + j, tile[i * kWidth + j]);
  }
}

void ComputeLoraGrad(void* state, TF_OpKernelContext* context) {
  const auto& attributes = *static_cast<Attributes*>(state);
  OpInputs in(context);
  if (!in.ok()) return;
  const float *x = in.floats(0), *states = in.floats(1), *dy = in.floats(2);
  const int64_t rows = in.dim(0, 0), inputs = in.dim(0, 1), outputs = in.dim(2, 1);
  const std::vector<Module> modules = Modules(in, 3, attributes, Layout::kBackward);
  const int64_t total = TotalRank(modules);
  float* dstates = Output(context, 0, {rows, total});
  std::vector<float*> grads;
  for (size_t i = 0; i < modules.size(); i++) {
    const Module& m = modules[i];
    grads.push_back(Output(context, static_cast<int>(1 + 2 * i), {m.inputs, m.rank}));
    grads.push_back(Output(context, static_cast<int>(2 + 2 * i), {m.rank, m.outputs}));
  }
  if (dstates == nullptr || std::count(grads.begin(), grads.end(), nullptr) > 0) return;
  const Kernels& kernels = BestKernels();
  ParallelFor(context, Ceil(rows), [&](int64_t block) {
    const int64_t begin = block * kWidth, count = std::min(kWidth, rows - begin);
    float tile[kWidth * kWidth];
    thread_local std::vector<float> packed;
    for (const Module& m : modules) {
      packed.resize(m.outputs * kWidth);
      PackBlock(dy + begin * outputs + m.offset, outputs, count, m.outputs, packed.data());
      for (int64_t r = 0; r < m.rank; r += kWidth) {
        kernels.product({packed.data(), kWidth, 1, count}, m.outputs, &m.b_rows[r], m.padded_rank(), tile, kWidth, kWidth,
                        Into::kStore);
        for (int64_t i = 0; i < count; i++)
          for (int64_t j = 0; j < std::min(kWidth, m.rank - r); j++)
            dstates[(begin + i) * total + m.column + r + j] = attributes.scale * tile[i * kWidth + j];
      }
    }
  });
  // Panels of A^T's columns, then of B's, of each module.
  std::vector<std::function<void()>> panels;
  for (size_t i = 0; i < modules.size(); i++) {
    const Module* m = &modules[i];
    float *da = grads[2 * i], *db = grads[2 * i + 1];
    for (int64_t j = 0; j < inputs; j += kWidth)
      panels.push_back([=] {
        OuterPanel(dstates + m->column, total, m->rank, rows, x, inputs, j, inputs,
                   [=](int64_t r, int64_t c, float value) { da[c * m->rank + r] = value; });
      });
    for (int64_t j = 0; j < m->outputs; j += kWidth)
      panels.push_back([=] {
        OuterPanel(states + m->column, total, m->rank, rows, dy + m->offset, outputs, j, m->outputs,
                   [=](int64_t r, int64_t c, float value) { db[r * m->outputs + c] = value; });
      });
  }
  ParallelFor(context, static_cast<int64_t>(panels.size()), [&](int64_t i) { panels[i](); });
}

void ComputeLoraInput(void* state, TF_OpKernelContext* context) {
  const auto& attributes = *static_cast<Attributes*>(state);
  const std::vector<int64_t> shape = InputShape(context, 0);
  float* dx = OutputFromFirst(context, 0, shape);
  OpInputs in(context);
  if (!in.ok() || dx == nullptr) return;
  const std::vector<Module> modules = Modules(in, 2, attributes, Layout::kInput);
  const int64_t total = TotalRank(modules), inputs = shape[1];
  ForBlocks(context, shape[0], inputs, in.floats(0), dx, [&](int64_t begin, int64_t count) {
    for (const Module& m : modules)
      for (int64_t j = 0; j < inputs; j += kWidth)
        BestKernels().product({in.floats(1) + begin * total + m.column, 1, total, count}, m.rank, &m.a_rows[j],
                              Ceil(inputs) * kWidth, dx + begin * inputs + j, inputs, std::min(kWidth, inputs - j),
                              Into::kAdd);
  });
}

}  // namespace

void RegisterTrainingOps() {
  const auto pure = [](const char* name, std::vector<const char*> inputs, std::vector<const char*> outputs,
                       std::vector<const char*> attributes, void* (*create)(TF_OpKernelConstruction*),
                       void (*compute)(void*, TF_OpKernelContext*)) {
    RegisterOp({name, inputs, outputs, attributes, create, compute, Destroy, false});
  };
  pure("GrpolabRmsNorm", {"x: float", "weight: float"}, {"y: float", "inverse: float"}, {"eps: float"}, CreateNorm,
       Guarded<ComputeNorm>);
  pure("GrpolabRmsNormGrad", {"x: float", "weight: float", "inverse: float", "dy: float"},
       {"dx: float", "dweight: float"}, {}, CreatePlain, Guarded<ComputeNormGrad>);
  pure("GrpolabGate", {"x: float"}, {"y: float"}, {}, CreatePlain, Guarded<ComputeGate>);
  pure("GrpolabGateGrad", {"x: float", "dy: float"}, {"dx: float"}, {}, CreatePlain, Guarded<ComputeGateGrad>);
  pure("GrpolabSoftmax", {"logits: float", "targets: int32"}, {"value: float", "errors: float"},
       {"temperature: float"}, CreateSoftmax, Guarded<ComputeSoftmax>);
  const std::vector<const char*> lora = {"scale: float", "offsets: list(int)", "N: int"};
  pure("GrpolabLora", {"base: float", "x: float", "factors: N * float"}, {"y: float", "states: float"}, lora, CreateLora,
       Guarded<ComputeLora>);
  pure("GrpolabLoraGrad", {"x: float", "states: float", "dy: float", "factors: N * float"},
       {"dstates: float", "grads: N * float"}, lora, CreateLora, Guarded<ComputeLoraGrad>);
  pure("GrpolabLoraInput", {"base: float", "dstates: float", "factors: N * float"}, {"dx: float"}, lora, CreateLora,
       Guarded<ComputeLoraInput>);
}
