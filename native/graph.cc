// Adds to tfjs-node's binding what its compiled functions need: build a TensorFlow graph node by node, without running
// it, and register it as a function in the eager context that the binding already has. The function then runs through
// the binding's own executeOp(name, ...), tensor handles in and out, without a copy.
//
// JavaScript sees (src/runtime/compile.ts):
//   graphNew() -> graph            graphDelete(graph)
//   graphOp(graph, op, attrs, inputs, shapes?) -> [{ref, dtype, shape}]     inputs: refs, or arrays of refs for list
//       arguments; shapes: of the outputs, where TensorFlow cannot infer them
//   graphConst(graph, dtype, shape, typedArray) -> {ref, dtype, shape}
//   graphFunction(graph, name, inputs, outputs, xla)               also deletes the graph
//   functionRemove(name)           opDefinition(op) -> Buffer (serialised OpDef)
//   profileStart()                 profileStop() -> Buffer (serialised XSpace of what ran between)
//   allowTensorFloat32(allowed)    whether products of float32 on a GPU may be of 10 bits
// A ref is a number that names one output of one node of its graph.

#include <node_api.h>

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/eager/c_api.h"
#include "tfjs_backend.h"

std::string StartProfile();
std::string StopProfile(std::string* bytes);
void AllowTensorFloat32(bool allowed);

