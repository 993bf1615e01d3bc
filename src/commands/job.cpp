#include "commands/job.hpp"

#include <array>
#include <span>

namespace apb {

std::optional<Job> share_job(Communicator& communicator, std::optional<Job> job) {
  struct Header {
    std::int64_t present;
    DocumentLengths lengths;
    std::uint64_t document;
    std::uint64_t queries;
    std::int64_t check_dense;
  };
  Header header{};
  if (job) header = {1, job->lengths, job->document, job->queries.size(), job->check_dense ? 1 : 0};
  communicator.broadcast(std::as_writable_bytes(std::span(&header, 1)), 0);
  if (header.present == 0) return std::nullopt;
  if (!job) job.emplace();
  job->lengths = header.lengths;
  job->document = header.document;
  job->check_dense = header.check_dense != 0;
  job->context.resize(static_cast<std::size_t>(header.lengths.context));
  communicator.broadcast(std::as_writable_bytes(std::span(job->context)), 0);
  job->queries.resize(header.queries);
  for (auto& query : job->queries) {
    std::uint64_t length = query.size();
    communicator.broadcast(std::as_writable_bytes(std::span(&length, 1)), 0);
    query.resize(length);
    communicator.broadcast(std::as_writable_bytes(std::span(query)), 0);
  }
  return job;
}

}  // namespace apb
