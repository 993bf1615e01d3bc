// One run at a time writes to an output: a file in its folder names the process that does.
#pragma once

#include <filesystem>

namespace apb {

/// Makes a folder if need be and holds its lock, from construction to destruction; a folder that is empty then is
/// removed. The lock of a process that is gone is taken over: same host and no such process, or an earlier start of the
/// same (requeued) Slurm job on any host. Else an Error names the host and process that hold it. When several processes
/// of one run write, the first (group 0) takes its lock before the others take theirs, and looks at those that groups
/// of another run have left.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder, int group = 0);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

  static std::filesystem::path path_in(const std::filesystem::path& folder, int group = 0);

 private:
  std::filesystem::path path_;
};

}  // namespace apb