namespace {

constexpr int64_t kOutputsPerNode = 4096;

struct Graph {
  TF_Graph* graph = TF_NewGraph();
  std::vector<TF_Operation*> nodes;
  ~Graph() { TF_DeleteGraph(graph); }
};

std::unordered_map<int32_t, std::unique_ptr<Graph>> graphs;
int32_t next_graph = 1;

struct Status {
  TF_Status* status = TF_NewStatus();
  ~Status() { TF_DeleteStatus(status); }
  bool ok() const { return TF_GetCode(status) == TF_OK; }
  std::string message() const { return TF_Message(status); }
};

napi_value Throw(napi_env env, const std::string& message) {
  napi_throw_error(env, nullptr, message.c_str());
  return nullptr;
}

std::string ToString(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string text(length, '\0');
  napi_get_value_string_utf8(env, value, &text[0], length + 1, &length);
  return text;
}

int64_t ToInt(napi_env env, napi_value value) {
  int64_t number = 0;
  napi_get_value_int64(env, value, &number);
  return number;
}

bool ToBool(napi_env env, napi_value value) {
  bool flag = false;
  napi_get_value_bool(env, value, &flag);
  return flag;
}

bool IsArray(napi_env env, napi_value value) {
  bool is_array = false;
  napi_is_array(env, value, &is_array);
  return is_array;
}

std::vector<napi_value> Elements(napi_env env, napi_value array) {
  uint32_t length = 0;
  napi_get_array_length(env, array, &length);
  std::vector<napi_value> elements(length);
  for (uint32_t i = 0; i < length; i++) napi_get_element(env, array, i, &elements[i]);
  return elements;
}

std::vector<int64_t> ToInts(napi_env env, napi_value array) {
  std::vector<int64_t> numbers;
  for (napi_value element : Elements(env, array)) numbers.push_back(ToInt(env, element));
  return numbers;
}

napi_value Property(napi_env env, napi_value object, const char* name) {
  napi_value value = nullptr;
  napi_get_named_property(env, object, name, &value);
  return value;
}

template <size_t N>
std::vector<napi_value> Arguments(napi_env env, napi_callback_info info) {
  size_t count = N;
  std::vector<napi_value> arguments(N, nullptr);
  napi_get_cb_info(env, info, &count, arguments.data(), nullptr, nullptr);
  return arguments;
}

TFE_Context* Context(napi_env env) {
  tfnodejs::TFJSBackend* backend = nullptr;
  napi_get_instance_data(env, reinterpret_cast<void**>(&backend));
  return backend == nullptr ? nullptr : backend->context();
}

Graph* FindGraph(napi_env env, napi_value id) {
  auto entry = graphs.find(static_cast<int32_t>(ToInt(env, id)));
  return entry == graphs.end() ? nullptr : entry->second.get();
}

bool ToOutput(napi_env env, const Graph& graph, napi_value ref, TF_Output* output) {
  int64_t number = ToInt(env, ref);
  size_t node = static_cast<size_t>(number / kOutputsPerNode);
  if (number < 0 || node >= graph.nodes.size()) return false;
  *output = {graph.nodes[node], static_cast<int>(number % kOutputsPerNode)};
  return true;
}

// Registers a finished node and describes output `i`: {ref, dtype, shape}; shape is null when it is not fully known.
napi_value DescribeOutput(napi_env env, Graph& graph, size_t node, int i) {
  TF_Output output{graph.nodes[node], i};
  Status status;
  int rank = TF_GraphGetTensorNumDims(graph.graph, output, status.status);
  std::vector<int64_t> dims(rank > 0 ? rank : 0);
  if (rank > 0) TF_GraphGetTensorShape(graph.graph, output, dims.data(), rank, status.status);
  bool known = rank >= 0 && status.ok();
  for (int64_t dim : dims) known = known && dim >= 0;
  napi_value object, ref, dtype, shape;
  napi_create_object(env, &object);
  napi_create_int64(env, static_cast<int64_t>(node) * kOutputsPerNode + i, &ref);
  napi_create_int32(env, TF_OperationOutputType(output), &dtype);
  if (known) {
    napi_create_array_with_length(env, rank, &shape);
    for (int k = 0; k < rank; k++) {
      napi_value dim;
      napi_create_int64(env, dims[k], &dim);
      napi_set_element(env, shape, k, dim);
    }
  } else {
    napi_get_null(env, &shape);
  }
  napi_set_named_property(env, object, "ref", ref);
  napi_set_named_property(env, object, "dtype", dtype);
  napi_set_named_property(env, object, "shape", shape);
  return object;
}

bool SetAttribute(napi_env env, TF_OperationDescription* node, napi_value attribute) {
  std::string name = ToString(env, Property(env, attribute, "name"));
  int type = static_cast<int>(ToInt(env, Property(env, attribute, "type")));
  napi_value value = Property(env, attribute, "value");
  const char* key = name.c_str();
  switch (type) {
    case TF_ATTR_TYPE:
      TF_SetAttrType(node, key, static_cast<TF_DataType>(ToInt(env, value)));
      return true;
    case TF_ATTR_INT:
      if (IsArray(env, value)) {
        std::vector<int64_t> numbers = ToInts(env, value);
        TF_SetAttrIntList(node, key, numbers.data(), static_cast<int>(numbers.size()));
      } else {
        TF_SetAttrInt(node, key, ToInt(env, value));
      }
      return true;
    case TF_ATTR_FLOAT: {
      double number = 0;
      napi_get_value_double(env, value, &number);
      TF_SetAttrFloat(node, key, static_cast<float>(number));
      return true;
    }
    case TF_ATTR_BOOL:
      TF_SetAttrBool(node, key, ToBool(env, value));
      return true;
    case TF_ATTR_STRING: {
      std::string text = ToString(env, value);
      TF_SetAttrString(node, key, text.data(), text.size());
      return true;
    }
    case TF_ATTR_SHAPE: {
      std::vector<int64_t> dims = ToInts(env, value);
      TF_SetAttrShape(node, key, dims.data(), static_cast<int>(dims.size()));
      return true;
    }
    default:
      Throw(env, "attribute " + name + " has a type that graphs do not take");
      return false;
  }
}

napi_value GraphNew(napi_env env, napi_callback_info) {
  int32_t id = next_graph++;
  graphs[id] = std::make_unique<Graph>();
  napi_value result;
  napi_create_int32(env, id, &result);
  return result;
}

napi_value GraphDelete(napi_env env, napi_callback_info info) {
  graphs.erase(static_cast<int32_t>(ToInt(env, Arguments<1>(env, info)[0])));
  return nullptr;
}

napi_value GraphOp(napi_env env, napi_callback_info info) {
  std::vector<napi_value> arguments = Arguments<5>(env, info);
  Graph* graph = FindGraph(env, arguments[0]);
  if (graph == nullptr) return Throw(env, "this graph is finished");
  std::string op = ToString(env, arguments[1]);
  std::string name = "n" + std::to_string(graph->nodes.size());
  TF_OperationDescription* node = TF_NewOperation(graph->graph, op.c_str(), name.c_str());
  bool good = true;
  for (napi_value input : Elements(env, arguments[3])) {
    if (IsArray(env, input)) {
      std::vector<TF_Output> outputs;
      for (napi_value element : Elements(env, input)) {
        outputs.emplace_back();
        good = good && ToOutput(env, *graph, element, &outputs.back());
      }
      if (good) TF_AddInputList(node, outputs.data(), static_cast<int>(outputs.size()));
    } else {
      TF_Output output;
      good = good && ToOutput(env, *graph, input, &output);
      if (good) TF_AddInput(node, output);
    }
    if (!good) break;
  }
  bool attributes_set = good;
  if (good) {
    for (napi_value attribute : Elements(env, arguments[2]))
      attributes_set = attributes_set && SetAttribute(env, node, attribute);
  }
  // A description can only be ended by finishing it: on a bad input this fails, which is what we want.
  Status status;
  TF_Operation* operation = TF_FinishOperation(node, status.status);
  if (!good) return Throw(env, op + ": an input does not belong to this graph");
  if (!attributes_set) return nullptr;
  if (!status.ok()) return Throw(env, op + ": " + status.message());
  graph->nodes.push_back(operation);
  int count = TF_OperationNumOutputs(operation);
  if (arguments[4] != nullptr && IsArray(env, arguments[4])) {
    int i = 0;
    for (napi_value shape : Elements(env, arguments[4])) {
      std::vector<int64_t> dims = ToInts(env, shape);
      TF_GraphSetTensorShape(graph->graph, {operation, i++}, dims.data(), static_cast<int>(dims.size()), status.status);
      if (!status.ok()) return Throw(env, op + ": " + status.message());
    }
  }
  napi_value result;
  napi_create_array_with_length(env, count, &result);
  for (int i = 0; i < count; i++)
    napi_set_element(env, result, i, DescribeOutput(env, *graph, graph->nodes.size() - 1, i));
  return result;
}

napi_value GraphConst(napi_env env, napi_callback_info info) {
  std::vector<napi_value> arguments = Arguments<4>(env, info);
  Graph* graph = FindGraph(env, arguments[0]);
  if (graph == nullptr) return Throw(env, "this graph is finished");
  TF_DataType dtype = static_cast<TF_DataType>(ToInt(env, arguments[1]));
  std::vector<int64_t> shape = ToInts(env, arguments[2]);
  napi_typedarray_type array_type;
  size_t length = 0, offset = 0;
  void* data = nullptr;
  napi_value buffer;
  napi_get_typedarray_info(env, arguments[3], &array_type, &length, &data, &buffer, &offset);
  size_t bytes = length * (array_type == napi_uint8_array ? 1 : 4);
  size_t expected = TF_DataTypeSize(dtype);
  for (int64_t dim : shape) expected *= static_cast<size_t>(dim);
  if (bytes != expected) return Throw(env, "a constant's values do not fill its shape");
  TF_Tensor* tensor = TF_AllocateTensor(dtype, shape.data(), static_cast<int>(shape.size()), bytes);
  if (bytes > 0) std::memcpy(TF_TensorData(tensor), data, bytes);
  Status status;
  std::string name = "c" + std::to_string(graph->nodes.size());
  TF_OperationDescription* node = TF_NewOperation(graph->graph, "Const", name.c_str());
  TF_SetAttrType(node, "dtype", dtype);
  TF_SetAttrTensor(node, "value", tensor, status.status);
  TF_Operation* operation = TF_FinishOperation(node, status.status);
  TF_DeleteTensor(tensor);
  if (!status.ok()) return Throw(env, "Const: " + status.message());
  graph->nodes.push_back(operation);
  return DescribeOutput(env, *graph, graph->nodes.size() - 1, 0);
}

napi_value GraphFunction(napi_env env, napi_callback_info info) {
  std::vector<napi_value> arguments = Arguments<5>(env, info);
  Graph* graph = FindGraph(env, arguments[0]);
  if (graph == nullptr) return Throw(env, "this graph is finished");
  std::string name = ToString(env, arguments[1]);
  std::vector<TF_Output> inputs, outputs;
  for (int list = 2; list <= 3; list++) {
    for (napi_value ref : Elements(env, arguments[list])) {
      TF_Output output;
      if (!ToOutput(env, *graph, ref, &output)) return Throw(env, name + ": unknown input or output");
      (list == 2 ? inputs : outputs).push_back(output);
    }
  }
  Status status;
  TF_Function* function = TF_GraphToFunction(
      graph->graph, name.c_str(), 0, -1, nullptr, static_cast<int>(inputs.size()), inputs.data(),
      static_cast<int>(outputs.size()), outputs.data(), nullptr, nullptr, name.c_str(), status.status);
  if (!status.ok()) return Throw(env, name + ": " + status.message());
  if (ToBool(env, arguments[4])) {
    const char must_compile[] = {0x28, 0x01};  // AttrValue{b: true}
    TF_FunctionSetAttrValueProto(function, "_XlaMustCompile", must_compile, sizeof must_compile, status.status);
  }
  if (status.ok()) TFE_ContextAddFunction(Context(env), function, status.status);
  TF_DeleteFunction(function);
  graphs.erase(static_cast<int32_t>(ToInt(env, arguments[0])));
  if (!status.ok()) return Throw(env, name + ": " + status.message());
  return nullptr;
}

napi_value FunctionRemove(napi_env env, napi_callback_info info) {
  Status status;
  TFE_ContextRemoveFunction(Context(env), ToString(env, Arguments<1>(env, info)[0]).c_str(), status.status);
  if (!status.ok()) return Throw(env, status.message());
  return nullptr;
}

napi_value OpDefinition(napi_env env, napi_callback_info info) {
  std::string op = ToString(env, Arguments<1>(env, info)[0]);
  Status status;
  TF_Buffer* buffer = TF_NewBuffer();
  Graph graph;
  TF_GraphGetOpDef(graph.graph, op.c_str(), buffer, status.status);
  napi_value result = nullptr;
  if (status.ok()) napi_create_buffer_copy(env, buffer->length, buffer->data, nullptr, &result);
  TF_DeleteBuffer(buffer);
  return status.ok() ? result : Throw(env, op + ": " + status.message());
}

napi_value ProfileStart(napi_env env, napi_callback_info) {
  const std::string problem = StartProfile();
  return problem.empty() ? nullptr : Throw(env, problem);
}

napi_value ProfileStop(napi_env env, napi_callback_info) {
  std::string bytes;
  const std::string problem = StopProfile(&bytes);
  if (!problem.empty()) return Throw(env, problem);
  napi_value result = nullptr;
  napi_create_buffer_copy(env, bytes.size(), bytes.data(), nullptr, &result);
  return result;
}

napi_value SetTensorFloat32(napi_env env, napi_callback_info info) {
  AllowTensorFloat32(ToBool(env, Arguments<1>(env, info)[0]));
  return nullptr;
}

}  // namespace

void grpolab_register_ops();

// Called from the binding's initialisation (scripts/setup.mjs inserts the call).
void grpolab_exports(napi_env env, napi_value exports) {
  grpolab_register_ops();
  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {{"graphNew", GraphNew},           {"graphDelete", GraphDelete},
                   {"graphOp", GraphOp},             {"graphConst", GraphConst},
                   {"graphFunction", GraphFunction}, {"functionRemove", FunctionRemove},
                   {"opDefinition", OpDefinition},   {"profileStart", ProfileStart},
                   {"profileStop", ProfileStop},     {"allowTensorFloat32", SetTensorFloat32}};
  for (const auto& entry : functions) {
    napi_value function;
    napi_create_function(env, entry.name, NAPI_AUTO_LENGTH, entry.callback, nullptr, &function);
    napi_set_named_property(env, exports, entry.name, function);
  }
}
