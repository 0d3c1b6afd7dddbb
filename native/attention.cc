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
//
// Keys go down and queries across: scores, their exponentials and their gradients are lines of one key and 16 queries. So a
// softmax goes along registers, without sums inside one, and a product takes its results as the next one's rows.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "matrix.h"
#include "ops.h"

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

// So many zeros; `assign` sets them one by one.
void Clear(std::vector<float>* values, int64_t count) {
  values->resize(count);
  std::memset(values->data(), 0, count * sizeof(float));
}

// One of so many vectors later is asked for while one is worked on.
constexpr int64_t kAhead = 8;

// Tokens lie too far apart for the processor to foresee which numbers come next.
void Prefetch(const float* at, int64_t count) {
  for (int64_t i = 0; i < count; i += kWidth) __builtin_prefetch(at + i);
}

// Rows [16, width] as columns [width / 16, ld, 16], to the lines from `first` on.
void ToColumns(const float* rows, int64_t width, int64_t ld, int64_t first, float* columns) {
  for (int64_t j = 0; j < width; j += kWidth)
    for (int64_t r = 0; r < kWidth; r++)
      std::memcpy(columns + j * ld + (first + r) * kWidth, rows + r * width + j, kWidth * sizeof(float));
}

// Keys and values of one head of a sequence, and their gradients. Panels are [T / 16, D, 16], columns [D' / 16, T, 16], with
// T and D' rounded up to 16.
struct Sequence {
  int64_t first = 0, length = 0;  // its tokens
  std::vector<float> rows, key_panels, key_columns, value_panels, value_columns, key_grads, value_grads;

  int64_t padded() const { return Ceil(length) * kWidth; }

  void Load(const Problem& p, int64_t head, int64_t first_token, int64_t count, bool backward) {
    first = first_token;
    length = count;
    const int64_t width = p.width();
    key_panels.resize(padded() * p.dim);
    (backward ? key_columns : value_columns).resize(padded() * width);
    if (backward) {
      value_panels.resize(padded() * p.dim);
      Clear(&key_grads, padded() * width);
      Clear(&value_grads, padded() * width);
    }
    for (int64_t t = 0; t < count; t += kWidth) {
      const int64_t here = std::min(kWidth, count - t);
      Clear(&rows, kWidth * width);
      for (int64_t r = 0; r < here; r++) {
        const int64_t token = first + t + r;
        p.rotate(p.key(token, head), token, p.k_norm, 1, &rows[r * width]);
      }
      PackBlock(rows.data(), width, kWidth, p.dim, &key_panels[t * p.dim]);
      if (backward) ToColumns(rows.data(), width, padded(), t, key_columns.data());
      for (int64_t r = 0; r < here; r++)
        std::memcpy(&rows[r * width], p.value(first + t + r, head), p.dim * sizeof(float));
      if (backward) PackBlock(rows.data(), width, kWidth, p.dim, &value_panels[t * p.dim]);
      else ToColumns(rows.data(), width, padded(), t, value_columns.data());
    }
  }
};

// Blocks of 16 queries that go through the keys together: the gradients of keys and values are products over all of them.
constexpr int64_t kBlocks = 4;

// Scratch of one thread.
struct Scratch {
  Sequence prompt, own;
  // Of the queries of a chunk: rows [16, D'] of one block, lines [D, 16] of each, and columns [D' / 16, queries, 16].
  std::vector<float> rows, packed, columns, grads_packed, grads_columns;
  // Lines [T, 16] of each block: of the prompt's keys, then of their own.
  std::vector<float> weights, weight_grads;
  std::vector<float> found, tiles;
};

// Queries [begin, begin + count) of a sequence, those of a token's heads that share a key head one after the other; `own`
// is null for the prompt's own queries.
struct Chunk {
  const Problem& p;
  Scratch& s;
  int64_t head;
  Sequence *prompt, *own;
  int64_t begin, count;

