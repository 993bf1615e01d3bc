// memory_needed against what Forward really allocates.
#include "context/memory.hpp"

#include <gtest/gtest.h>

#include "comm/mpi_communicator.hpp"
#include "context/forward.hpp"
#include "cpu/cpu_device.hpp"
#include "deferred_device.hpp"
#include "model/safetensors.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

class CountingDevice : public DeferredDevice {
 public:
  using DeferredDevice::DeferredDevice;
  Buffer allocate(std::size_t bytes) override {
    allocated += bytes;
    return DeferredDevice::allocate(bytes);
  }
  std::size_t allocated = 0;
};

TEST(MemoryNeeded, IsWhatForwardAllocates) {
  const TemporaryFolder folder;
  const TinyModel tiny = random_tiny_model(1, {});
  write_model_folder(tiny, folder.path());
  write_retaining_heads(tiny, folder.path() / "heads.bin");
  MpiCommunicator world(MPI_COMM_WORLD);
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    const auto direct = make_cpu_device({.threads = 1, .compute_type = type});
    CountingDevice device(*direct);
    Model model = load_model(device, load_config(folder.path()), Checkpoint::open(folder.path()), world.rank() == 0);
    model.retaining_heads =
        load_retaining_heads(device, model.config, Checkpoint::open_file(folder.path() / "heads.bin"));
    for (const auto compressor :
         {CompressorKind::retaining_heads, CompressorKind::query_similarity, CompressorKind::recent}) {
      for (const MethodOptions& options :
           {MethodOptions{.compressor = compressor},
            MethodOptions{.anchor_placement = AnchorPlacement::replicated, .compressor = compressor},
            MethodOptions{.method = Method::full, .compressor = compressor}, MethodOptions{.method = Method::ring},
            MethodOptions{.method = Method::ulysses}, MethodOptions{.method = Method::star}}) {
        if (options.method == Method::ulysses && tiny.heads % world.size() != 0) continue;
        for (const int context : {3, 210, 1533}) {
          const auto partition = make_partition({context, 9, 2, 70}, options, world.size(), device.tile());
          const bool overlap = context != 3;
          device.allocated = 0;
          const Forward forward({.device = device,
                                 .communicator = world,
                                 .model = model,
                                 .partition = partition,
                                 .options = options,
                                 .keep_selection = context == 210,
                                 .overlap = overlap});
          EXPECT_EQ(memory_needed(device, model, partition, options, world.rank(), context == 210, overlap),
                    device.allocated);
          device.synchronize();
        }
      }
    }
  }
}

}  // namespace
}  // namespace apb
