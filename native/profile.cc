// What TensorFlow has in C++ only, compiled against the headers of the installed package: its own profiler, for
// src/runtime/profile.ts, and whether a GPU may round what it multiplies to 10 bits (TF32).
#include <memory>
#include <string>

#include "tsl/platform/tensor_float_32_utils.h"
#include "tsl/profiler/lib/profiler_session.h"
#include "tsl/profiler/protobuf/xplane.pb.h"

namespace {
std::unique_ptr<tsl::ProfilerSession> session;
}  // namespace

// Starts one; returns what is wrong, or nothing.
std::string StartProfile() {
  tensorflow::ProfileOptions options = tsl::ProfilerSession::DefaultOptions();
  session = tsl::ProfilerSession::Create(options);
  const absl::Status status = session->Status();
  return status.ok() ? "" : std::string(status.message());
}

// Ends it; gives a serialised XSpace.
std::string StopProfile(std::string* bytes) {
  if (session == nullptr) return "no profile was started";
  tensorflow::profiler::XSpace space;
  const absl::Status status = session->CollectData(&space);
  session.reset();
  if (!status.ok()) return std::string(status.message());
  *bytes = space.SerializeAsString();
  return "";
}

void AllowTensorFloat32(bool allowed) { tsl::enable_tensor_float_32_execution(allowed); }
