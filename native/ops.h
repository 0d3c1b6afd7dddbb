// What the ops of this binding share: status, inputs, threads.
#ifndef GRPOLAB_OPS_H_
#define GRPOLAB_OPS_H_

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

struct OpStatus {
  TF_Status* status = TF_NewStatus();
  ~OpStatus() { TF_DeleteStatus(status); }
  bool ok() const { return TF_GetCode(status) == TF_OK; }
};

// The inputs of one call; they are let go at its end.
class OpInputs {
 public:
  explicit OpInputs(TF_OpKernelContext* context);
  ~OpInputs();
  bool ok() const { return ok_; }
  int count() const { return static_cast<int>(tensors_.size()); }
  int64_t size(int i) const { return TF_TensorElementCount(tensors_[i]); }
  int rank(int i) const { return TF_NumDims(tensors_[i]); }
  int64_t dim(int i, int axis) const { return TF_Dim(tensors_[i], axis); }
  TF_DataType dtype(int i) const { return TF_TensorType(tensors_[i]); }
  const void* data(int i) const { return TF_TensorData(tensors_[i]); }
  float* floats(int i) const { return static_cast<float*>(TF_TensorData(tensors_[i])); }
  const int32_t* ints(int i) const { return static_cast<const int32_t*>(TF_TensorData(tensors_[i])); }

 private:
  std::vector<TF_Tensor*> tensors_;
  bool ok_ = false;
};

// Allocates an output; null when that failed, which is then reported.
void* AllocateOutput(TF_OpKernelContext* context, int index, TF_DataType dtype, const std::vector<int64_t>& shape);

// Asks for pages of 2 MiB under large memory that was just allocated: there are fewer of them to be made, and to be looked up
// by what is read from end to end again and again.
void UseLargePages(void* data, size_t bytes);

void FailOp(TF_OpKernelContext* context, const std::string& message);

// Registers an op and its CPU kernel. Definitions as TensorFlow writes them: "x: float", "n: int".
struct OpDescription {
  const char* name;
  std::vector<const char*> inputs;
  std::vector<const char*> outputs;
  std::vector<const char*> attributes;
  void* (*create)(TF_OpKernelConstruction*);
  void (*compute)(void*, TF_OpKernelContext*);
  void (*destroy)(void*);
  // Whether it does more than compute its outputs: such an op is never left out, or shared.
  bool stateful = true;
};
void RegisterOp(const OpDescription& op);

// A kernel that fails, where its code throws: TensorFlow would end the process.
template <void (*Compute)(void*, TF_OpKernelContext*)>
void Guarded(void* state, TF_OpKernelContext* context) {
  try {
    Compute(state, context);
  } catch (const std::exception& error) {
    OpStatus status;
    const std::string message = std::string("out of memory, or out of threads: ") + error.what();
    TF_SetStatus(status.status, TF_RESOURCE_EXHAUSTED, message.c_str());
    TF_OpKernelContext_Failure(context, status.status);
  }
}

// Calls work(0) to work(n - 1) on TensorFlow's threads, those that its own ops run on.
void ParallelFor(TF_OpKernelContext* context, int64_t n, const std::function<void(int64_t)>& work);

// The same on threads of our own that wait for the next call without sleeping: for loops of some microseconds, of which
// decoding has hundreds a token. One caller at a time; others wait.
void TightParallelFor(int64_t n, const std::function<void(int64_t)>& work);

// The cores that this process may use.
int64_t ThreadCount();

#endif  // GRPOLAB_OPS_H_
