// Holds back what a native library writes to standard error while it is being loaded: TensorFlow prints two lines
// before it reads its log level. The caller gets the text and decides what a user should see. If the process crashes or
// exits meanwhile, the text is printed as it is: it says why.
//   hold()             from now on standard error goes to a memory file
//   release() -> text  standard error is itself again

#include <node_api.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace {

int saved = -1;
int memory = -1;

const int kCrashes[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
constexpr int kCrashCount = sizeof(kCrashes) / sizeof(kCrashes[0]);
struct sigaction previous[kCrashCount];

// Prints the held text. Only async-signal-safe calls.
void Flush() {
  if (saved < 0) return;
  dup2(saved, STDERR_FILENO);
  char part[4096];
  ssize_t size;
  for (off_t at = 0; (size = pread(memory, part, sizeof(part), at)) > 0; at += size)
    for (ssize_t done = 0, now; done < size; done += now)
      if ((now = write(STDERR_FILENO, part + done, size - done)) <= 0) return;
  saved = -1;
}

// Prints the held text, then lets the crash take its course: the signal comes again, to whom it belonged before.
void OnCrash(int signal) {
  Flush();
  for (int i = 0; i < kCrashCount; i++)
    if (kCrashes[i] == signal) sigaction(signal, &previous[i], nullptr);
  raise(signal);
}

void WatchCrashes() {
  static const int registered = std::atexit(Flush);
  (void)registered;
  struct sigaction action = {};
  action.sa_handler = OnCrash;
  action.sa_flags = SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < kCrashCount; i++) sigaction(kCrashes[i], &action, &previous[i]);
}

// A handler that the library set for itself while it was loading stays.
void UnwatchCrashes() {
  for (int i = 0; i < kCrashCount; i++) {
    struct sigaction current;
    sigaction(kCrashes[i], nullptr, &current);
    if (current.sa_handler == OnCrash) sigaction(kCrashes[i], &previous[i], nullptr);
  }
}

napi_value Hold(napi_env, napi_callback_info) {
  if (saved >= 0) return nullptr;
  memory = memfd_create("stderr", MFD_CLOEXEC);
  if (memory < 0) return nullptr;
  saved = dup(STDERR_FILENO);
  if (saved < 0) {
    close(memory);
    return nullptr;
  }
  WatchCrashes();
  dup2(memory, STDERR_FILENO);
  return nullptr;
}

napi_value Release(napi_env env, napi_callback_info) {
  std::string text;
  if (saved >= 0) {
    dup2(saved, STDERR_FILENO);
    close(saved);
    saved = -1;
    UnwatchCrashes();
    off_t size = lseek(memory, 0, SEEK_END);
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    if (!text.empty() && pread(memory, &text[0], text.size(), 0) < 0) text.clear();
    close(memory);
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