  Sequence& sequence() const { return own == nullptr ? *prompt : *own; }
  int64_t blocks() const { return Ceil(count); }
  int64_t block_count(int64_t block) const { return std::min(kWidth, count - block * kWidth); }
  int64_t place(int64_t q) const { return (begin + q) / p.per_key(); }
  int64_t token(int64_t q) const { return sequence().first + place(q); }
  int64_t query_head(int64_t q) const { return head * p.per_key() + (begin + q) % p.per_key(); }
  // How many keys the last query of a block sees; the others, of their own sequence, no more.
  int64_t on_prompt(int64_t block) const { return own == nullptr ? last_place(block) + 1 : prompt->length; }
  int64_t on_own(int64_t block) const { return own == nullptr ? 0 : last_place(block) + 1; }
  int64_t last_place(int64_t block) const { return place(block * kWidth + block_count(block) - 1); }
  // Lines of a block: those of the prompt's keys, padded, then those of its own, padded.
  int64_t own_offset() const { return Ceil(own == nullptr ? on_prompt(blocks() - 1) : prompt->length) * kWidth; }
  int64_t lines() const { return own_offset() + Ceil(on_own(blocks() - 1)) * kWidth; }
  int64_t lines_of(int64_t block) const {
    return own == nullptr ? Ceil(on_prompt(block)) * kWidth : own_offset() + Ceil(on_own(block)) * kWidth;
  }
  float* weights(int64_t block) const { return s.weights.data() + block * lines() * kWidth; }
  float* weight_grads(int64_t block) const { return s.weight_grads.data() + block * lines() * kWidth; }

  // Calls work(keys' sequence, how many of them a block sees, the first of its lines) for the prompt and for its own.
  template <typename Work>
  void ForKeys(int64_t block, const Work& work) const {
    work(*prompt, on_prompt(block), 0);
    if (own != nullptr) work(*own, on_own(block), own_offset());
  }

  // Rotates the queries; as columns too for a backward pass.
  void LoadQueries(bool backward) const {
    const int64_t width = p.width();
    s.packed.resize(kBlocks * kWidth * p.dim);
    if (backward) s.columns.resize(kBlocks * kWidth * width);
    s.weights.resize(std::max<size_t>(s.weights.size(), blocks() * lines() * kWidth));
    for (int64_t block = 0; block < blocks(); block++) {
      Clear(&s.rows, kWidth * width);
      for (int64_t r = 0; r < block_count(block); r++) {
        const int64_t q = block * kWidth + r, later = std::min(q + kAhead, count - 1);
        Prefetch(p.query(token(later), query_head(later)), p.dim);
        p.rotate(p.query(token(q), query_head(q)), token(q), p.q_norm, p.scale(), &s.rows[r * width]);
      }
      PackBlock(s.rows.data(), width, kWidth, p.dim, &s.packed[block * kWidth * p.dim]);
      if (backward) ToColumns(s.rows.data(), width, kBlocks * kWidth, block * kWidth, s.columns.data());
    }
  }

  // lines = panels times a block's packed vectors: [keys it sees, 16].
  void Multiply(const std::vector<float>& panels, int64_t keys, const float* packed, float* lines) const {
    for (int64_t t = 0; t < keys; t += kWidth)
      BestKernels().product({&panels[t * p.dim], kWidth, 1, kWidth}, p.dim, packed, kWidth, lines + t * kWidth, kWidth,
                            kWidth, Into::kStore);
  }

  // weights = products of a block's queries and the keys; -infinity where a query does not see.
  void Score(int64_t block) const {
    const float* packed = &s.packed[block * kWidth * p.dim];
    ForKeys(block, [&](const Sequence& keys, int64_t seen, int64_t offset) {
      float* lines = weights(block) + offset * kWidth;
      Multiply(keys.key_panels, seen, packed, lines);
      // Of its own sequence each query sees what is before it.
      int32_t limits[kWidth];
      for (int64_t r = 0; r < kWidth; r++) {
        const int64_t q = block * kWidth + std::min(r, block_count(block) - 1);
        limits[r] = static_cast<int32_t>(&keys == &sequence() ? place(q) + 1 : seen);
      }
      BestKernels().hide(lines, limits[0], Ceil(seen) * kWidth, limits);
    });
  }

  // found [16, D'] = sum over a block's lines of those times columns.
  void Combine(int64_t block, const float* lines, std::vector<float> Sequence::*columns) const {
    const int64_t width = p.width();
    s.found.resize(kWidth * width);
    ForKeys(block, [&](const Sequence& keys, int64_t seen, int64_t offset) {
      const Rows x{lines + offset * kWidth, kWidth, 1, block_count(block)};
      for (int64_t j = 0; j < width; j += kWidth)
        BestKernels().product(x, seen, &(keys.*columns)[j * keys.padded()], kWidth, &s.found[j], width, kWidth,
                              offset == 0 ? Into::kStore : Into::kAdd);
    });
  }
};

