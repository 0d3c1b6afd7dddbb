// TensorFlow ops that decode on the CPU: a whole step of Qwen3 over rows of different lengths in one op, on weights that
// are laid out for it. src/model/qwen3.ts has the same computation as a graph, which serves where these ops cannot run.
//
//   GrpolabPrefill(tokens, lengths, cache, weights) -> logits [P, V] after each prompt's last token; fills the cache
//   GrpolabDecode(tokens, rows, lengths, step, prompt cache, cache, weights) -> logits [B, V]; adds to the cache
//
// Weights are three lists. Vectors: the final norm, then of each layer its input norm, q norm, k norm, and norm after attention.
// Matrices as panels (native/matrix.h): embedding (floats: [V, H] as they are; else panels of [H, V]), head, then of each layer
// qkv, o, gate and up, down. Factors, where there is an adapter: of each of a layer's matrices A and B as panels,
// those of its modules side by side in A, and in the diagonal of B.
//
// A cache is float [layers, 2, rows, kvHeads, T, D'], T a multiple of 16 and D' = D rounded up to 16, and is written in
// place. Keys (0) lie as panels [T / 16, D, 16], values (1) as rows [T, D'].

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "matrix.h"
#include "ops.h"

namespace {

// ---- the model ----

// A matrix, with an adapter beside it or none.
struct Weight {
  Panels w, a, b;
};

struct Layer {
  const float* input_norm;
  const float* q_norm;
  const float* k_norm;
  const float* post_norm;
  Weight qkv, o, gate_up, down;
};

struct Options {
  float eps = 1e-6f;
  float theta = 1e6f;
  int64_t group = 1, vocabulary = 0, vectors = 0, matrices = 0, factors = 0;
  bool rounded = false;
};

void* CreateOptions(TF_OpKernelConstruction* construction) {
  OpStatus status;
  auto* options = new Options();
  TF_OpKernelConstruction_GetAttrFloat(construction, "eps", &options->eps, status.status);
  TF_OpKernelConstruction_GetAttrFloat(construction, "theta", &options->theta, status.status);
  const std::pair<const char*, int64_t*> integers[] = {{"group", &options->group},
                                                       {"vocabulary", &options->vocabulary},
                                                       {"N", &options->vectors},
                                                       {"M", &options->matrices},
                                                       {"F", &options->factors}};
  unsigned char rounded = 0;
  if (status.ok()) TF_OpKernelConstruction_GetAttrBool(construction, "rounded", &rounded, status.status);
  options->rounded = rounded != 0;
  for (const auto& [name, value] : integers)
    if (status.ok()) TF_OpKernelConstruction_GetAttrInt64(construction, name, value, status.status);
  if (!status.ok()) TF_OpKernelConstruction_Failure(construction, status.status);
  return options;
}

// One of the two caches.
struct Cache {
  float* data = nullptr;
  int64_t layers = 0, rows = 0, kv_heads = 0, length = 0, width = 0;

  Cache(const OpInputs& in, int i) {
    if (in.rank(i) != 6) return;
    data = in.floats(i);
    layers = in.dim(i, 0);
    rows = in.dim(i, 2);
    kv_heads = in.dim(i, 3);
    length = in.dim(i, 4);
    width = in.dim(i, 5);
  }
  float* at(int64_t layer, int64_t kind, int64_t row, int64_t head) const {
    return data + (((layer * 2 + kind) * rows + row) * kv_heads + head) * length * width;
  }
};

struct Model {
  const float* table = nullptr;  // the embedding, unless it is one of panels
  Panels embedding;
  int64_t vocabulary, hidden, heads, kv_heads, dim, ff;
  const float* final_norm;
  Weight head;
  std::vector<Layer> layers;
  const Options* options;
  const Kernels* kernels = &BestKernels();

