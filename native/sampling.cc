// A TensorFlow op that draws tokens on the CPU. src/policy/sampling.ts has the definitions, and computes the same from
// other ops where this one cannot run (XLA, a GPU).
//
//   GrpolabSample(logits [R, V], uniforms [B], bias [V] or [0]) -> drawn [4, B]
//
// Row b draws from row b / (B / R) of the logits. What is drawn: the token, and its log-probabilities at temperature 1, at the
// given one, and in the distribution that was drawn from. One tensor of floats, which hold every id below 2^24: it is read
// at each step.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "ops.h"

namespace {

// The digits of a 31-bit key, most significant first: 11 + 10 + 10.
constexpr int kBits[] = {11, 10, 10};
constexpr float kResolution = 1048576.0f;  // 2^20
constexpr int64_t kBlock = 512;

struct Truncation {
  float temperature = 1, top_p = 1, min_p = 0;
  int64_t top_k = 0;
};

void* Create(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* t = new Truncation();
  TF_OpKernelConstruction_GetAttrFloat(construction, "temperature", &t->temperature, status.status);
  TF_OpKernelConstruction_GetAttrInt64(construction, "top_k", &t->top_k, status.status);
  TF_OpKernelConstruction_GetAttrFloat(construction, "top_p", &t->top_p, status.status);
  TF_OpKernelConstruction_GetAttrFloat(construction, "min_p", &t->min_p, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return t;
}

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

double SumOf(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum;
}

// Sets the masses that top-k, top-p and min-p cut to 0, each acting on what the one before left. The likeliest has 1.
void Truncate(const Truncation& t, const float* z, float* masses, int64_t n, std::vector<double>& sums) {
  const auto keep = [&](float threshold) {
    for (int64_t i = 0; i < n; i++)
      if (!(z[i] >= threshold)) masses[i] = 0;
  };
  if (t.top_k > 0 && t.top_k < n) {
    std::vector<float> sorted(z, z + n);
    std::nth_element(sorted.begin(), sorted.begin() + (t.top_k - 1), sorted.end(), std::greater<float>());
    keep(sorted[t.top_k - 1]);
  }
  if (t.top_p < 1) {
    // Tokens less than one step of the resolution apart at the threshold are all kept.
    const float last = LastKept(z, masses, n, SumOf(masses, n) * t.top_p, sums);
    keep(std::floor(last * kResolution) / kResolution);
  }
  if (t.min_p > 0)
    for (int64_t i = 0; i < n; i++)
      if (!(masses[i] >= t.min_p)) masses[i] = 0;
}

// The first token whose cumulative mass exceeds the target; the last of positive mass where rounding leaves none.
int64_t FirstAbove(const float* masses, int64_t n, double target) {
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!(masses[i] > 0)) continue;
    sum += masses[i];
    last = i;
    if (sum > target) break;
  }
  return last;
}

struct Scratch {
  std::vector<float> masses, z;
  std::vector<double> sums;
};

enum class Fault { kNone, kLogits, kBias };

// One row, to drawn[0], drawn[stride] ...
Fault Draw(const Truncation& t, const float* logits, const float* bias, int64_t n, float uniform, float* drawn,
          int64_t stride) {
  thread_local Scratch scratch;
  scratch.masses.resize(n);
  scratch.z.resize(n);
  float* masses = scratch.masses.data();
  const Kernels& kernels = BestKernels();
  const float largest = kernels.largest(logits, nullptr, 1, n);
  const double sum = kernels.masses(logits, nullptr, 1, largest, n, nullptr, nullptr);
  if (!std::isfinite(largest) || !std::isfinite(sum)) return Fault::kLogits;
  const bool greedy = t.temperature == 0;
  const float temperature = greedy ? 1 : t.temperature;
  const float top = kernels.largest(logits, bias, temperature, n);
  double kept = kernels.masses(logits, bias, temperature, top, n, masses, scratch.z.data());
  if (!std::isfinite(top) || !std::isfinite(kept)) return Fault::kBias;
  double tempered = kept;
  float tempered_top = top;
  if (bias != nullptr) {
    tempered_top = kernels.largest(logits, nullptr, temperature, n);
    tempered = kernels.masses(logits, nullptr, temperature, tempered_top, n, nullptr, nullptr);
  }
  int64_t token;
  if (greedy) {
    token = std::find_if(scratch.z.begin(), scratch.z.end(), [](float z) { return z >= 0; }) - scratch.z.begin();
  } else {
    Truncate(t, scratch.z.data(), masses, n, scratch.sums);
    kept = SumOf(masses, n);
    token = FirstAbove(masses, n, uniform * kept);
  }
  drawn[0] = static_cast<float>(token);
  drawn[stride] = static_cast<float>(logits[token] - largest - std::log(sum));
  drawn[2 * stride] = greedy ? 0 : static_cast<float>(logits[token] / temperature - tempered_top - std::log(tempered));
  drawn[3 * stride] = greedy ? 0 : static_cast<float>(std::log(masses[token] / kept));
  return Fault::kNone;
}

void Compute(void* state, TF_OpKernelContext* context) {
  const auto& truncation = *static_cast<Truncation*>(state);
  OpInputs in(context);
  if (!in.ok()) return;
  const int64_t rows = in.dim(0, 0), n = in.dim(0, 1), count = in.size(1);
  if (rows < 1 || n < 1 || count % rows != 0 || (in.size(2) != 0 && in.size(2) != n))
    return FailOp(context, "GrpolabSample: the uniforms or the bias do not fit the logits");
  if (n >= 1 << 24) return FailOp(context, "GrpolabSample: a vocabulary of 2^24 tokens or more");
  auto* drawn = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {4, count}));
  if (drawn == nullptr) return;
  const float* bias = in.size(2) == 0 ? nullptr : in.floats(2);
  std::atomic<Fault> fault{Fault::kNone};
  TightParallelFor(count, [&](int64_t b) {
    const float* logits = in.floats(0) + b / (count / rows) * n;
    const Fault found = Draw(truncation, logits, bias, n, in.floats(1)[b], drawn + b, count);
    if (found != Fault::kNone) fault = found;
  });
  if (fault == Fault::kLogits)
    FailOp(context, "the logits are not finite: the model's weights are broken, or training has diverged");
  else if (fault == Fault::kBias)
    FailOp(context, "no token may be drawn: the temperature is too small, or every token is banned");
}

}  // namespace

void RegisterSamplingOp() {
  RegisterOp({"GrpolabSample",
              {"logits: float", "uniforms: float", "bias: float"},
              {"drawn: float"},
              {"temperature: float", "top_k: int", "top_p: float", "min_p: float"},
              Create,
              Guarded<Compute>,
              [](void* state) { delete static_cast<Truncation*>(state); }});
}
