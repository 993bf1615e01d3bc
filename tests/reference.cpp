#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "error.hpp"

namespace apb::reference {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

// ---- The transformer, one token at a time ----

// One token in one layer. Heads lie one after the other.
struct Projected {
  Row query;          // [heads * head_dim], as projected
  Row key;            // [kv_heads * head_dim], as projected
  Row value;          // [kv_heads * head_dim]
  Row rotated_query;  // after RoPE
  Row rotated_key;    // after RoPE
};

// What one token attends to: [kv_head][entry].
using Entries = std::vector<std::vector<const Projected*>>;

Row multiply(const std::vector<float>& weight, const Row& input) {  // weight [out, in]
  Row output(weight.size() / input.size());
  for (std::size_t o = 0; o < output.size(); ++o) {
    for (std::size_t i = 0; i < input.size(); ++i) {
      output[o] += static_cast<double>(weight[o * input.size() + i]) * input[i];
    }
  }
  return output;
}

void add(Row& sum, const Row& other) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

Row rms_norm(const Row& input, const std::vector<float>& weight, double eps) {
  double sum_of_squares = 0.0;
  for (const double x : input) sum_of_squares += x * x;
  const double scale = 1.0 / std::sqrt(sum_of_squares / static_cast<double>(input.size()) + eps);
  Row output(input.size());
  for (std::size_t i = 0; i < input.size(); ++i) output[i] = input[i] * scale * static_cast<double>(weight[i]);
  return output;
}

// ---- Rotary frequencies, from the published descriptions ----

constexpr double pi = 3.14159265358979323846;

// Llama 3.1: by the wavelength, in tokens, against the context of the first training.
double llama3_frequency(const TinyRope& rope, double frequency) {
  const double wavelength = 2.0 * pi / frequency;
  const double shortest_scaled = rope.original_max_position_embeddings / rope.high_freq_factor;
  const double longest_mixed = rope.original_max_position_embeddings / rope.low_freq_factor;
  if (wavelength < shortest_scaled) return frequency;
  if (wavelength > longest_mixed) return frequency / rope.factor;
  const double smooth = (rope.original_max_position_embeddings / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN: interpolated from the dimension on that turns beta_slow times, untouched up to the one that turns beta_fast
// times, a ramp over whole dimensions between them.
double yarn_frequency(const TinyModel& model, double dimension, double frequency) {
  const TinyRope& rope = model.rope;
  const auto dimension_turning = [&](double times) {  // solves original / (2 pi theta^(2 d / head_dim)) = times
    return 0.5 * model.head_dim * std::log(rope.original_max_position_embeddings / (2.0 * pi * times)) /
           std::log(model.rope_theta);
  };
  const double low = std::max(0.0, std::floor(dimension_turning(rope.beta_fast)));
  const double high = std::min(model.head_dim - 1.0, std::ceil(dimension_turning(rope.beta_slow)));
  if (dimension <= low) return frequency;
  if (dimension >= high) return frequency / rope.factor;
  const double ramp = (dimension - low) / (high - low);
  return ramp * frequency / rope.factor + (1.0 - ramp) * frequency;
}

double rotary_frequency(const TinyModel& model, std::size_t dimension) {
  const double exponent = 2.0 * static_cast<double>(dimension) / static_cast<double>(model.head_dim);
  const double frequency = std::pow(model.rope_theta, -exponent);
  if (model.rope.type == "linear") return frequency / model.rope.factor;
  if (model.rope.type == "llama3") return llama3_frequency(model.rope, frequency);
  if (model.rope.type == "yarn") return yarn_frequency(model, static_cast<double>(dimension), frequency);
  return frequency;
}

// What YaRN multiplies rotated vectors by.
double rotary_length(const TinyRope& rope) {
  if (rope.type != "yarn") return 1.0;
  const double log_factor = 0.1 * std::log(rope.factor);
  if (rope.mscale != 0.0) return (rope.mscale * log_factor + 1.0) / (rope.mscale_all_dim * log_factor + 1.0);
  return log_factor + 1.0;
}

// Rotates dimension i of each head with dimension i + head_dim/2.
Row rotate(const TinyModel& model, const Row& input, int position) {
  const auto head_dim = static_cast<std::size_t>(model.head_dim);
  const std::size_t half = head_dim / 2;
  const double length = rotary_length(model.rope);
  Row frequencies;
  for (std::size_t i = 0; i < half; ++i) frequencies.push_back(rotary_frequency(model, i));
  Row output(input.size());
  for (std::size_t head = 0; head < input.size(); head += head_dim) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = position * frequencies[i];
      const double first = length * input[head + i];
      const double second = length * input[head + half + i];
      output[head + i] = first * std::cos(angle) - second * std::sin(angle);
      output[head + half + i] = second * std::cos(angle) + first * std::sin(angle);
    }
  }
  return output;
}

Row embed(const TinyModel& model, std::int32_t token) {
  const auto& table = model.tensor("model.embed_tokens.weight");
  const auto begin = table.begin() + static_cast<std::ptrdiff_t>(token) * model.hidden;
  return {begin, begin + model.hidden};
}

Rows embed_all(const TinyModel& model, std::span<const std::int32_t> tokens) {
  Rows rows;
  for (const auto token : tokens) rows.push_back(embed(model, token));
  return rows;
}

Row linear(const TinyModel& model, int layer, const std::string& name, const Row& input) {
  Row output = multiply(model.tensor(layer_tensor(layer, name + ".weight")), input);
  const auto bias = model.tensors.find(layer_tensor(layer, name + ".bias"));
  if (bias != model.tensors.end()) {
    for (std::size_t i = 0; i < output.size(); ++i) output[i] += static_cast<double>(bias->second[i]);
  }
  return output;
}

// The RMS norm of each head, where the model has one.
Row norm_heads(const TinyModel& model, int layer, const std::string& name, const Row& input) {
  if (!model.head_norms) return input;
  const auto& weight = model.tensor(layer_tensor(layer, "self_attn." + name + ".weight"));
  Row output;
  for (auto head = input.begin(); head != input.end(); head += model.head_dim) {
    const Row normed = rms_norm({head, head + model.head_dim}, weight, model.rms_eps);
    output.insert(output.end(), normed.begin(), normed.end());
  }
  return output;
}

Projected project(const TinyModel& model, int layer, const Row& hidden, int position) {
  const Row input = rms_norm(hidden, model.tensor(layer_tensor(layer, "input_layernorm.weight")), model.rms_eps);
  Projected result;
  result.query = linear(model, layer, "self_attn.q_proj", input);
  result.key = linear(model, layer, "self_attn.k_proj", input);
  result.value = linear(model, layer, "self_attn.v_proj", input);
  result.rotated_query = rotate(model, norm_heads(model, layer, "q_norm", result.query), position);
  result.rotated_key = rotate(model, norm_heads(model, layer, "k_norm", result.key), position);
  return result;
}

std::vector<Projected> project_all(const TinyModel& model, int layer, const Rows& hidden, int first_position) {
  std::vector<Projected> result;
  for (const auto& row : hidden) {
    const int position = first_position + static_cast<int>(result.size());
    result.push_back(project(model, layer, row, position));
  }
  return result;
}

double dot(const Row& left, std::size_t left_begin, const Row& right, std::size_t right_begin, int count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
    sum += left[left_begin + i] * right[right_begin + i];
  return sum;
}

// Returns [heads * head_dim].
Row attend(const TinyModel& model, const Projected& token, const Entries& entries) {
  const auto head_dim = static_cast<std::size_t>(model.head_dim);
  const auto group = static_cast<std::size_t>(model.heads / model.kv_heads);
  const double scale = 1.0 / std::sqrt(static_cast<double>(model.head_dim));
  Row output(token.query.size());
  for (std::size_t head = 0; head < static_cast<std::size_t>(model.heads); ++head) {
    const std::size_t kv_head = head / group;
    const auto& visible = entries[kv_head];
    Row weights;
    for (const auto* entry : visible) {
      weights.push_back(
          scale * dot(token.rotated_query, head * head_dim, entry->rotated_key, kv_head * head_dim, model.head_dim));
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    for (auto& weight : weights) weight = std::exp(weight - largest);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t e = 0; e < visible.size(); ++e) {
      for (std::size_t i = 0; i < head_dim; ++i) {
        output[head * head_dim + i] += weights[e] / sum * visible[e]->value[kv_head * head_dim + i];
      }
    }
  }
  return output;
}

// The rest of the layer: output projection and feed-forward, each added to the residual.
void finish_layer(const TinyModel& model, int layer, Row& hidden, const Row& attention) {
  add(hidden, linear(model, layer, "self_attn.o_proj", attention));
  const Row input =
      rms_norm(hidden, model.tensor(layer_tensor(layer, "post_attention_layernorm.weight")), model.rms_eps);
  Row gated = linear(model, layer, "mlp.gate_proj", input);
  const Row up = linear(model, layer, "mlp.up_proj", input);
  for (std::size_t i = 0; i < gated.size(); ++i) gated[i] = silu(gated[i]) * up[i];
  add(hidden, linear(model, layer, "mlp.down_proj", gated));
}

Row head_logits(const TinyModel& model, const Row& hidden) {
  const Row input = rms_norm(hidden, model.tensor("model.norm.weight"), model.rms_eps);
  return multiply(model.tensor(model.tied ? "model.embed_tokens.weight" : "lm_head.weight"), input);
}

std::int32_t argmax(const Row& logits) {  // ties to the lower id
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// ---- The method ----

// The entries of all KV heads grow together, except for the passing ones.
void see(Entries& entries, std::span<const Projected> tokens) {
  for (auto& head : entries) {
    for (const auto& token : tokens) head.push_back(&token);
  }
}

// Row i of `tokens` attends to `before` and to rows 0..i.
void causal_layer(const TinyModel& model, int layer, const Entries& before, std::span<const Projected> tokens,
                  std::span<Row> hidden) {
  Entries entries = before;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    see(entries, tokens.subspan(i, 1));
    finish_layer(model, layer, hidden[i], attend(model, tokens[i], entries));
  }
}

class Simulation {
 public:
  Simulation(const TinyModel& model, std::span<const std::int32_t> context, std::span<const std::int32_t> query,
             const MethodOptions& options)
      : model_(model), options_(options), n_(static_cast<int>(context.size())), m_(static_cast<int>(query.size())) {
    if (options_.full) options_ = {.full = true};
    if (context.empty() || query.empty()) fail("reference: context ({}) and query ({}) must have tokens", n_, m_);
    block_length_ = (n_ + options_.blocks - 1) / options_.blocks;
    context_ = embed_all(model, context);
    query_ = embed_all(model, query);
    anchor_ = embed_all(model, anchor_tokens(context, query));
  }

