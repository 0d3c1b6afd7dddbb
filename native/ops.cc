#include "ops.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <mutex>

#include "kernels.h"
#include "tensorflow/c/c_api.h"

OpInputs::OpInputs(TF_OpKernelContext* context) {
  OpStatus status;
  const int count = TF_NumInputs(context);
  for (int i = 0; i < count; i++) {
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context, i, &tensor, status.status);
    if (!status.ok()) {
      TF_OpKernelContext_Failure(context, status.status);
      return;
    }
    tensors_.push_back(tensor);
  }
  ok_ = true;
}

OpInputs::~OpInputs() {
  for (TF_Tensor* tensor : tensors_) TF_DeleteTensor(tensor);
}

void* AllocateOutput(TF_OpKernelContext* context, int index, TF_DataType dtype, const std::vector<int64_t>& shape) {
  OpStatus status;
  size_t bytes = TF_DataTypeSize(dtype);
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  TF_Tensor* tensor = TF_AllocateOutput(context, index, dtype, const_cast<int64_t*>(shape.data()),
                                        static_cast<int>(shape.size()), bytes, status.status);
  if (!status.ok()) {
    TF_OpKernelContext_Failure(context, status.status);
    return nullptr;
  }
  void* data = TF_TensorData(tensor);
  TF_DeleteTensor(tensor);  // the context holds the output
  return data;
}

void UseLargePages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 1 << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  // Where the system has none, all stays as it is.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

void FailOp(TF_OpKernelContext* context, const std::string& message) {
  OpStatus status;
  TF_SetStatus(status.status, TF_INVALID_ARGUMENT, message.c_str());
  TF_OpKernelContext_Failure(context, status.status);
}

namespace {

void UnknownShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

}  // namespace

void RegisterOp(const OpDescription& op) {
  OpStatus status;
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(op.name);
  for (const char* input : op.inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  for (const char* output : op.outputs) TF_OpDefinitionBuilderAddOutput(definition, output);
  for (const char* attribute : op.attributes) TF_OpDefinitionBuilderAddAttr(definition, attribute);
  // TensorFlow's function takes no notice of its argument.
  if (op.stateful) TF_OpDefinitionBuilderSetIsStateful(definition, true);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, UnknownShapes);
  TF_RegisterOpDefinition(definition, status.status);
  TF_KernelBuilder* kernel = TF_NewKernelBuilder(op.name, "CPU", op.create, op.compute, op.destroy);
  TF_RegisterKernelBuilder(op.name, kernel, status.status);
}

// ---- kernels and registration ----

#if defined(__x86_64__)
extern const Kernels kernels_v4, kernels_v3;
#if defined(GRPOLAB_HAS_KERNELS_BF16)
extern const Kernels kernels_bf16;
#endif
#endif
extern const Kernels kernels_plain;

namespace {

// GRPOLAB_KERNELS=v4, v3 or plain takes slower ones than the processor has: to test them, or for the bits of an older one.
const Kernels& ChooseKernels() {
#if defined(__x86_64__)
  const char* value = std::getenv("GRPOLAB_KERNELS");
  const std::string wish = value == nullptr ? "" : value;
  const bool v3 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
#if defined(GRPOLAB_HAS_KERNELS_BF16)
  const bool bf16 = v4 && __builtin_cpu_supports("avx512bf16");
  if (bf16 && wish != "v4" && wish != "v3" && wish != "plain") return kernels_bf16;
#endif
  if (v4 && wish != "v3" && wish != "plain") return kernels_v4;
  if (v3 && wish != "plain") return kernels_v3;
#endif
  return kernels_plain;
}

}  // namespace

const Kernels& BestKernels() {
  static const Kernels& best = ChooseKernels();
  return best;
}

void RegisterAttentionOps();
void RegisterDecodingOps();
void RegisterMatrixOps();
void RegisterSamplingOp();
void RegisterTrainingOps();

// Once a process: a second copy of the binding finds the ops registered, and leaves them.
void grpolab_register_ops() {
  static std::once_flag once;
  std::call_once(once, [] {
    OpStatus status;
    TF_Graph* graph = TF_NewGraph();
    TF_Buffer* definition = TF_NewBuffer();
    TF_GraphGetOpDef(graph, "GrpolabSample", definition, status.status);
    TF_DeleteBuffer(definition);
    TF_DeleteGraph(graph);
    if (status.ok()) return;
    RegisterAttentionOps();
    RegisterDecodingOps();
    RegisterMatrixOps();
    RegisterSamplingOp();
    RegisterTrainingOps();
  });
}
