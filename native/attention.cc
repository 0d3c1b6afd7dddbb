// Attention of training as one op and its gradient, where a graph has some forty: RMSNorm and rotation of queries and keys,
// scores, softmax, values, over prompts and their completions. Nothing of [T, T] is kept for the backward pass, which
// computes the scores again (Dao et al. 2022, arXiv 2205.14135, section 3.1). src/model/qwen3.ts has the layout, and the
// same computation as a graph, which serves where these ops cannot run (XLA, a GPU, op by op).
//
//   GrpolabAttention(qkv [N, (heads + 2 kvHeads) D], cos, sin [N, 1, D / 2], mask [P, Tp], q_norm, k_norm [D])
//     -> attended [N, heads D], log_sums [N, heads]
//   GrpolabAttentionGrad(the same, attended, log_sums, gradient [N, heads D]) -> gradients of qkv, q_norm, k_norm
//
// The N tokens are P prompts of Tp, padded on the left as the mask says, then P * group completions of the same length.

#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops.h"

void ScoreBlock(const QueryBlock& block, float* scores) {
  const Kernels& kernels = BestKernels();
  const int64_t dim = block.dim, offset = block.own_offset(), length = block.row_length();
  for (int64_t j = 0; j < offset; j += kWidth)
    kernels.product({block.packed, kWidth, 1, block.count}, dim, block.prompt.keys + j * dim, kWidth, scores + j, length,
                    kWidth, Into::kStore);
  for (int64_t s = 0; s < block.segment_count; s++) {
    const Segment& segment = block.segments[s];
    for (int64_t j = 0; j < length - offset; j += kWidth)
      kernels.product({block.packed + segment.first, kWidth, 1, segment.count}, dim, segment.own.keys + j * dim, kWidth,
                      scores + segment.first * length + offset + j, length, kWidth, Into::kStore);
  }
  for (int64_t q = 0; q < block.count; q++) {
    float* row = scores + q * length;
    std::fill(row + block.on_prompt[q], row + offset, -INFINITY);
    if (length > offset) std::fill(row + offset + block.on_own[q], row + length, -INFINITY);
  }
}

void AttendBlock(const QueryBlock& block, float* scores, float* found, float* log_sums) {
  const Kernels& kernels = BestKernels();
  const int64_t offset = block.own_offset(), length = block.row_length(), width = Ceil(block.dim) * kWidth;
  ScoreBlock(block, scores);
  float sums[kWidth];
  for (int64_t q = 0; q < block.count; q++) {
    float max;
    sums[q] = kernels.exponentials(scores + q * length, length, &max);
    if (log_sums != nullptr) log_sums[q] = max + std::log(sums[q]);
  }
  for (int64_t j = 0; j < width; j += kWidth) {
    kernels.product({scores, 1, length, block.count}, block.most_on_prompt(), block.prompt.values + j, width, found + j,
                    width, kWidth, Into::kStore);
    for (int64_t s = 0; s < block.segment_count; s++) {
      const Segment& segment = block.segments[s];
      const int64_t last = segment.first + segment.count - 1;
      kernels.product({scores + segment.first * length + offset, 1, length, segment.count}, block.on_own[last],
                      segment.own.values + j, width, found + segment.first * width + j, width, kWidth, Into::kAdd);
    }
  }
  for (int64_t q = 0; q < block.count; q++)
    for (int64_t i = 0; i < width; i++) found[q * width + i] /= sums[q];
}