  ReferenceResult run(int max_new_tokens, int eos) {
    for (int layer = 0; layer < model_.layers; ++layer) prefill_layer(layer);
    generate(head_logits(model_, query_.back()), max_new_tokens, eos);
    return result_;
  }

  // Another question after run(): its tokens go through the cache of the context one by one.
  ReferenceResult ask(std::span<const std::int32_t> question, int max_new_tokens, int eos) {
    for (auto& cache : cache_) cache.erase(cache.begin() + n_, cache.end());
    result_.tokens.clear();
    result_.logits.clear();
    Row logits;
    for (const std::int32_t token : question) logits = decode(token);
    generate(logits, max_new_tokens, eos);
    return result_;
  }

 private:
  void generate(Row logits, int max_new_tokens, int eos) {
    while (static_cast<int>(result_.tokens.size()) < max_new_tokens) {
      const std::int32_t token = argmax(logits);
      result_.logits.push_back(logits);
      result_.tokens.push_back(token);
      if (token == eos) break;
      logits = decode(token);
    }
  }

  // Tokens at positions 0, 1, ...; also sets held_, the number of context tokens among them.
  std::vector<std::int32_t> anchor_tokens(std::span<const std::int32_t> context, std::span<const std::int32_t> query) {
    const int length = options_.anchor_length;
    if (length == 0) return {};
    const int least = options_.anchor_query ? m_ + options_.query_insert : 0;
    if (length < least || length > block_length_) {
      fail("reference: anchor length {} is not between {} and the block length {}", length, least, block_length_);
    }
    held_ = options_.anchor_query ? length - m_ : length;
    std::vector<std::int32_t> tokens(context.begin(), context.begin() + held_);
    if (options_.anchor_query) tokens.insert(tokens.begin() + options_.query_insert, query.begin(), query.end());
    return tokens;
  }

