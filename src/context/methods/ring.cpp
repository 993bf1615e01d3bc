#include "context/methods/ring.hpp"

#include <utility>

namespace apb {
namespace {

/// Every rank's K/V of a layer is laid out alike, so that it can travel as it stands.
std::vector<int> travelling_capacities(const Partition& partition) {
  return std::vector<int>(static_cast<std::size_t>(partition.blocks_per_rank()), partition.blocks.front().length());
}

}  // namespace

RingMethod::RingMethod(const Setup& setup)
    : device_(setup.device),
      communicator_(setup.communicator),
      runner_(setup.runner),
      partition_(setup.partition),
      shape_(setup.model.config.head_shape()),
      layers_(setup.model.config.layers),
      rows_(setup.device, setup.model.config, setup.partition, setup.communicator.rank()),
      store_(setup.device, shape_, layers_, travelling_capacities(setup.partition)),
      query_cache_(setup.device, setup.runner, setup.model.config, setup.partition.lengths,
                   setup.partition.last_rank() == setup.communicator.rank()),
      cached_(cached_blocks(store_, layers_, rows_.lengths())),
      running_(setup.device, setup.runner, shape_, rows_.blocks()) {
  if (communicator_.size() > 1) {
    for (auto& buffer : travelling_) buffer = device_.allocate(view_bytes(DataType::i32, 1, store_.layer(0).columns));
  }
  list_seen();
}

/// What own blocks see of the K/V that arrive: the whole of every earlier block.
void RingMethod::list_seen() {
  const int ranks = communicator_.size();
  for (int step = 1; step < ranks; ++step) {
    const int source = (communicator_.rank() + ranks - step) % ranks;
    for (const OwnBlock& own : rows_.blocks()) {
      std::vector<SlotRange> visible;
      for (const int number : partition_.blocks_of(source)) {
        const Block& block = partition_.blocks[static_cast<std::size_t>(number)];
        const Slot slot = store_.slot_in(travelling(step).data, block.index);
        if (number < own.number) visible.push_back({slot, block.length()});
      }
      seen_.push_back(std::move(visible));
    }
  }
}

void RingMethod::embed(Embedder& embedder, std::span<const std::int32_t> context,
                       std::span<const std::int32_t> /*query*/) {
  rows_.embed_blocks(embedder, context);
}

void RingMethod::project_query(int layer, const Rows& query, int stored) { query_cache_.project(layer, query, stored); }

void RingMethod::run_layer(int layer, ConstView /*query*/) {
  const bool last = layer + 1 == layers_;
  device_.mark(Phase::projection);
  for (int own = 0; own < own_blocks(); ++own) {
    runner_.project(layer, rows_.blocks()[static_cast<std::size_t>(own)].rows, store_.slot(layer, own), 0, !last);
  }
  if (last) return;
  for (int step = 0; step < communicator_.size(); ++step) {
    device_.mark(Phase::communication);
    const auto transfer = start_step(layer, step);
    device_.mark(Phase::attention);
    for (int own = 0; own < own_blocks(); ++own) attend(layer, own, step);
    if (transfer == nullptr) continue;
    device_.mark(Phase::communication);
    device_.wait_for(transfer);
  }
  for (int own = 0; own < own_blocks(); ++own) running_.finish(layer, own);
}

/// What this rank holds goes on to the next one, which attends to it in its next step.
std::shared_ptr<Transfer> RingMethod::start_step(int layer, int step) {
  if (step + 1 == communicator_.size()) return nullptr;
  return communicator_.start_shift(device_, step == 0 ? store_.layer(layer) : travelling(step), travelling(step + 1));
}

void RingMethod::attend(int layer, int own, int step) {
  const auto index = static_cast<std::size_t>(own);
  if (step == 0) {
    running_.begin(own, cached(layer).first(index), cached(layer)[index]);  // own blocks are in document order
  } else {
    running_.add(own, seen_[static_cast<std::size_t>((step - 1) * own_blocks()) + index]);
  }
}

/// Where the K/V attended to in a step behind the first is received.
View RingMethod::travelling(int step) const {
  const View layer = store_.layer(0);
  return travelling_.at(static_cast<std::size_t>(step % 2)).view(layer.type, layer.rows, layer.columns);
}

std::span<const SlotRange> RingMethod::cached(int layer) const {
  return std::span(cached_).subspan(static_cast<std::size_t>(layer * own_blocks()), rows_.blocks().size());
}

QueryShare RingMethod::query_share(int layer) const {
  return {
      .shape = shape_, .context = cached(layer), .query = query_cache_.slot(layer), .sees_query = query_cache_.kept()};
}

}  // namespace apb
