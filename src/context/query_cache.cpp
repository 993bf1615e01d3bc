#include "context/query_cache.hpp"

#include <array>

namespace apb {

QueryCache::QueryCache(Device& device, LayerRunner& runner, const ModelConfig& config, const DocumentLengths& lengths,
                       bool kept)
    : runner_(runner),
      kept_(kept),
      store_(device, config.head_shape(), kept ? config.layers : 1, std::array{lengths.query_capacity()}) {}

void QueryCache::project(int layer, const Rows& query, int stored, const LayerRunner::ChunkVisitor& visit) {
  runner_.project(layer, query, slot(layer), stored, true, visit);
}

}  // namespace apb