  int block_begin(int block) const { return std::min(n_, block * block_length_); }
  int block_size(int block) const { return block_begin(block + 1) - block_begin(block); }

  void prefill_layer(int layer) {
    const auto anchor = project_all(model_, layer, anchor_, 0);
    const auto context = project_all(model_, layer, context_, 0);
    const auto query = project_all(model_, layer, query_, n_);
    const bool last_layer = layer + 1 == model_.layers;

    result_.positions.push_back(select(layer, context, query));
    if (!last_layer) {
      causal_layer(model_, layer, nothing(), anchor, anchor_);
      for (int block = 0; block < options_.blocks; ++block) block_layer(layer, block, anchor, context);
    }
    Entries whole_context = nothing();
    see(whole_context, context);
    causal_layer(model_, layer, whole_context, query, query_);

    cache_.push_back(context);
    cache_.back().insert(cache_.back().end(), query.begin(), query.end());
  }

  void block_layer(int layer, int block, std::span<const Projected> anchor, std::span<const Projected> context) {
    const auto begin = static_cast<std::size_t>(block_begin(block));
    const auto size = static_cast<std::size_t>(block_size(block));
    Entries before = nothing();
    if (block > 0) see(before, anchor);
    for (int earlier = 0; earlier < block; ++earlier) {
      const auto& passing = result_.positions[static_cast<std::size_t>(layer)][static_cast<std::size_t>(earlier)];
      for (std::size_t kv_head = 0; kv_head < passing.size(); ++kv_head) {
        for (const int position : passing[kv_head]) {
          before[kv_head].push_back(&context[static_cast<std::size_t>(position)]);
        }
      }
    }
    causal_layer(model_, layer, before, context.subspan(begin, size), std::span(context_).subspan(begin, size));
  }

