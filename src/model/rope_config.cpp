#include "model/rope_config.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace apb {
namespace {

using Kind = RopeScaling::Kind;

Kind read_kind(const JsonFields& rope) {
  const char* name = rope.has("rope_type") || !rope.has("type") ? "rope_type" : "type";
  const auto& kind = rope.value(name);
  if (kind == "default") return Kind::none;
  if (kind == "linear") return Kind::linear;
  if (kind == "llama3") return Kind::llama3;
  if (kind == "yarn") return Kind::yarn;
  rope.reject(name, "supported: default, linear, llama3, yarn");
}

void read_llama3(const JsonFields& rope, RopeScaling& scaling) {
  scaling.original_positions = rope.positive_number("original_max_position_embeddings");
  scaling.low_frequency_factor = rope.positive_number("low_freq_factor");
  scaling.high_frequency_factor = rope.positive_number("high_freq_factor");
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    rope.reject("high_freq_factor", fmt::format("expected more than low_freq_factor {}", scaling.low_frequency_factor));
  }
}

// How much YaRN sharpens attention for positions stretched by `factor`, by its paper's fit; `weight` scales the fit.
double sharpening(double factor, double weight) { return factor <= 1.0 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0; }

double read_attention_factor(const JsonFields& rope, double factor) {
  if (rope.has("attention_factor")) return rope.positive_number("attention_factor");
  const double mscale = rope.has("mscale") ? rope.non_negative_number("mscale") : 0.0;
  const double mscale_all = rope.has("mscale_all_dim") ? rope.non_negative_number("mscale_all_dim") : 0.0;
  if (mscale > 0.0 && mscale_all > 0.0) return sharpening(factor, mscale) / sharpening(factor, mscale_all);
  return sharpening(factor, 1.0);
}

void read_yarn(const JsonFields& rope, RopeScaling& scaling) {
  rope.expect("truncate", true);
  scaling.original_positions = rope.positive_number("original_max_position_embeddings");
  scaling.beta_fast = rope.has("beta_fast") ? rope.positive_number("beta_fast") : 32.0;
  scaling.beta_slow = rope.has("beta_slow") ? rope.positive_number("beta_slow") : 1.0;
  if (scaling.beta_fast <= scaling.beta_slow) {
    fail("{}: field {} is {}, expected more than beta_slow {}", rope.file(), rope.name("beta_fast"), scaling.beta_fast,
         scaling.beta_slow);
  }
  scaling.attention_factor = read_attention_factor(rope, scaling.factor);
}

RopeScaling read_scaling(const JsonFields& rope) {
  RopeScaling scaling{.kind = read_kind(rope)};
  rope.expect("partial_rotary_factor", 1.0);
  if (scaling.kind == Kind::none) return scaling;
  scaling.factor = rope.positive_number("factor");
  if (scaling.kind == Kind::llama3) read_llama3(rope, scaling);
  if (scaling.kind == Kind::yarn) read_yarn(rope, scaling);
  return scaling;
}

// Published models with linear or yarn scaling leave max_position_embeddings at what it was before, or not.
std::int64_t stretched_positions(std::int64_t positions, const RopeScaling& scaling) {
  constexpr double largest = 0x1p62;
  double stretched = 0.0;
  if (scaling.kind == Kind::linear) stretched = static_cast<double>(positions) * scaling.factor;
  if (scaling.kind == Kind::yarn) stretched = scaling.original_positions * scaling.factor;
  return std::max(positions, static_cast<std::int64_t>(std::min(stretched, largest)));
}

}  // namespace

void read_rope(const JsonFields& config, ModelConfig& model) {
  model.rope_theta = config.has("rope_theta") ? config.positive_number("rope_theta") : 10000.0;  // early Llama-2: none
  const char* const names[] = {"rope_parameters", "rope_scaling"};
  if (config.has(names[0]) && config.has(names[1]) && config.value(names[0]) != config.value(names[1])) {
    config.reject(names[1], "which is not what rope_parameters says; remove one of them");
  }
  for (const char* name : names) {
    if (!config.has(name)) continue;
    const JsonFields rope = config.object(name);
    model.rope_scaling = read_scaling(rope);
    if (rope.has("rope_theta")) model.rope_theta = rope.positive_number("rope_theta");
  }
  if (model.rope_scaling.kind == Kind::yarn && model.rope_theta <= 1.0) {
    fail("{}: field rope_theta is {}, but yarn needs it above 1", config.file(), model.rope_theta);
  }
  model.max_positions = stretched_positions(model.max_positions, model.rope_scaling);
}

}  // namespace apb
