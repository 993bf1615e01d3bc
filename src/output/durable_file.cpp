#include "output/durable_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "error.hpp"

namespace apb {

namespace {

/// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : value_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }

  int value() const { return value_; }
  bool close() { return ::close(std::exchange(value_, -1)) == 0; }

 private:
  int value_;
};

/// False with errno set if anything fails; some file systems report a full disk or quota only at the end.
bool write_and_sync(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (file.value() < 0) return false;
  while (!bytes.empty()) {
    constexpr std::size_t most = std::size_t{1} << 30;
    const ssize_t written = write(file.value(), bytes.data(), std::min(bytes.size(), most));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return fsync(file.value()) == 0 && file.close();
}

/// Makes the rename itself last.
bool sync_folder(const std::filesystem::path& folder) {
  const Descriptor descriptor(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
  // EINVAL: a file system whose folders cannot be synced.
  return descriptor.value() >= 0 && (fsync(descriptor.value()) == 0 || errno == EINVAL);
}

}  // namespace

std::filesystem::path temporary_name(const std::filesystem::path& path) { return path.string() + ".tmp"; }

void replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  const auto temporary = temporary_name(path);
  if (!write_and_sync(temporary, bytes) || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    fail("{}: cannot write {} bytes: {}; make room or write elsewhere, then start again, a run with --resume",
         path.string(), bytes.size(), std::strerror(reason));
  }
  if (!sync_folder(path.parent_path())) {
    fail("{}: cannot sync its folder: {}", path.string(), std::strerror(errno));
  }
}

}  // namespace apb