  // [block][kv_head] -> positions.
  std::vector<std::vector<std::vector<int>>> select(int layer, std::span<const Projected> context,
                                                    std::span<const Projected> query) {
    std::vector<std::vector<std::vector<int>>> result(static_cast<std::size_t>(options_.blocks));
    for (int block = 0; block < options_.blocks; ++block) {
      auto& block_result = result[static_cast<std::size_t>(block)];
      block_result.resize(static_cast<std::size_t>(model_.kv_heads));
      if (block + 1 == options_.blocks || layer + 1 == model_.layers) continue;
      for (int kv_head = 0; kv_head < model_.kv_heads; ++kv_head) {
        const Row scores = block_scores(layer, block, kv_head, context, query);
        const int first = block == 0 ? held_ : 0;
        auto positions = select_top(scores, first, options_.passing_length);
        result_.selection_margin = std::min(result_.selection_margin, margin(scores, first, options_.passing_length));
        for (int& position : positions) position += block_begin(block);
        block_result[static_cast<std::size_t>(kv_head)] = std::move(positions);
      }
    }
    return result;
  }

  Row block_scores(int layer, int block, int kv_head, std::span<const Projected> context,
                   std::span<const Projected> query) const {
    Row scores;
    for (int position = block_begin(block); position < block_begin(block + 1); ++position) {
      const auto& token = context[static_cast<std::size_t>(position)];
      switch (options_.compressor) {
        case Compressor::retaining_heads:
          scores.push_back(retaining_score(layer, kv_head, token));
          break;
        case Compressor::query_similarity:
          scores.push_back(similarity_score(kv_head, token, query));
          break;
        case Compressor::random:
          scores.push_back(random_score(options_.seed, options_.document, layer, kv_head, position));
          break;
        case Compressor::recent:
          scores.push_back(position);
          break;
      }
    }
    const bool pooled =
        options_.compressor == Compressor::retaining_heads || options_.compressor == Compressor::query_similarity;
    return pooled ? max_pool(scores) : scores;
  }

