#include "comm/mpi_node_memory.hpp"

#include <sys/statvfs.h>

#include <array>
#include <cstdint>
#include <exception>
#include <limits>
#include <utility>

#include "comm/mpi_communicator.hpp"
#include "error.hpp"

namespace apb {
namespace {

constexpr std::size_t alignment = 64;
constexpr double gibibyte = 0x1p30;

/// Where MPI libraries keep windows on Linux. Containers often have little of it, and Open MPI does not return then.
std::uint64_t free_shared_memory() {
  struct statvfs status {};
  if (::statvfs("/dev/shm", &status) != 0) return std::numeric_limits<std::uint64_t>::max();
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace

MpiNodeMemory::MpiNodeMemory(MPI_Comm parent, std::function<void()> meet) : meet_(std::move(meet)) {
  meet_();
  check_mpi(MPI_Comm_split_type(parent, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node_), "MPI_Comm_split_type");
  check_mpi(MPI_Comm_set_errhandler(node_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(node_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node_, &size_), "MPI_Comm_size");
}

MpiNodeMemory::~MpiNodeMemory() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&node_);
}

Buffer MpiNodeMemory::allocate(std::size_t bytes, std::size_t available) {
  meet_();
  std::array<std::uint64_t, 2> limits{available, free_shared_memory()};
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, limits.data(), 2, MPI_UINT64_T, MPI_MIN, node_), "MPI_Allreduce");
  const auto [least, shared] = limits;
  if (bytes > least) {
    fail("the model needs {:.2f} GiB on a node, {:.2f} GiB are free on {}: use a node with more memory",
         static_cast<double>(bytes) / gibibyte, static_cast<double>(least) / gibibyte, host_name());
  }
  if (bytes + alignment > shared) {
    fail(
        "the weights need {:.2f} GiB of shared memory, /dev/shm on {} has {:.2f} GiB free: enlarge it (containers: "
        "--shm-size), or use one rank a node",
        static_cast<double>(bytes) / gibibyte, host_name(), static_cast<double>(shared) / gibibyte);
  }
  // All of it belongs to the node's first rank; the pages lie where they are first written.
  const std::size_t own = rank_ == 0 ? bytes + alignment : 0;
  MPI_Win window = MPI_WIN_NULL;
  void* data = nullptr;
  check_mpi(MPI_Win_allocate_shared(static_cast<MPI_Aint>(own), 1, MPI_INFO_NULL, node_, &data, &window),
            "MPI_Win_allocate_shared");
  MPI_Aint size = 0;
  int unit = 0;
  check_mpi(MPI_Win_shared_query(window, 0, &size, &unit, &data), "MPI_Win_shared_query");
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  auto* const aligned = static_cast<std::byte*>(data) + (alignment - address % alignment) % alignment;
  return {aligned, bytes, Space::device, [window](std::byte*) mutable {
            if (std::uncaught_exceptions() == 0) MPI_Win_free(&window);
          }};
}

}  // namespace apb