namespace {

struct Attributes {
  float eps = 1e-6f;
  int64_t group = 1, kv_heads = 1;
};

void* CreateAttributes(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* attributes = new Attributes();
  TF_OpKernelConstruction_GetAttrFloat(construction, "eps", &attributes->eps, status.status);
  TF_OpKernelConstruction_GetAttrInt64(construction, "group", &attributes->group, status.status);
  TF_OpKernelConstruction_GetAttrInt64(construction, "kv_heads", &attributes->kv_heads, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return attributes;
}

// The inputs of both ops.
struct Problem {
  const float *qkv, *cos, *sin, *mask, *q_norm, *k_norm;
  int64_t tokens, prompts, prompt_length, group, own_length, heads, kv_heads, dim;
  float eps;

  Problem(const OpInputs& in, const Attributes& attributes)
      : group(attributes.group), kv_heads(attributes.kv_heads), eps(attributes.eps) {
    qkv = in.floats(0);
    cos = in.floats(1);
    sin = in.floats(2);
    mask = in.floats(3);
    q_norm = in.floats(4);
    k_norm = in.floats(5);
    tokens = in.dim(0, 0);
    prompts = in.dim(3, 0);
    prompt_length = in.dim(3, 1);
    dim = in.size(4);
    heads = dim == 0 || kv_heads < 1 ? 0 : in.dim(0, 1) / dim - 2 * kv_heads;
    own_length = prompts * group < 1 ? 0 : (tokens - prompts * prompt_length) / (prompts * group);
  }
  int64_t width() const { return Ceil(dim) * kWidth; }
  int64_t per_key() const { return heads / kv_heads; }
  int64_t stride() const { return (heads + 2 * kv_heads) * dim; }
  int64_t padding(int64_t prompt) const {
    const float* row = mask + prompt * prompt_length;
    return std::find(row, row + prompt_length, 1.0f) - row;
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(dim)); }
  // Raw query, key or value of a token.
  const float* query(int64_t token, int64_t head) const { return qkv + token * stride() + head * dim; }
  const float* key(int64_t token, int64_t head) const { return query(token, heads + head); }
  const float* value(int64_t token, int64_t head) const { return query(token, heads + kv_heads + head); }
  void rotate(const float* x, int64_t token, const float* norm, float scale, float* out) const {
    BestKernels().norm_rotate(x, dim, norm, eps, cos + token * dim / 2, sin + token * dim / 2, scale, out);
  }
};

// Keys and values of one head of a sequence, in the layouts that the passes need, and their gradients.
struct Sequence {
  int64_t first = 0, length = 0;  // its tokens
  std::vector<float> key_panels, key_rows, value_rows, value_panels, key_grads, value_grads;

