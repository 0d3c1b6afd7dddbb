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

struct Scratch {
  std::vector<float> masses, z, some_masses;
  std::vector<uint32_t> keys;
  std::vector<double> sums;
};

// The mass of each digit, to sums[0] .. sums[digits - 1]. Neighbours often have the same digit, and a sum that was just changed
// is slow to be read: each of four has sums of its own.
void SumDigits(const uint32_t* keys, const float* masses, int64_t n, int low, uint32_t digits, std::vector<double>& sums) {
  sums.assign(4 * digits, 0.0);
  for (int64_t i = 0; i < n; i++) sums[(i & 3) * digits + ((keys[i] >> low) & (digits - 1))] += masses[i];
  for (uint32_t d = 0; d < digits; d++)
    sums[d] = (sums[d] + sums[digits + d]) + (sums[2 * digits + d] + sums[3 * digits + d]);
}

// The largest z whose mass, with that of all larger ones, reaches the share: digit by digit, the mass of each digit summed.
float LastKept(int64_t n, double needed, Scratch& scratch) {
  std::vector<double>& sums = scratch.sums;
  uint32_t* keys = scratch.keys.data();
  float* masses = scratch.some_masses.data();
  for (int64_t i = 0; i < n; i++) keys[i] = KeyOf(scratch.z[i]);
  std::copy_n(scratch.masses.data(), n, masses);
  uint32_t prefix = 0;
  int low = 31;
  double before = 0;
  for (const int bits : kBits) {
    low -= bits;
    const uint32_t digits = 1u << bits;
    SumDigits(keys, masses, n, low, digits, sums);
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
    // Those of this digit go on. Without a branch, which would be guessed wrongly half of the time.
    int64_t some = 0;
    for (int64_t i = 0; i < n; i++) {
      const uint32_t key = keys[i];
      keys[some] = key;
      masses[some] = masses[i];
      some += key >> low == prefix >> low;
    }
    n = some;
  }
  return ValueOf(prefix);
}

// The sum of masses: of the sums of blocks, as FirstAbove adds them.
double SumOf(const float* masses, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i += kBlock) sum += BestKernels().sum(masses + i, std::min(kBlock, n - i));
  return sum;
}

// Sets the masses that top-k, top-p and min-p cut to 0, each acting on what the one before left. The likeliest has 1.
void Truncate(const Truncation& t, int64_t n, Scratch& scratch) {
  const float* z = scratch.z.data();
  float* masses = scratch.masses.data();
  const auto keep = [&](float threshold) { BestKernels().cut(z, threshold, n, masses); };
  if (t.top_k > 0 && t.top_k < n) {
    std::vector<float> sorted(z, z + n);
    std::nth_element(sorted.begin(), sorted.begin() + (t.top_k - 1), sorted.end(), std::greater<float>());
    keep(sorted[t.top_k - 1]);
  }
  if (t.top_p < 1) {
    scratch.keys.resize(n);
    scratch.some_masses.resize(n);
    // Tokens less than one step of the resolution apart at the threshold are all kept.
    const float last = LastKept(n, SumOf(masses, n) * t.top_p, scratch);
    keep(std::floor(last * kResolution) / kResolution);
  }
  if (t.min_p > 0) BestKernels().cut(masses, t.min_p, n, masses);
}

// The first token whose cumulative mass exceeds the target; the last of positive mass where rounding leaves none.
int64_t FirstAbove(const float* masses, int64_t n, double target) {
  double before = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    const double after = before + BestKernels().sum(masses + begin, end - begin);
    double sum = before;
    for (int64_t i = begin; i < end && after > target; i++) {
      sum += masses[i];
      if (sum > target && masses[i] > 0) return i;
    }
    before = after;
  }
  int64_t last = n - 1;
  while (last > 0 && !(masses[last] > 0)) last--;
  return last;
}

enum class Fault { kNone, kLogits, kBias };

// One row, to drawn[0], drawn[stride] ...
Fault Draw(const Truncation& t, const float* logits, const float* bias, int64_t n, float uniform, float* drawn,
          int64_t stride) {
  thread_local Scratch scratch;
  scratch.masses.resize(n);
  scratch.z.resize(n);
  float* masses = scratch.masses.data();
  const Kernels& kernels = BestKernels();
  const bool greedy = t.temperature == 0;
  const float temperature = greedy ? 1 : t.temperature;
  const bool is_plain = temperature == 1 && bias == nullptr;
  float* z = scratch.z.data();
  const float largest = kernels.largest(logits, nullptr, 1, n);
  const double sum = is_plain ? kernels.masses(logits, nullptr, 1, largest, n, masses, z)
                              : kernels.masses(logits, nullptr, 1, largest, n, nullptr, nullptr);
  if (!std::isfinite(largest) || !std::isfinite(sum)) return Fault::kLogits;
  const float top = is_plain ? largest : kernels.largest(logits, bias, temperature, n);
  double kept = is_plain ? sum : kernels.masses(logits, bias, temperature, top, n, masses, z);
  if (!std::isfinite(top) || !std::isfinite(kept)) return Fault::kBias;
  double tempered = kept;
  float tempered_top = top;
  if (bias != nullptr) {
    tempered_top = kernels.largest(logits, nullptr, temperature, n);
    tempered = kernels.masses(logits, nullptr, temperature, tempered_top, n, nullptr, nullptr);
  }
  int64_t token;
  if (greedy) {
    token = std::find_if(z, z + n, [](float value) { return value >= 0; }) - z;
  } else {
    Truncate(t, n, scratch);
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
