// Scores that say which of a block's tokens are worth passing on; higher means keep (docs/method.md, "Scores").
#pragma once

#include <memory>

#include "device/device.hpp"
#include "model/model.hpp"
#include "options.hpp"

namespace apb {

/// Scores are f32 [tokens of a block, kv_heads]. A compressor implements the calls that it needs.
class Compressor {
 public:
  Compressor() = default;
  virtual ~Compressor() = default;
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;

  /// Once a layer, before its blocks: the query rows' Q after RoPE [m, heads * head_dim].
  virtual void begin_layer(ConstView /*query*/) {}
  /// For each chunk of a block's rows, as projected, before RoPE: (Q, K, V) [rows, (heads + 2 kv_heads) head_dim].
  virtual void score_rows(int /*layer*/, ConstView /*qkv*/, View /*scores*/) {}
  /// For each block once its K/V are stored; the block begins at `first_position`.
  virtual void score_block(int /*layer*/, std::int64_t /*first_position*/, SlotRange /*keys*/, View /*scores*/) {}
  /// Neighbouring tokens whose highest score a token takes; 1: its own.
  virtual int pool_window() const { return 1; }
};

/// `document` tells documents apart for the random compressor. Throws Error when retaining heads are asked for and not
/// loaded.
std::unique_ptr<Compressor> make_compressor(const MethodOptions& options, Device& device, const Model& model,
                                            std::uint64_t document);

}  // namespace apb
