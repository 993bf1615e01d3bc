// Token ids to rows of the residual stream.
#pragma once

#include <cstdint>
#include <span>

#include "device/device.hpp"
#include "model/model.hpp"

namespace apb {

class Embedder {
 public:
  /// For at most `longest` tokens at a time.
  Embedder(Device& device, const Model& model, std::int64_t longest);

  /// hidden f32 [tokens, hidden]; the tokens may be reused on return.
  void embed(std::span<const std::int32_t> tokens, View hidden);

 private:
  Device& device_;
  const Model& model_;
  Buffer tokens_;
};

}  // namespace apb