// One task, a prompt and a key-value head: calls work(chunk) for the prompt's own queries and for those of each of its
// completions, and done(sequence) when all queries of a sequence's keys were there.
template <typename Work, typename Done>
void ForChunks(const Problem& p, int64_t task, bool backward, const Work& work, const Done& done) {
  thread_local Scratch s;
  const int64_t prompt = task / p.kv_heads, head = task % p.kv_heads, padding = p.padding(prompt);
  const auto run = [&](Sequence* own) {
    const int64_t queries = (own == nullptr ? s.prompt : *own).length * p.per_key();
    for (int64_t begin = 0; begin < queries; begin += kBlocks * kWidth) {
      const Chunk chunk{p, s, head, &s.prompt, own, begin, std::min(kBlocks * kWidth, queries - begin)};
      chunk.LoadQueries(backward);
      work(chunk);
    }
  };
  s.prompt.Load(p, head, prompt * p.prompt_length + padding, p.prompt_length - padding, backward);
  run(nullptr);
  for (int64_t c = 0; c < p.group; c++) {
    const int64_t row = prompt * p.group + c;
    s.own.Load(p, head, p.prompts * p.prompt_length + row * p.own_length, p.own_length, backward);
    run(&s.own);
    done(head, s.own);
  }
  done(head, s.prompt);
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
  const auto attend = [&](const Chunk& chunk) {
    for (int64_t block = 0; block < chunk.blocks(); block++) {
      float max[kWidth], sums[kWidth];
      chunk.Score(block);
      BestKernels().column_exponentials(chunk.weights(block), chunk.lines_of(block), max, sums);
      chunk.Combine(block, chunk.weights(block), &Sequence::value_columns);
      for (int64_t r = 0; r < chunk.block_count(block); r++) {
        const int64_t token = chunk.token(block * kWidth + r), head = chunk.query_head(block * kWidth + r);
        float* found = &chunk.s.found[r * width];
        BestKernels().divide(found, width, sums[r]);
        std::memcpy(attended + token * columns + head * p.dim, found, p.dim * sizeof(float));
        log_sums[token * p.heads + head] = max[r] + std::log(sums[r]);
      }
    }
  };
  ParallelFor(context, p.prompts * p.kv_heads,
              [&](int64_t task) { ForChunks(p, task, false, attend, [](int64_t, const Sequence&) {}); });
}

struct Gradients {
  float *qkv, *q_norm, *k_norm;
};

// What the forward pass gave, and the gradient of what it attended to.
struct Forward {
  const float *attended, *log_sums, *gradient;
};

// weight_grads of a block: d loss / d weights = gradient . values; through the softmax, weights (that - gradient . attended).
void ScoreGradients(const Chunk& chunk, int64_t block, const Forward& f) {
  const Problem& p = chunk.p;
  Scratch& s = chunk.s;
  const int64_t width = p.width(), count = chunk.block_count(block);
  float inner[kWidth] = {}, shifts[kWidth] = {};
  Clear(&s.rows, kWidth * width);
  for (int64_t r = 0; r < count; r++) {
    const int64_t q = block * kWidth + r, row = chunk.token(q) * p.heads + chunk.query_head(q);
    std::memcpy(&s.rows[r * width], f.gradient + row * p.dim, p.dim * sizeof(float));
    inner[r] = BestKernels().dot(f.gradient + row * p.dim, f.attended + row * p.dim, p.dim);
    shifts[r] = f.log_sums[row];
  }
  s.grads_packed.resize(p.dim * kWidth);
  PackBlock(s.rows.data(), width, kWidth, p.dim, s.grads_packed.data());
  ToColumns(s.rows.data(), width, kBlocks * kWidth, block * kWidth, s.grads_columns.data());
  const int64_t lines = chunk.lines_of(block);
  BestKernels().shifted_exponentials(chunk.weights(block), lines, shifts);
  chunk.ForKeys(block, [&](const Sequence& keys, int64_t seen, int64_t offset) {
    chunk.Multiply(keys.value_panels, seen, s.grads_packed.data(), chunk.weight_grads(block) + offset * kWidth);
  });
  BestKernels().softmax_grad(chunk.weights(block), lines, inner, chunk.weight_grads(block));
}