  // The weights start at an input.
  Model(const OpInputs& in, int start, const Cache& cache, const Options& options) : options(&options) {
    const int matrices = start + static_cast<int>(options.vectors);
    const int factors = matrices + static_cast<int>(options.matrices);
    const auto weight = [&](int layer, int i) {
      Weight result{Panels(in, matrices + 2 + 4 * layer + i), {}, {}};
      result.w.rounded = options.rounded;
      if (options.factors == 0) return result;
      result.a = Panels(in, factors + 8 * layer + 2 * i);
      result.b = Panels(in, factors + 8 * layer + 2 * i + 1);
      return result;
    };
    if (in.dtype(matrices) == TF_FLOAT) table = in.floats(matrices);
    else embedding = Panels(in, matrices);
    head.w = Panels(in, matrices + 1);
    head.w.rounded = options.rounded;
    final_norm = in.floats(start);
    for (int layer = 0; layer < (options.vectors - 1) / 4; layer++) {
      const int v = start + 1 + 4 * layer;
      layers.push_back({in.floats(v), in.floats(v + 1), in.floats(v + 2), in.floats(v + 3), weight(layer, 0),
                        weight(layer, 1), weight(layer, 2), weight(layer, 3)});
    }
    vocabulary = options.vocabulary;
    hidden = head.w.k;
    kv_heads = cache.kv_heads;
    dim = in.dim(start + 2, 0);
    heads = layers[0].o.w.k / dim;
    ff = layers[0].down.w.k;
  }
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * dim; }
};

bool HasWeights(const OpInputs& in, int start, const Options& o) {
  const int64_t layers = (o.vectors - 1) / 4;
  if (layers < 1 || o.vectors != 1 + 4 * layers || o.matrices != 2 + 4 * layers) return false;
  if (o.factors != 0 && o.factors != 8 * layers) return false;
  if (o.rounded && in.dtype(start + static_cast<int>(o.vectors)) == TF_FLOAT) return false;
  for (int i = start + static_cast<int>(o.vectors) + 1; i < in.count(); i++)
    if (!Panels(in, i).ok()) return false;
  return true;
}

// Tokens that go through the layers together.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  // Of each prompt that has tokens here: its number, its length, and its tokens' range.
  struct Group {
    int64_t prompt, length, begin, end;
  };
  std::vector<Group> groups;
  // While decoding: each token's row of the completions' cache.
  const int32_t* rows = nullptr;
  int64_t step = 0;
  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// ---- attention ----

// One key-value head of a sequence. Keys are panels [T / 16, D, 16], values rows [T, D rounded up to 16].
struct KeysValues {
  const float* keys;
  const float* values;
};

// Queries [first, first + count) of a block, which see the keys of one completion.
struct Segment {
  int64_t first, count;
  KeysValues own;
};

// Up to 16 queries of one prompt and one key-value head; all see the prompt, each also keys of its own completion.
struct QueryBlock {
  const float* packed;  // [D, 16], scaled
  int64_t count;
  int64_t dim;
  KeysValues prompt;
  int64_t on_prompt[kWidth];  // how many keys of the prompt each sees; ascending
  const Segment* segments;
  int64_t segment_count;
  int64_t on_own[kWidth];  // and of its own; ascending in a segment

  int64_t most_on_prompt() const { return on_prompt[count - 1]; }
  int64_t most_on_own() const {
    int64_t most = 0;
    for (int64_t q = 0; q < count && segment_count > 0; q++) most = on_own[q] > most ? on_own[q] : most;
    return most;
  }
  // Scores of a row: those on the prompt, padded, then those on its own, padded.
  int64_t own_offset() const { return Ceil(most_on_prompt()) * kWidth; }
  int64_t row_length() const { return own_offset() + Ceil(most_on_own()) * kWidth; }
};

// scores [count, row_length()]: products of queries and keys; -infinity where a query does not see.
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