  void Load(const Problem& p, int64_t head, int64_t first_token, int64_t count, bool backward) {
    first = first_token;
    length = count;
    const int64_t padded = Ceil(count) * kWidth, width = p.width();
    key_panels.assign(padded * p.dim, 0);
    value_rows.assign(padded * width, 0);
    key_rows.assign(padded * width, 0);
    if (backward) {
      value_panels.assign(padded * p.dim, 0);
      key_grads.assign(padded * width, 0);
      value_grads.assign(padded * width, 0);
    }
    for (int64_t t = 0; t < count; t++) {
      float* key = &key_rows[t * width];
      p.rotate(p.key(first + t, head), first + t, p.k_norm, 1, key);
      const float* value = p.value(first + t, head);
      std::memcpy(&value_rows[t * width], value, p.dim * sizeof(float));
      const int64_t at = t / kWidth * kWidth * p.dim + t % kWidth;
      for (int64_t i = 0; i < p.dim; i++) key_panels[at + i * kWidth] = key[i];
      for (int64_t i = 0; backward && i < p.dim; i++) value_panels[at + i * kWidth] = value[i];
    }
  }
  KeysValues view() const { return {key_panels.data(), value_rows.data()}; }
};

// Scratch of one thread.
struct Scratch {
  Sequence prompt, own;
  std::vector<float> packed, rows, scores, found, grads_packed, grads_rows, score_grads;
};

// Goes through the queries of a sequence in blocks. `own` is null for the prompt's own queries.
template <typename Work>
void ForBlocks(const Problem& p, int64_t head, const Sequence& prompt, const Sequence* own, Scratch& s,
               const Work& work) {
  const Sequence& sequence = own == nullptr ? prompt : *own;
  const int64_t per_key = p.per_key(), queries = sequence.length * per_key, width = p.width();
  s.packed.resize(p.dim * kWidth);
  s.rows.assign(kWidth * width, 0);
  for (int64_t begin = 0; begin < queries; begin += kWidth) {
    const int64_t count = std::min(kWidth, queries - begin);
    Segment segment{0, count, {}};
    if (own != nullptr) segment.own = own->view();
    QueryBlock block{s.packed.data(), count, p.dim, prompt.view(), {}, &segment, own == nullptr ? 0 : 1, {}};
    for (int64_t q = 0; q < count; q++) {
      const int64_t t = (begin + q) / per_key;
      float* row = &s.rows[q * width];
      p.rotate(p.query(sequence.first + t, head * per_key + (begin + q) % per_key), sequence.first + t, p.q_norm,
               p.scale(), row);
      for (int64_t i = 0; i < p.dim; i++) s.packed[i * kWidth + q] = row[i];
      block.on_prompt[q] = own == nullptr ? t + 1 : prompt.length;
      block.on_own[q] = own == nullptr ? 0 : t + 1;
    }
    s.scores.resize(std::max<size_t>(s.scores.size(), kWidth * block.row_length()));
    work(block, [&](int64_t q) { return sequence.first + (begin + q) / per_key; },
         [&](int64_t q) { return head * per_key + (begin + q) % per_key; });
  }
}

// One task, a prompt and a key-value head: calls work(scratch, head, prompt, own) for the prompt itself (own is null), and for
// each of its completions.
template <typename Work>
Sequence& ForSequences(const Problem& p, int64_t task, bool backward, const Work& work) {
  thread_local Scratch scratch;
  const int64_t prompt = task / p.kv_heads, head = task % p.kv_heads, padding = p.padding(prompt);
  scratch.prompt.Load(p, head, prompt * p.prompt_length + padding, p.prompt_length - padding, backward);
  work(scratch, head, scratch.prompt, nullptr);
  for (int64_t c = 0; c < p.group; c++) {
    const int64_t row = prompt * p.group + c;
    scratch.own.Load(p, head, p.prompts * p.prompt_length + row * p.own_length, p.own_length, backward);
    work(scratch, head, scratch.prompt, &scratch.own);
  }
  return scratch.prompt;
}

// What a mask, or sizes, that do not fit would make of the pass is not computed.
bool Check(TF_OpKernelContext* context, const OpInputs& in, const Problem& p) {
  const bool fits = p.heads > 0 && p.heads % p.kv_heads == 0 && p.own_length > 0 && p.dim % 2 == 0 &&
                    p.tokens == p.prompts * (p.prompt_length + p.group * p.own_length) &&
                    in.size(1) == p.tokens * p.dim / 2 && in.size(2) == in.size(1);
  if (!fits) FailOp(context, "GrpolabAttention: the shapes do not belong together");
  return fits;
}

void ComputeForward(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const Problem p(in, *static_cast<Attributes*>(state));
  if (!Check(context, in, p)) return;
  const int64_t columns = p.heads * p.dim, width = p.width();
  auto* attended = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {p.tokens, columns}));
  auto* log_sums = static_cast<float*>(AllocateOutput(context, 1, TF_FLOAT, {p.tokens, p.heads}));
  if (attended == nullptr || log_sums == nullptr) return;
  for (int64_t prompt = 0; prompt < p.prompts; prompt++) {  // padding attends to nothing
    const int64_t first = prompt * p.prompt_length, count = p.padding(prompt);
    std::fill_n(attended + first * columns, count * columns, 0.0f);
    std::fill_n(log_sums + first * p.heads, count * p.heads, 0.0f);
  }
  ParallelFor(context, p.prompts * p.kv_heads, [&](int64_t task) {
    ForSequences(p, task, false, [&](Scratch& s, int64_t head, const Sequence& prompt, Sequence* own) {
      s.found.resize(kWidth * width);
      ForBlocks(p, head, prompt, own, s, [&](const QueryBlock& block, const auto& token, const auto& query_head) {
        float sums[kWidth];
        AttendBlock(block, s.scores.data(), s.found.data(), sums);
        for (int64_t q = 0; q < block.count; q++) {
          log_sums[token(q) * p.heads + query_head(q)] = sums[q];
          std::memcpy(attended + token(q) * columns + query_head(q) * p.dim, &s.found[q * width], p.dim * sizeof(float));
        }
      });
    });
  });
}

