// A TensorFlow op for sampling on the CPU: the threshold of top-p in three passes over a row, in place of two dozen passes
// by ops over the whole vocabulary. src/policy/sampling.ts has the definition, and computes the same from other ops where
// this one cannot run (XLA, a GPU).
//
//   GrpolabNucleusThreshold(z: float [B, V], masses: float [B, V], top_p: float []) -> threshold: float [B, 1]

#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace {

constexpr char kName[] = "GrpolabNucleusThreshold";
// The digits of a 31-bit key, most significant first: 11 + 10 + 10.
constexpr int kBits[] = {11, 10, 10};
constexpr float kResolution = 1048576.0f;  // 2^20

struct Status {
  TF_Status* status = TF_NewStatus();
  ~Status() { TF_DeleteStatus(status); }
};

// z <= 0 as an integer that grows with -z: the bits of a float that is not negative are in its order.
uint32_t KeyOf(float z) {
  const float distance = z < 0 ? -z : 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &distance, sizeof bits);
  return bits;
}

float ValueOf(uint32_t key) {
  float distance;
  std::memcpy(&distance, &key, sizeof distance);
  return -distance;
}

// The largest z whose mass, with that of all larger ones, reaches the share: digit by digit, the mass of each digit summed.
float LastKept(const float* z, const float* masses, int64_t n, double needed, std::vector<double>& sums) {
  uint32_t prefix = 0;
  int shift = 31;
  double before = 0;
  for (const int bits : kBits) {
    const uint32_t above = shift == 31 ? 0 : prefix >> shift;
    const int low = shift - bits;
    const uint32_t digits = 1u << bits;
    sums.assign(digits, 0.0);
    for (int64_t i = 0; i < n; i++) {
      const uint32_t key = KeyOf(z[i]);
      if (shift < 31 && key >> shift != above) continue;
      sums[(key >> low) & (digits - 1)] += masses[i];
    }
    uint32_t digit = 0;
    uint32_t last = 0;  // of the digits that have any mass: where rounding leaves the share unreached
    for (; digit < digits; digit++) {
      if (sums[digit] > 0) last = digit;
      if (before + sums[digit] >= needed && sums[digit] > 0) break;
      before += sums[digit];
    }
    if (digit == digits) {
      digit = last;
      before -= sums[last];
    }
    prefix |= digit << low;
    shift = low;
  }
  return ValueOf(prefix);
}

void Compute(void*, TF_OpKernelContext* context) {
  Status status;
  TF_Tensor* inputs[3] = {nullptr, nullptr, nullptr};
  for (int i = 0; i < 3; i++) {
    TF_GetInput(context, i, &inputs[i], status.status);
    if (TF_GetCode(status.status) != TF_OK) return TF_OpKernelContext_Failure(context, status.status);
  }
  const int64_t rows = TF_Dim(inputs[0], 0);
  const int64_t n = TF_Dim(inputs[0], 1);
  const int64_t shape[] = {rows, 1};
  TF_Tensor* output = TF_AllocateOutput(context, 0, TF_FLOAT, shape, 2, rows * sizeof(float), status.status);
  if (TF_GetCode(status.status) == TF_OK) {
    const float* z = static_cast<const float*>(TF_TensorData(inputs[0]));
    const float* masses = static_cast<const float*>(TF_TensorData(inputs[1]));
    const float top_p = *static_cast<const float*>(TF_TensorData(inputs[2]));
    float* thresholds = static_cast<float*>(TF_TensorData(output));
    std::vector<double> sums;
    for (int64_t row = 0; row < rows; row++) {
      double total = 0;
      for (int64_t i = 0; i < n; i++) total += masses[row * n + i];
      const float last = LastKept(z + row * n, masses + row * n, n, total * top_p, sums);
      // The same resolution as by bisection: tokens less than one step apart at the threshold are all kept.
      thresholds[row] = std::floor(last * kResolution) / kResolution;
    }
    TF_DeleteTensor(output);
  } else {
    TF_OpKernelContext_Failure(context, status.status);
  }
  for (TF_Tensor* input : inputs) TF_DeleteTensor(input);
}

void InferShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* input = TF_NewShapeHandle();
  TF_ShapeHandle* rows = TF_NewShapeHandle();
  TF_ShapeHandle* result = TF_NewShapeHandle();
  TF_ShapeHandle* one = TF_ShapeInferenceContextVectorFromSize(context, 1);
  TF_ShapeInferenceContextGetInput(context, 0, input, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSubshape(context, input, 0, 1, rows, status);
  if (TF_GetCode(status) == TF_OK)
    TF_ShapeInferenceContextConcatenateShapes(context, rows, one, result, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, 0, result, status);
  for (TF_ShapeHandle* handle : {input, rows, result, one}) TF_DeleteShapeHandle(handle);
}

}  // namespace

// Once a process: a second copy of the binding finds the op registered.
void grpolab_register_ops() {
  static std::once_flag once;
  std::call_once(once, [] {
    Status status;
    TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(kName);
    TF_OpDefinitionBuilderAddInput(definition, "z: float");
    TF_OpDefinitionBuilderAddInput(definition, "masses: float");
    TF_OpDefinitionBuilderAddInput(definition, "top_p: float");
    TF_OpDefinitionBuilderAddOutput(definition, "threshold: float");
    TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, InferShape);
    TF_RegisterOpDefinition(definition, status.status);
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(kName, "CPU", nullptr, Compute, nullptr);
    TF_RegisterKernelBuilder(kName, kernel, status.status);
  });
}