  double retaining_score(int layer, int kv_head, const Projected& token) const {
    Row fused = token.query;
    fused.insert(fused.end(), token.key.begin(), token.key.end());
    fused.insert(fused.end(), token.value.begin(), token.value.end());
    Row inner = linear(model_, layer, "self_attn.fc1", fused);
    for (double& x : inner) x = silu(x);
    return linear(model_, layer, "self_attn.fc2", inner)[static_cast<std::size_t>(kv_head)];
  }

  double similarity_score(int kv_head, const Projected& token, std::span<const Projected> query) const {
    const auto head_dim = static_cast<std::size_t>(model_.head_dim);
    const auto group = static_cast<std::size_t>(model_.heads / model_.kv_heads);
    const auto kv = static_cast<std::size_t>(kv_head);
    double sum = 0.0;
    for (const auto& row : query) {
      for (std::size_t head = kv * group; head < (kv + 1) * group; ++head) {
        sum += dot(row.rotated_query, head * head_dim, token.rotated_key, kv * head_dim, model_.head_dim);
      }
    }
    return sum / static_cast<double>(query.size() * group);
  }

  // Appends the token to the cache; returns the logits after it.
  Row decode(std::int32_t token) {
    Row hidden = embed(model_, token);
    const int position = static_cast<int>(cache_[0].size());
    for (int layer = 0; layer < model_.layers; ++layer) {
      auto& cache = cache_[static_cast<std::size_t>(layer)];
      cache.push_back(project(model_, layer, hidden, position));
      Entries entries = nothing();
      see(entries, cache);
      finish_layer(model_, layer, hidden, attend(model_, cache.back(), entries));
    }
    return head_logits(model_, hidden);
  }

  Entries nothing() const { return Entries(static_cast<std::size_t>(model_.kv_heads)); }