// Gradient of one sequence's keys and values (to [length, width]) and of the scores of a block that lie at an offset.
void AddToSequence(const QueryBlock& block, int64_t offset, int64_t count, const float* scores, const float* score_grads,
                   const Scratch& s, int64_t width, Sequence* sequence) {
  const Kernels& kernels = BestKernels();
  const int64_t length = block.row_length();
  for (int64_t t = 0; t < count; t += kWidth) {
    const int64_t rows = std::min(kWidth, count - t);
    for (int64_t j = 0; j < width; j += kWidth) {
      kernels.product({scores + offset + t, length, 1, rows}, block.count, s.grads_rows.data() + j, width,
                      &sequence->value_grads[t * width + j], width, kWidth, Into::kAdd);
      kernels.product({score_grads + offset + t, length, 1, rows}, block.count, s.rows.data() + j, width,
                      &sequence->key_grads[t * width + j], width, kWidth, Into::kAdd);
    }
  }
}

struct Gradients {
  float *qkv, *q_norm, *k_norm;
};

// The backward pass of one block: see ComputeBackward.
template <typename Token, typename Head>
void BackwardBlock(const Problem& p, const QueryBlock& block, const Token& token, const Head& query_head, Scratch& s,
                   Sequence* prompt, Sequence* own, const OpInputs& in, const Gradients& out) {
  const Kernels& kernels = BestKernels();
  const float *attended = in.floats(6), *log_sums = in.floats(7), *gradient = in.floats(8);
  const int64_t width = p.width(), offset = block.own_offset(), length = block.row_length(), columns = p.heads * p.dim;
  const int64_t on_own = block.most_on_own();
  s.grads_packed.resize(p.dim * kWidth);
  s.grads_rows.assign(kWidth * width, 0);
  s.score_grads.resize(std::max<size_t>(s.score_grads.size(), kWidth * length));
  float inner[kWidth];
  float* scores = s.scores.data();
  float* score_grads = s.score_grads.data();
  ScoreBlock(block, scores);
  for (int64_t q = 0; q < block.count; q++) {
    const int64_t at = token(q) * columns + query_head(q) * p.dim;
    kernels.shifted_exponentials(scores + q * length, length, log_sums[token(q) * p.heads + query_head(q)]);
    float sum = 0;
    for (int64_t i = 0; i < p.dim; i++) {
      const float g = gradient[at + i];
      s.grads_packed[i * kWidth + q] = s.grads_rows[q * width + i] = g;
      sum += g * attended[at + i];
    }
    inner[q] = sum;
  }
  // d loss / d weights = gradient . values; through the softmax, weights * (that - gradient . attended).
  for (int64_t j = 0; j < offset; j += kWidth)
    kernels.product({s.grads_packed.data(), kWidth, 1, block.count}, p.dim, prompt->value_panels.data() + j * p.dim, kWidth,
                    score_grads + j, length, kWidth, Into::kStore);
  for (int64_t j = 0; own != nullptr && j < length - offset; j += kWidth)
    kernels.product({s.grads_packed.data(), kWidth, 1, block.count}, p.dim, own->value_panels.data() + j * p.dim, kWidth,
                    score_grads + offset + j, length, kWidth, Into::kStore);
  for (int64_t q = 0; q < block.count; q++)
    for (int64_t t = q * length; t < (q + 1) * length; t++) score_grads[t] = scores[t] * (score_grads[t] - inner[q]);
  AddToSequence(block, 0, block.most_on_prompt(), scores, score_grads, s, width, prompt);
  if (own != nullptr) AddToSequence(block, offset, on_own, scores, score_grads, s, width, own);
  s.found.resize(kWidth * width);
  for (int64_t j = 0; j < width; j += kWidth) {
    kernels.product({score_grads, 1, length, block.count}, block.most_on_prompt(), prompt->key_rows.data() + j, width,
                    &s.found[j], width, kWidth, Into::kStore);
    if (own != nullptr)
      kernels.product({score_grads + offset, 1, length, block.count}, on_own, own->key_rows.data() + j, width, &s.found[j],
                      width, kWidth, Into::kAdd);
  }
  for (int64_t q = 0; q < block.count; q++) {
    const int64_t t = token(q), half = p.dim / 2;
    kernels.norm_rotate_grad(p.query(t, query_head(q)), p.dim, p.q_norm, p.eps, p.cos + t * half, p.sin + t * half,
                             p.scale(), &s.found[q * width], out.qkv + t * p.stride() + query_head(q) * p.dim, out.q_norm);
  }
}