// found [count, D rounded up] = softmax(scores) values. Overwrites the scores.
void AttendBlock(const QueryBlock& block, float* scores, float* found) {
  const Kernels& kernels = BestKernels();
  const int64_t offset = block.own_offset(), length = block.row_length(), width = Ceil(block.dim) * kWidth;
  ScoreBlock(block, scores);
  float sums[kWidth];
  for (int64_t q = 0; q < block.count; q++) {
    float max;
    sums[q] = kernels.exponentials(scores + q * length, length, &max);
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
  for (int64_t q = 0; q < block.count; q++) kernels.divide(found + q * width, width, sums[q]);
}

// ---- the pass ----

class Pass {
 public:
  Pass(const Model& model, const Tokens& tokens, const Cache& prompt, const Cache* own)
      : m_(model), t_(tokens), prompt_(prompt), own_(own), n_(tokens.size()), blocks_(Ceil(n_)) {
    x_.resize(n_ * m_.hidden);
    packed_.resize(blocks_ * kWidth * std::max({m_.hidden, m_.ff, m_.heads * m_.dim}));
    attended_.resize(blocks_ * kWidth * m_.heads * m_.dim);
    qkv_.resize(n_ * m_.qkv_width());
    cos_.resize(n_ * m_.dim / 2);
    sin_.resize(n_ * m_.dim / 2);
  }

  // Logits of some of the tokens, in ascending order.
  void Run(const std::vector<int64_t>& wanted, float* logits) {
    Embed();
    const int64_t layers = static_cast<int64_t>(m_.layers.size());
    for (int64_t layer = 0; layer < layers; layer++) {
      ComputeAttention(layer);
      if (layer == layers - 1) Keep(wanted);
      ComputeRest(layer);
    }
    Norm(x_.data(), n_, m_.final_norm);
    Multiply(packed_.data(), n_, m_.head, logits, m_.vocabulary, m_.vocabulary, Into::kStore);
  }

 private:
  void Embed() {
    const int64_t half = m_.dim / 2;
    std::vector<float> frequencies(half);
    for (int64_t i = 0; i < half; i++)
      frequencies[i] = static_cast<float>(1 / std::pow(static_cast<double>(m_.options->theta), 2.0 * i / m_.dim));
    for (int64_t t = 0; t < n_; t++) {
      float* x = &x_[t * m_.hidden];
      if (m_.table == nullptr) m_.embedding.Column(t_.ids[t], x);
      else std::memcpy(x, m_.table + t_.ids[t] * m_.hidden, m_.hidden * sizeof(float));
      for (int64_t i = 0; i < half; i++) {
        const float angle = static_cast<float>(t_.positions[t]) * frequencies[i];
        cos_[t * half + i] = std::cos(angle);
        sin_[t * half + i] = std::sin(angle);
      }
    }
  }

  // packed_ = RMSNorm of rows of x.
  void Norm(const float* x, int64_t rows, const float* weight) {
    TightParallelFor(Ceil(rows), [&](int64_t b) {
      const int64_t begin = b * kWidth;
      m_.kernels->norm_rows(x + begin * m_.hidden, m_.hidden, std::min(kWidth, rows - begin), m_.hidden, weight,
                            m_.options->eps, &packed_[begin * m_.hidden]);
    });
  }

  // Panels (or pairs of them) that a thread takes at once: enough to reuse a block of rows, and to read on from one to
  // the next; few enough that all threads have work, and that what is laid out first stays in the cache.
  int64_t Grain(const Panels& w, int64_t panels, int64_t rows) const {
    const int64_t bytes = w.InPlace(rows) ? 1 << 20 : 1 << 18, each = w.panels / panels * w.k * kWidth;
    const int64_t most = std::max<int64_t>(1, bytes / (each * static_cast<int64_t>(sizeof(float))));
    return std::max<int64_t>(1, std::min(most, panels / (ThreadCount() * 4)));
  }

  // states_ = packed rows times an adapter's A. Then the rows are laid out for the matrix.
  void Prepare(float* x, int64_t rows, const Weight& weight) {
    if (weight.a.ok()) States(x, rows, weight);
    if (!weight.w.rounded) return;
    TightParallelFor(Ceil(rows),
                     [&](int64_t block) { m_.kernels->round(x + block * kWidth * weight.w.k, weight.w.k); });
  }

  void States(const float* x, int64_t rows, const Weight& weight) {
    const Panels& a = weight.a;
    const int64_t width = a.panels * kWidth;
    states_.resize(std::max<size_t>(states_.size(), Ceil(rows) * kWidth * width));
    TightParallelFor(Ceil(rows) * a.panels, [&](int64_t task) {
      const int64_t begin = task / a.panels * kWidth, p = task % a.panels;
      m_.kernels->product({x + begin * a.k, kWidth, 1, std::min(kWidth, rows - begin)}, a.k, a.Lines(p, 0, a.k, nullptr),
                          kWidth, &states_[begin * width + p * kWidth], width, kWidth, Into::kStore);
    });
  }

  // out [rows, columns] (+)= a block of packed rows times one panel (`wide`, number p) of a matrix and its adapter.
  void OnPanel(const float* x, int64_t begin, int64_t rows, const Weight& weight, int64_t p, const float* wide, float* out,
               int64_t ldo, int64_t columns, Into into) {
    const int64_t k = weight.w.k, count = std::min(kWidth, rows - begin);
    weight.w.Product({x + begin * k, kWidth, 1, count}, p, wide, out, ldo, columns, into);
    if (!weight.a.ok()) return;
    const int64_t width = weight.a.panels * kWidth;
    m_.kernels->product({&states_[begin * width], 1, width, count}, weight.b.k, weight.b.Lines(p, 0, weight.b.k, nullptr),
                        kWidth, out, ldo, columns, Into::kAdd);
  }

  // out [rows, columns] (+)= packed rows times a matrix. The rows may be gone afterwards.
  void Multiply(float* x, int64_t rows, const Weight& weight, float* out, int64_t ldo, int64_t columns, Into into) {
    Prepare(x, rows, weight);
    const Panels& w = weight.w;
    const int64_t grain = Grain(w, w.panels, rows);
    TightParallelFor((w.panels + grain - 1) / grain, [&](int64_t task) {
      thread_local std::vector<float> scratch;
      const int64_t first = task * grain, end = std::min(w.panels, first + grain);
      const std::vector<const float*> wide = w.Wide(first, end, rows, &scratch);
      for (int64_t begin = 0; begin < rows; begin += kWidth)
        for (int64_t p = first; p < end; p++)
          OnPanel(x, begin, rows, weight, p, wide[p - first], out + begin * ldo + p * kWidth, ldo,
                  std::min(kWidth, columns - p * kWidth), into);
    });
  }

  // packed_ -> gate and up, of which act [ff] is laid out for the next product.
  void GateUp(const Weight& weight, float* act) {
    Prepare(packed_.data(), n_, weight);
    const Panels& w = weight.w;
    const int64_t panels = w.panels / 2, grain = Grain(w, panels, n_);
    TightParallelFor((panels + grain - 1) / grain, [&](int64_t task) {
      thread_local std::vector<float> scratch[2];
      const int64_t first = task * grain, end = std::min(panels, first + grain);
      const std::vector<const float*> wide[2] = {w.Wide(first, end, n_, &scratch[0]),
                                                 w.Wide(panels + first, panels + end, n_, &scratch[1])};
      for (int64_t begin = 0; begin < n_; begin += kWidth)
        for (int64_t p = first; p < end; p++) {
          float tiles[2][kWidth * kWidth] = {};
          for (int64_t part = 0; part < 2; part++)
            OnPanel(packed_.data(), begin, n_, weight, part * panels + p, wide[part][p - first], tiles[part], kWidth,
                    kWidth, Into::kStore);
          m_.kernels->gated_tile(tiles[0], tiles[1], std::min(kWidth, m_.ff - p * kWidth),
                                 act + begin * m_.ff + p * kWidth * kWidth);
        }
    });
  }

  // Of the last layer's results only those of the wanted tokens are looked at: the rest is not computed.
  void Keep(const std::vector<int64_t>& wanted) {
    if (static_cast<int64_t>(wanted.size()) == n_) return;
    const int64_t width = m_.heads * m_.dim;
    for (int64_t i = 0; i < static_cast<int64_t>(wanted.size()); i++) {
      const int64_t t = wanted[i];  // >= i: nothing is overwritten that is still needed
      std::memmove(&x_[i * m_.hidden], &x_[t * m_.hidden], m_.hidden * sizeof(float));
      const float* from = &attended_[t / kWidth * kWidth * width + t % kWidth];
      float* to = &attended_[i / kWidth * kWidth * width + i % kWidth];
      for (int64_t k = 0; k < width; k++) to[k * kWidth] = from[k * kWidth];
    }
    n_ = static_cast<int64_t>(wanted.size());
    blocks_ = Ceil(n_);
  }

  void ComputeAttention(int64_t layer) {
    const Layer& w = m_.layers[layer];
    Norm(x_.data(), n_, w.input_norm);
    Multiply(packed_.data(), n_, w.qkv, qkv_.data(), m_.qkv_width(), m_.qkv_width(), Into::kStore);
    const int64_t count = static_cast<int64_t>(t_.groups.size());
    TightParallelFor(count * m_.kv_heads,
                [&](int64_t task) { Attend(layer, t_.groups[task / m_.kv_heads], task % m_.kv_heads); });
  }

  void ComputeRest(int64_t layer) {
    const Layer& w = m_.layers[layer];
    Multiply(attended_.data(), n_, w.o, x_.data(), m_.hidden, m_.hidden, Into::kAdd);
    Norm(x_.data(), n_, w.post_norm);
    act_.resize(blocks_ * kWidth * m_.ff);
    GateUp(w.gate_up, act_.data());
    Multiply(act_.data(), n_, w.down, x_.data(), m_.hidden, m_.hidden, Into::kAdd);
  }

  // One key-value head of the tokens of one prompt, or of its completions: their keys and values go into the cache, and
  // what their queries find goes to attended_.
  void Attend(int64_t layer, const Tokens::Group& group, int64_t head) {
    const Layer& w = m_.layers[layer];
    const int64_t half = m_.dim / 2, per_key = m_.heads / m_.kv_heads;
    const Cache& cache = own_ == nullptr ? prompt_ : *own_;
    std::vector<float> key(m_.dim);
    for (int64_t t = group.begin; t < group.end; t++) {
      const int64_t row = own_ == nullptr ? group.prompt : t_.rows[t];
      const int64_t place = own_ == nullptr ? t - group.begin : t_.step;
      const float* source = &qkv_[t * m_.qkv_width() + (m_.heads + head) * m_.dim];
      m_.kernels->norm_rotate(source, m_.dim, w.k_norm, m_.options->eps, &cos_[t * half], &sin_[t * half], 1.0f,
                              key.data());
      float* keys = cache.at(layer, 0, row, head) + place / kWidth * kWidth * m_.dim + place % kWidth;
      for (int64_t i = 0; i < m_.dim; i++) keys[i * kWidth] = key[i];
      std::memcpy(cache.at(layer, 1, row, head) + place * cache.width, source + m_.kv_heads * m_.dim,
                  m_.dim * sizeof(float));
    }
    const int64_t queries = (group.end - group.begin) * per_key;
    // Of a prompt's last layer only the last token is wanted.
    const bool is_last = own_ == nullptr && layer == static_cast<int64_t>(m_.layers.size()) - 1;
    for (int64_t begin = is_last ? queries - per_key : 0; begin < queries; begin += kWidth)
      AttendQueries(layer, group, head, begin, std::min(kWidth, queries - begin));
  }

  // Queries [begin, begin + count) of a group: one after the other, those of each token's heads that share the key head.
  void AttendQueries(int64_t layer, const Tokens::Group& group, int64_t head, int64_t begin, int64_t count) {
    const Layer& w = m_.layers[layer];
    const int64_t half = m_.dim / 2, per_key = m_.heads / m_.kv_heads;
    const auto token = [&](int64_t q) { return group.begin + (begin + q) / per_key; };
    const auto query_head = [&](int64_t q) { return head * per_key + (begin + q) % per_key; };
    const auto view = [&](const Cache& cache, int64_t row) {
      return KeysValues{cache.at(layer, 0, row, head), cache.at(layer, 1, row, head)};
    };
    thread_local std::vector<float> scratch;
    scratch.resize(std::max<size_t>(scratch.size(), kWidth * (m_.dim + prompt_.width) + m_.dim));
    float* packed = scratch.data();
    float* found = packed + kWidth * m_.dim;
    float* query = found + kWidth * prompt_.width;
    Segment segments[kWidth];
    QueryBlock block{packed, count, m_.dim, view(prompt_, group.prompt), {}, segments, 0, {}};
    for (int64_t q = 0; q < count; q++) {
      const int64_t t = token(q);
      m_.kernels->norm_rotate(&qkv_[t * m_.qkv_width() + query_head(q) * m_.dim], m_.dim, w.q_norm, m_.options->eps,
                              &cos_[t * half], &sin_[t * half], 1 / std::sqrt(static_cast<float>(m_.dim)), query);
      for (int64_t i = 0; i < m_.dim; i++) packed[i * kWidth + q] = query[i];
      // A token of a prompt sees the prompt up to itself; one of a completion the whole prompt, and its own up to itself.
      block.on_prompt[q] = own_ == nullptr ? t - group.begin + 1 : group.length;
      block.on_own[q] = own_ == nullptr ? 0 : t_.step + 1;
      if (own_ == nullptr) continue;
      if (q > 0 && token(q - 1) == t) segments[block.segment_count - 1].count++;
      else segments[block.segment_count++] = {q, 1, view(*own_, t_.rows[t])};
    }
    thread_local std::vector<float> scores;
    scores.resize(std::max<size_t>(scores.size(), kWidth * block.row_length()));
    AttendBlock(block, scores.data(), found);
    for (int64_t q = 0; q < count; q++) {
      const int64_t t = token(q);
      float* target = &attended_[t / kWidth * kWidth * m_.heads * m_.dim + query_head(q) * m_.dim * kWidth + t % kWidth];
      for (int64_t i = 0; i < m_.dim; i++) target[i * kWidth] = found[q * prompt_.width + i];
    }
  }

  const Model& m_;
  const Tokens& t_;
  const Cache& prompt_;
  const Cache* own_;
  int64_t n_, blocks_;
  std::vector<float> x_, packed_, attended_, qkv_, act_, cos_, sin_, states_;
};

bool Fits(const Cache& cache, const Model& m) {
  return cache.data != nullptr && cache.layers == static_cast<int64_t>(m.layers.size()) &&
         cache.kv_heads == m.kv_heads && cache.length % kWidth == 0 && cache.width == Ceil(m.dim) * kWidth;
}

// What is wrong with tokens (input 0), lengths (1) and the prompts' cache; empty when nothing is.
std::string Problem(const OpInputs& in, const Model& m, const Cache& prompt) {
  if (!Fits(prompt, m)) return "the prompts' cache has the wrong shape";
  for (int64_t i = 0; i < in.size(0); i++)
    if (in.ints(0)[i] < 0 || in.ints(0)[i] >= m.vocabulary)
      return "token " + std::to_string(in.ints(0)[i]) + " is outside 0.." + std::to_string(m.vocabulary - 1);
  for (int64_t p = 0; p < in.size(1); p++)
    if (in.ints(1)[p] < 1 || in.ints(1)[p] > prompt.length) return "a prompt does not fit the cache";
  return "";
}

// Tokens that a prefill takes through the layers at once, about: whole prompts.
constexpr int64_t kPrefillTokens = 512;

// Inputs: tokens [N], lengths [P], prompts' cache, weights.
void ComputePrefill(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  if (!HasWeights(in, 3, *static_cast<Options*>(state))) return FailOp(context, "GrpolabPrefill: weights are missing");
  const Cache cache(in, 2);
  const Model model(in, 3, cache, *static_cast<Options*>(state));
  const int64_t prompts = in.size(1);
  std::string problem = Problem(in, model, cache);
  int64_t total = 0;
  for (int64_t p = 0; p < prompts; p++) total += in.ints(1)[p];
  if (problem.empty() && (total != in.size(0) || cache.rows != prompts)) problem = "the lengths do not fit the tokens";
  if (!problem.empty()) return FailOp(context, "GrpolabPrefill: " + problem);
  auto* logits = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {prompts, model.vocabulary}));
  if (logits == nullptr) return;
  int64_t start = 0;
  for (int64_t p = 0; p < prompts;) {
    Tokens tokens;
    std::vector<int64_t> last;
    const int64_t first = p;
    for (; p < prompts && (tokens.size() == 0 || tokens.size() + in.ints(1)[p] <= kPrefillTokens); p++) {
      const int64_t length = in.ints(1)[p], begin = tokens.size();
      tokens.groups.push_back({p, length, begin, begin + length});
      for (int64_t i = 0; i < length; i++) {
        tokens.ids.push_back(in.ints(0)[start + i]);
        tokens.positions.push_back(i);
      }
      last.push_back(tokens.size() - 1);
      start += length;
    }
    Pass(model, tokens, cache, nullptr).Run(last, logits + first * model.vocabulary);
  }
}

