// Every model family against the logits that another program computed for the same weights.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/mpi_communicator.hpp"
#include "compare.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "model/model.hpp"
#include "model/safetensors.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Tokens = std::vector<std::int32_t>;

json families() {
  return json::parse(std::ifstream(std::string(APB_TEST_DATA) + "/family_reference.json"))["families"];
}

Answer answer_of(const std::filesystem::path& folder, const Tokens& prompt, int new_tokens) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  MpiCommunicator self(MPI_COMM_SELF);
  Model model = load_model(*device, load_config(folder), Checkpoint::open(folder), true);
  model.config.eos_tokens.clear();  // as many tokens as asked for
  const Tokens context(prompt.begin(), prompt.end() - 9);
  const Tokens query(prompt.end() - 9, prompt.end());
  const MethodOptions options{.method = Method::full};
  const Partition partition = make_partition(
      {static_cast<std::int64_t>(context.size()), static_cast<std::int64_t>(query.size()), 0, new_tokens}, options, 1,
      device->tile());
  Forward forward(
      {.device = *device, .communicator = self, .model = model, .partition = partition, .options = options});
  return generate(*device, self, model, forward, context, query, new_tokens, true);
}

TEST(Family, EqualsAnotherProgram) {
  std::set<std::string> names;
  for (const json& family : families()) {
    const std::string name = family["name"];
    SCOPED_TRACE(name + "; if random_tiny_model changed, run tests/make_family_reference.py again");
    names.insert(name);
    const TemporaryFolder folder;
    write_model_folder(random_tiny_model(family["seed"], tiny_families().at(name)), folder.path());
    const Tokens expected = family["generated_ids"];
    const Answer answer = answer_of(folder.path(), family["prompt"], static_cast<int>(expected.size()));
    std::vector<double> logits;
    for (const json& row : family["logits"]) logits.insert(logits.end(), row.begin(), row.end());
    EXPECT_EQ(answer.tokens, expected);
    EXPECT_CLOSE(answer.logits, logits, 2e-4);
    RecordProperty(name, std::to_string(relative_error(answer.logits, logits)));
  }
  for (const auto& [name, shape] : tiny_families()) EXPECT_TRUE(names.contains(name)) << name << " has no reference";
}

}  // namespace
}  // namespace apb