// Key and value gradients of a finished sequence go to the tokens'.
void StoreSequence(const Problem& p, int64_t head, const Sequence& sequence, const Gradients& out) {
  const int64_t half = p.dim / 2, width = p.width();
  for (int64_t i = 0; i < sequence.length; i++) {
    const int64_t t = sequence.first + i;
    float* row = out.qkv + t * p.stride();
    BestKernels().norm_rotate_grad(p.key(t, head), p.dim, p.k_norm, p.eps, p.cos + t * half, p.sin + t * half, 1,
                                   &sequence.key_grads[i * width], row + (p.heads + head) * p.dim, out.k_norm);
    std::memcpy(row + (p.heads + p.kv_heads + head) * p.dim, &sequence.value_grads[i * width], p.dim * sizeof(float));
  }
}

void ComputeBackward(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const Problem p(in, *static_cast<Attributes*>(state));
  if (!Check(context, in, p)) return;
  auto* qkv = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {p.tokens, p.stride()}));
  auto* q_norm = static_cast<float*>(AllocateOutput(context, 1, TF_FLOAT, {p.dim}));
  auto* k_norm = static_cast<float*>(AllocateOutput(context, 2, TF_FLOAT, {p.dim}));
  if (qkv == nullptr || q_norm == nullptr || k_norm == nullptr) return;
  for (int64_t prompt = 0; prompt < p.prompts; prompt++)
    std::fill_n(qkv + prompt * p.prompt_length * p.stride(), p.padding(prompt) * p.stride(), 0.0f);
  // Each task has sums of its own for the norms' gradients: their order must not depend on who is first.
  const int64_t tasks = p.prompts * p.kv_heads;
  std::vector<float> norms(tasks * 2 * p.dim, 0.0f);
  ParallelFor(context, tasks, [&](int64_t task) {
    const Gradients out{qkv, &norms[task * 2 * p.dim], &norms[(task * 2 + 1) * p.dim]};
    const Sequence& done = ForSequences(p, task, true, [&](Scratch& s, int64_t head, Sequence& prompt, Sequence* own) {
      ForBlocks(p, head, prompt, own, s, [&](const QueryBlock& block, const auto& token, const auto& query_head) {
        BackwardBlock(p, block, token, query_head, s, &prompt, own, in, out);
      });
      if (own != nullptr) StoreSequence(p, head, *own, out);
    });
    StoreSequence(p, task % p.kv_heads, done, out);
  });
  for (int64_t i = 0; i < p.dim; i++) {
    q_norm[i] = k_norm[i] = 0;
    for (int64_t task = 0; task < tasks; task++) {
      q_norm[i] += norms[task * 2 * p.dim + i];
      k_norm[i] += norms[(task * 2 + 1) * p.dim + i];
    }
  }
}

}  // namespace

void RegisterAttentionOps() {
  const std::vector<const char*> attributes = {"eps: float", "group: int", "kv_heads: int"};
  std::vector<const char*> inputs = {"qkv: float",  "cos: float",    "sin: float",
                                     "mask: float", "q_norm: float", "k_norm: float"};
  const auto destroy = [](void* state) { delete static_cast<Attributes*>(state); };
  RegisterOp({"GrpolabAttention", inputs, {"attended: float", "log_sums: float"}, attributes, CreateAttributes,
              Guarded<ComputeForward>, destroy, false});
  inputs.insert(inputs.end(), {"attended: float", "log_sums: float", "gradient: float"});
  RegisterOp({"GrpolabAttentionGrad", inputs, {"qkv_grad: float", "q_norm_grad: float", "k_norm_grad: float"}, attributes,
              CreateAttributes, Guarded<ComputeBackward>, destroy, false});
}
