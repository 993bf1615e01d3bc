// prefill_bytes_sent against the messages that a prefill really sends.
#include <gtest/gtest.h>

#include "comm/mpi_communicator.hpp"
#include "context/forward.hpp"
#include "context/work.hpp"
#include "cpu/cpu_device.hpp"
#include "model/safetensors.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

/// Adds up what this rank sends of device memory.
class CountingCommunicator : public MpiCommunicator {
 public:
  using MpiCommunicator::MpiCommunicator;
  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override {
    sent += bytes(parts) * static_cast<double>(size() - 1);
    return MpiCommunicator::start_all_gather(device, parts);
  }
  std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) override {
    sent += bytes(send) * static_cast<double>(size() - 1);
    return MpiCommunicator::start_all_to_all(device, send, receive);
  }
  std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) override {
    sent += bytes(send);
    return MpiCommunicator::start_shift(device, send, receive);
  }
  double sent = 0.0;

 private:
  /// Of one row.
  static double bytes(ConstView view) { return static_cast<double>(view_bytes(view.type, 1, view.columns)); }
};

TEST(Traffic, IsWhatAPrefillSends) {
  const TemporaryFolder folder;
  const TinyModel tiny = random_tiny_model(1, {});
  write_model_folder(tiny, folder.path());
  CountingCommunicator world(MPI_COMM_WORLD);
  const auto device = make_cpu_device({});
  const Model model =
      load_model(*device, load_config(folder.path()), Checkpoint::open(folder.path()), world.rank() == 0);
  for (const MethodOptions& options : {MethodOptions{}, MethodOptions{.anchor_placement = AnchorPlacement::replicated},
                                       MethodOptions{.blocks = world.size()}, MethodOptions{.method = Method::full},
                                       MethodOptions{.method = Method::ring}, MethodOptions{.method = Method::ulysses},
                                       MethodOptions{.method = Method::star}}) {
    if (options.method == Method::ulysses && tiny.heads % world.size() != 0) continue;
    for (const int context : {100, 411}) {
      const auto partition = make_partition({context, 9, 2, 4}, options, world.size(), device->tile());
      SCOPED_TRACE(partition.describe());
      const std::vector<std::int32_t> tokens(static_cast<std::size_t>(context), 3);
      const std::vector<std::int32_t> query(9, 5);
      Forward forward(
          {.device = *device, .communicator = world, .model = model, .partition = partition, .options = options});
      world.sent = 0.0;
      forward.prefill(tokens, query);
      EXPECT_DOUBLE_EQ(world.sent, prefill_bytes_sent(*device, model.config, partition));
    }
  }
}

}  // namespace
}  // namespace apb
