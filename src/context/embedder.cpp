#include "context/embedder.hpp"

namespace apb {

Embedder::Embedder(Device& device, const Model& model, std::int64_t longest)
    : device_(device), model_(model), tokens_(device.allocate(static_cast<std::size_t>(longest) * sizeof(int))) {}

void Embedder::embed(std::span<const std::int32_t> tokens, View hidden) {
  if (tokens.empty()) return;
  const auto count = static_cast<std::int64_t>(tokens.size());
  const View ids = tokens_.view(DataType::i32, count, 1);
  device_.upload(host_view(tokens.data(), count, 1), ids);
  device_.embed(ids, *model_.embedding, hidden);
}

}  // namespace apb
