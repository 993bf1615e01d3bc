#include "comm/mpi_node_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "comm/mpi_communicator.hpp"
#include "error.hpp"

namespace apb {
namespace {

constexpr double gibibyte = 0x1p30;

/// A file in memory without a name: it is gone with its last mapping, however the ranks end.
class SharedFile {
 public:
  explicit SharedFile(std::size_t bytes) : descriptor_(::memfd_create("apb", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || ::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) error_ = errno;
  }
  /// Another process's, by that process's number of it.
  SharedFile(int process, int descriptor)
      : descriptor_(::open(fmt::format("/proc/{}/fd/{}", process, descriptor).c_str(), O_RDWR | O_CLOEXEC)) {
    if (descriptor_ < 0) error_ = errno;
  }
  ~SharedFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  int descriptor() const { return descriptor_; }
  int error() const { return error_; }  // of errno; 0: none

  Buffer map(std::size_t bytes) {
    if (error_ != 0) return {};
    void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (data == MAP_FAILED) {
      error_ = errno;
      return {};
    }
    return {static_cast<std::byte*>(data), bytes, Space::device,
            [bytes](std::byte* mapped) { ::munmap(mapped, bytes); }};
  }

 private:
  int descriptor_ = -1;
  int error_ = 0;
};

}  // namespace

MpiNodeMemory::MpiNodeMemory(MPI_Comm node, std::function<void(MPI_Request*)> wait)
    : wait_(std::move(wait)), node_(node) {
  check_mpi(MPI_Comm_set_errhandler(node_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(node_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node_, &size_), "MPI_Comm_size");
}

MpiNodeMemory::~MpiNodeMemory() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&node_);
}

void MpiNodeMemory::check_available(std::size_t bytes, std::size_t available) {
  std::uint64_t least = available;
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, &least, 1, MPI_UINT64_T, MPI_MIN, node_, &request), "MPI_Iallreduce");
  wait_(&request);
  if (bytes <= least) return;
  fail("the model needs {:.2f} GiB on a node, {:.2f} GiB are free on {}: use a node with more memory",
       static_cast<double>(bytes) / gibibyte, static_cast<double>(least) / gibibyte, host_name());
}

int MpiNodeMemory::any_error(int error) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, &error, 1, MPI_INT, MPI_MAX, node_, &request), "MPI_Iallreduce");
  wait_(&request);
  return error;
}

Buffer MpiNodeMemory::allocate(std::size_t bytes, std::size_t available) {
  check_available(bytes, available);
  // The node's first rank has the file, the others open it there; the pages lie where they are first written.
  std::optional<SharedFile> file;
  if (rank_ == 0) file.emplace(bytes);
  std::array<int, 3> place{static_cast<int>(::getpid()), file ? file->descriptor() : -1, file ? file->error() : 0};
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(place.data(), static_cast<int>(place.size()), MPI_INT, 0, node_, &request), "MPI_Ibcast");
  wait_(&request);
  const auto [process, descriptor, first_error] = place;
  if (!file && first_error == 0) file.emplace(process, descriptor);
  Buffer buffer = file ? file->map(bytes) : Buffer();
  if (const int error = any_error(file ? file->error() : first_error); error != 0) {
    fail("the ranks on {} cannot share {:.2f} GiB of memory for the weights: {}; use one rank a node", host_name(),
         static_cast<double>(bytes) / gibibyte, std::strerror(error));
  }
  return buffer;
}

}  // namespace apb
