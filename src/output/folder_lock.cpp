#include "output/folder_lock.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "error.hpp"

namespace apb {

namespace {

/// A process, so that neither a reused process id nor a requeued job is taken for another. The lock file holds one
/// line: host, pid, start, job, restart.
struct Owner {
  std::string host;
  long pid = 0;
  std::string start = "-";  // start time of the process in clock ticks since boot, or -
  std::string job = "-";    // Slurm's job id, or -
  long restart = 0;         // how often Slurm restarted the job
};

std::string environment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

/// Field 22 of /proc/PID/stat, counted after the command, which may hold spaces; - where there is no /proc, and for a
/// process that has ended and that nobody has waited for.
std::string start_of(long pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const auto command_end = line.rfind(')');
  if (command_end == std::string::npos) return "-";
  std::istringstream fields(line.substr(command_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z") return "-";
  for (int number = 4; number <= 22; ++number) fields >> field;
  return field;
}

Owner this_process() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const long pid = getpid();
  return {.host = host.data(),
          .pid = pid,
          .start = start_of(pid),
          .job = environment("SLURM_JOB_ID", "-"),
          .restart = std::strtol(environment("SLURM_RESTART_COUNT", "0").c_str(), nullptr, 10)};
}

std::string text_of(const Owner& owner) {
  return fmt::format("{} {} {} {} {}\n", owner.host, owner.pid, owner.start, owner.job, owner.restart);
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Whether the process that wrote the lock is certainly gone.
bool is_gone(const Owner& owner, const Owner& self) {
  if (owner.job != "-" && owner.job == self.job && owner.restart < self.restart) return true;
  if (owner.host != self.host) return false;
  if (kill(static_cast<pid_t>(owner.pid), 0) != 0 && errno == ESRCH) return true;
  return start_of(owner.pid) != owner.start;
}

/// False if there is a lock already.
bool try_to_create(const std::filesystem::path& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0 && errno == EEXIST) return false;
  const bool written = file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int reason = errno;
  if (file >= 0) close(file);
  if (written) return true;
  if (file >= 0) unlink(path.c_str());
  fail("{}: cannot be written: {}; choose an --output in a folder with room that can be written", path.string(),
       std::strerror(reason));
}

/// Takes a dead process's lock out of the way; false if it was no longer that lock.
bool remove_stale(const std::filesystem::path& path, const std::string& stale, const Owner& self) {
  // Renamed before it is looked at again: of several processes that find it stale only one gets it.
  const auto aside = fmt::format("{}.{}.{}.tmp", path.string(), self.host, self.pid);
  if (std::rename(path.c_str(), aside.c_str()) != 0) return false;
  const bool same = read_text(aside) == stale;
  if (!same && link(aside.c_str(), path.c_str()) != 0)
    fail("{}: changed while it was taken over; try again", path.string());
  unlink(aside.c_str());
  return same;
}

/// Throws Error when the process that wrote the lock may still be there.
void remove_if_stale(const std::filesystem::path& path, const Owner& self) {
  const std::string text = read_text(path);
  Owner owner;
  std::istringstream fields(text);
  const bool readable(fields >> owner.host >> owner.pid >> owner.start >> owner.job >> owner.restart);
  if (readable && is_gone(owner, self) && remove_stale(path, text, self)) return;
  if (!readable && !std::filesystem::exists(path)) return;  // removed meanwhile
  if (!readable)
    fail("{}: is not a lock of apb; if no run writes this output, delete it and start again", path.string());
  fail(
      "{}: process {} on host {} is writing this output; wait for its end, or if it is gone, delete this file and "
      "the locks beside it and start again",
      path.string(), owner.pid, owner.host);
}

/// The locks of all groups but the first.
void remove_stale_locks_of_groups(const std::filesystem::path& folder, const Owner& self) {
  std::vector<std::filesystem::path> locks;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto& path = entry.path();
    if (path.filename().string().starts_with("lock-") && path.extension().empty()) locks.push_back(path);
  }
  for (const auto& lock : locks) remove_if_stale(lock, self);
}

}  // namespace

std::filesystem::path FolderLock::path_in(const std::filesystem::path& folder, int group) {
  return folder / (group == 0 ? "lock" : fmt::format("lock-{}", group));
}

FolderLock::FolderLock(const std::filesystem::path& folder, int group) : path_(path_in(folder, group)) {
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  if (error) {
    fail("{}: cannot be made: {}; choose an --output in a folder that exists and can be written", folder.string(),
         error.message());
  }
  const Owner self = this_process();
  if (group == 0) remove_stale_locks_of_groups(folder, self);
  if (try_to_create(path_, text_of(self))) return;
  remove_if_stale(path_, self);
  if (!try_to_create(path_, text_of(self))) fail("{}: another run has just begun to write this output", path_.string());
}

FolderLock::~FolderLock() {
  unlink(path_.c_str());
  rmdir(path_.parent_path().c_str());
}

}  // namespace apb
