// Holds back what a native library writes to standard error while it is being loaded: TensorFlow prints two lines
// before it reads its log level. The caller gets the text and decides what a user should see.
//   hold()             from now on standard error goes to a memory file
//   release() -> text  standard error is itself again

#include <node_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace {

int saved = -1;
int memory = -1;

napi_value Hold(napi_env, napi_callback_info) {
  if (saved >= 0) return nullptr;
  memory = memfd_create("stderr", 0);
  if (memory < 0) return nullptr;
  saved = dup(2);
  dup2(memory, 2);
  return nullptr;
}

napi_value Release(napi_env env, napi_callback_info) {
  std::string text;
  if (saved >= 0) {
    dup2(saved, 2);
    close(saved);
    off_t size = lseek(memory, 0, SEEK_END);
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    if (!text.empty() && pread(memory, &text[0], text.size(), 0) < 0) text.clear();
    close(memory);
    saved = memory = -1;
  }
  napi_value result;
  napi_create_string_utf8(env, text.data(), text.size(), &result);
  return result;
}

napi_value Init(napi_env env, napi_value exports) {
  napi_value function;
  napi_create_function(env, "hold", NAPI_AUTO_LENGTH, Hold, nullptr, &function);
  napi_set_named_property(env, exports, "hold", function);
  napi_create_function(env, "release", NAPI_AUTO_LENGTH, Release, nullptr, &function);
  napi_set_named_property(env, exports, "release", function);
  return exports;
}

}  // namespace

NAPI_MODULE(stderr_holder, Init)