// Inputs: tokens [B], lengths [P], rows [B] ascending, step [], prompts' cache, completions' cache, weights.
void ComputeDecode(void* state, TF_OpKernelContext* context) {
  OpInputs in(context);
  if (!in.ok()) return;
  const auto& options = *static_cast<Options*>(state);
  if (!HasWeights(in, 6, options) || in.size(3) != 1) return FailOp(context, "GrpolabDecode: weights are missing");
  const Cache prompt(in, 4), own(in, 5);
  const Model model(in, 6, prompt, options);
  Tokens tokens;
  tokens.rows = in.ints(2);
  tokens.step = in.ints(3)[0];
  const int64_t count = in.size(0);
  std::string problem = Problem(in, model, prompt);
  if (problem.empty() && !Fits(own, model)) problem = "the completions' cache has the wrong shape";
  if (problem.empty() && (in.size(2) != count || prompt.rows != in.size(1) || options.group < 1))
    problem = "the rows or the lengths do not fit the tokens or the cache";
  if (problem.empty() && (tokens.step < 0 || tokens.step >= own.length)) problem = "the step is outside the cache";
  for (int64_t i = 0; i < count && problem.empty(); i++)
    if (tokens.rows[i] < (i == 0 ? 0 : tokens.rows[i - 1] + 1) || tokens.rows[i] >= own.rows ||
        tokens.rows[i] / options.group >= in.size(1))
      problem = "the rows are not ascending rows of the cache";
  if (!problem.empty()) return FailOp(context, "GrpolabDecode: " + problem);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < count; i++) {
    const int64_t p = tokens.rows[i] / options.group, length = in.ints(1)[p];
    if (tokens.groups.empty() || tokens.groups.back().prompt != p) tokens.groups.push_back({p, length, i, i});
    tokens.groups.back().end = i + 1;
    tokens.ids.push_back(in.ints(0)[i]);
    tokens.positions.push_back(length + tokens.step);
    all.push_back(i);
  }
  auto* logits = static_cast<float*>(AllocateOutput(context, 0, TF_FLOAT, {count, model.vocabulary}));
  if (logits != nullptr) Pass(model, tokens, prompt, &own).Run(all, logits);
}

template <typename T>
void Destroy(void* state) {
  delete static_cast<T*>(state);
}

}  // namespace

void RegisterDecodingOps() {
  const std::vector<const char*> model = {"eps: float", "theta: float",        "group: int", "vocabulary: int",
                                          "N: int",     "M: int", "F: int >= 0", "T: {float, int32}", "rounded: bool"};
  RegisterOp({"GrpolabPrefill",
              {"tokens: int32", "lengths: int32", "cache: float", "vectors: N * float", "matrices: M * T",
               "factors: F * float"},
              {"logits: float"},
              model,
              CreateOptions,
              Guarded<ComputePrefill>,
              Destroy<Options>});
  RegisterOp({"GrpolabDecode",
              {"tokens: int32", "lengths: int32", "rows: int32", "step: int32", "prompt_cache: float", "cache: float",
               "vectors: N * float", "matrices: M * T", "factors: F * float"},
              {"logits: float"},
              model,
              CreateOptions,
              Guarded<ComputeDecode>,
              Destroy<Options>});
}