// Adds a chunk's part to the gradients of its keys and values: products over its queries, of 16 keys at a time.
void AddToKeys(const Chunk& chunk) {
  const Kernels& kernels = BestKernels();
  Scratch& s = chunk.s;
  const int64_t blocks = chunk.blocks(), width = chunk.p.width(), each = kWidth * kWidth;
  s.tiles.resize(2 * kBlocks * each);
  float *weights = s.tiles.data(), *grads = weights + kBlocks * each;
  chunk.ForKeys(blocks - 1, [&](Sequence& keys, int64_t seen, int64_t offset) {
    int64_t first = 0;  // block that sees them
    for (int64_t t = 0; t < seen; t += kWidth) {
      while (&keys == &chunk.sequence() && chunk.last_place(first) < t) first++;
      for (int64_t b = first; b < blocks; b++) {
        const int64_t at = (offset + t) * kWidth;
        kernels.transpose(chunk.weights(b) + at, kWidth, weights + (b - first) * each);
        kernels.transpose(chunk.weight_grads(b) + at, kWidth, grads + (b - first) * each);
      }
      const int64_t queries = chunk.count - first * kWidth;
      for (int64_t j = 0; j < width; j += kWidth) {
        const int64_t from = j * kBlocks * kWidth + first * each, to = j * keys.padded() + t * kWidth;
        kernels.product({weights, kWidth, 1, kWidth}, queries, &s.grads_columns[from], kWidth, &keys.value_grads[to], kWidth,
                        kWidth, Into::kAdd);
        kernels.product({grads, kWidth, 1, kWidth}, queries, &s.columns[from], kWidth, &keys.key_grads[to], kWidth, kWidth,
                        Into::kAdd);
      }
    }
  });
}

void Backward(const Chunk& chunk, const Forward& f, const Gradients& out) {
  const Problem& p = chunk.p;
  Scratch& s = chunk.s;
  const int64_t width = p.width(), half = p.dim / 2;
  s.grads_columns.resize(kBlocks * kWidth * width);
  s.weight_grads.resize(std::max<size_t>(s.weight_grads.size(), chunk.blocks() * chunk.lines() * kWidth));
  for (int64_t block = 0; block < chunk.blocks(); block++) {
    chunk.Score(block);
    ScoreGradients(chunk, block, f);
    chunk.Combine(block, chunk.weight_grads(block), &Sequence::key_columns);
    for (int64_t r = 0; r < chunk.block_count(block); r++) {
      const int64_t q = block * kWidth + r, t = chunk.token(q), head = chunk.query_head(q);
      BestKernels().norm_rotate_grad(p.query(t, head), p.dim, p.q_norm, p.eps, p.cos + t * half, p.sin + t * half, p.scale(),
                                     &s.found[r * width], out.qkv + t * p.stride() + head * p.dim, out.q_norm);
    }
  }
  AddToKeys(chunk);
}

// Key and value gradients of a finished sequence go to the tokens'.
void StoreSequence(const Problem& p, int64_t head, const Sequence& sequence, const Gradients& out) {
  const int64_t half = p.dim / 2, width = p.width();
  std::vector<float> row(width);
  for (int64_t i = 0; i < sequence.length; i++) {
    const int64_t t = sequence.first + i;
    float* target = out.qkv + t * p.stride() + (p.heads + head) * p.dim;
    const auto gather = [&](const std::vector<float>& columns) {
      for (int64_t j = 0; j < width; j += kWidth)
        std::memcpy(&row[j], &columns[j * sequence.padded() + i * kWidth], kWidth * sizeof(float));
    };
    gather(sequence.key_grads);
    BestKernels().norm_rotate_grad(p.key(t, head), p.dim, p.k_norm, p.eps, p.cos + t * half, p.sin + t * half, 1, row.data(),
                                   target, out.k_norm);
    gather(sequence.value_grads);
    std::memcpy(target + p.kv_heads * p.dim, row.data(), p.dim * sizeof(float));
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
  const Forward forward{in.floats(6), in.floats(7), in.floats(8)};
  ParallelFor(context, tasks, [&](int64_t task) {
    const Gradients out{qkv, &norms[task * 2 * p.dim], &norms[(task * 2 + 1) * p.dim]};
    ForChunks(p, task, true, [&](const Chunk& chunk) { Backward(chunk, forward, out); },
              [&](int64_t head, const Sequence& sequence) { StoreSequence(p, head, sequence, out); });
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