  const TinyModel& model_;
  MethodOptions options_;
  int n_;
  int m_;
  int block_length_ = 0;
  int held_ = 0;  // context tokens in the anchor
  Rows anchor_;   // hidden states
  Rows context_;
  Rows query_;
  std::vector<std::vector<Projected>> cache_;  // [layer][position]: context, query, generated
  ReferenceResult result_;
};

std::uint64_t mix(std::uint64_t x) {  // one step of splitmix64
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

}  // namespace

double margin(std::span<const double> scores, int first, int count) {
  std::vector<double> sorted(scores.begin() + first, scores.end());
  if (count <= 0 || static_cast<std::size_t>(count) >= sorted.size()) return std::numeric_limits<double>::infinity();
  std::sort(sorted.rbegin(), sorted.rend());
  const double gap = sorted[static_cast<std::size_t>(count - 1)] - sorted[static_cast<std::size_t>(count)];
  const double largest = std::max(std::abs(sorted.front()), std::abs(sorted.back()));
  return gap == 0.0 ? std::numeric_limits<double>::infinity() : gap / largest;
}

ReferenceResult simulate(const TinyModel& model, std::span<const std::int32_t> context,
                         std::span<const std::int32_t> query, const MethodOptions& options, int max_new_tokens,
                         int eos) {
  return Simulation(model, context, query, options).run(max_new_tokens, eos);
}

ReferenceResult simulate_further(const TinyModel& model, std::span<const std::int32_t> context,
                                 std::span<const std::int32_t> query, std::span<const std::int32_t> further,
                                 const MethodOptions& options, int max_new_tokens, int eos) {
  Simulation simulation(model, context, query, options);
  simulation.run(0, eos);
  return simulation.ask(further, max_new_tokens, eos);
}

std::vector<double> masked_forward(const TinyModel& model, std::span<const std::int32_t> tokens,
                                   std::span<const int> positions, const Visible& visible) {
  Rows hidden = embed_all(model, tokens);
  for (int layer = 0; layer < model.layers; ++layer) {
    std::vector<Projected> projected;
    for (std::size_t row = 0; row < hidden.size(); ++row) {
      projected.push_back(project(model, layer, hidden[row], positions[row]));
    }
    for (std::size_t row = 0; row < hidden.size(); ++row) {
      Entries entries(static_cast<std::size_t>(model.kv_heads));
      for (int kv_head = 0; kv_head < model.kv_heads; ++kv_head) {
        for (std::size_t column = 0; column < hidden.size(); ++column) {
          if (!visible(layer, kv_head, row, column)) continue;
          entries[static_cast<std::size_t>(kv_head)].push_back(&projected[column]);
        }
      }
      finish_layer(model, layer, hidden[row], attend(model, projected[row], entries));
    }
  }
  return head_logits(model, hidden.back());
}

ReferenceResult dense_forward(const TinyModel& model, std::span<const std::int32_t> context,
                              std::span<const std::int32_t> query, int max_new_tokens, int eos) {
  std::vector<std::int32_t> tokens(context.begin(), context.end());
  tokens.insert(tokens.end(), query.begin(), query.end());
  const auto causal = [](int, int, std::size_t row, std::size_t column) { return column <= row; };
  ReferenceResult result;
  while (static_cast<int>(result.tokens.size()) < max_new_tokens) {
    std::vector<int> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    result.logits.push_back(masked_forward(model, tokens, positions, causal));
    result.tokens.push_back(argmax(result.logits.back()));
    tokens.push_back(result.tokens.back());
    if (result.tokens.back() == eos) break;
  }
  return result;
}

double random_score(std::uint64_t seed, std::uint64_t document, int layer, int kv_head, int position) {
  std::uint64_t state = mix(seed);
  state = mix(state ^ document);
  state = mix(state ^ static_cast<std::uint64_t>(layer));
  state = mix(state ^ static_cast<std::uint64_t>(kv_head));
  state = mix(state ^ static_cast<std::uint64_t>(position));
  return static_cast<double>(state >> 40U) * 0x1p-24;
}

std::vector<double> max_pool(std::span<const double> scores) {
  const int size = static_cast<int>(scores.size());
  std::vector<double> pooled;
  pooled.reserve(scores.size());
  for (int i = 0; i < size; ++i) {
    pooled.push_back(*std::max_element(scores.begin() + std::max(0, i - 2), scores.begin() + std::min(size, i + 3)));
  }
  return pooled;
}

std::vector<int> select_top(std::span<const double> scores, int first, int count) {
  std::vector<int> indices;
  for (int i = first; i < static_cast<int>(scores.size()); ++i) indices.push_back(i);
  const auto higher = [&](int left, int right) {
    return scores[static_cast<std::size_t>(left)] > scores[static_cast<std::size_t>(right)];
  };
  std::stable_sort(indices.begin(), indices.end(), higher);
  indices.resize(std::min(indices.size(), static_cast<std::size_t>(count)));
  std::sort(indices.begin(), indices.end());
  return indices;
}

}  // namespace apb::reference
