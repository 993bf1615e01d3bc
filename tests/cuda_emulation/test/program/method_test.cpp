// The layer loop over MPI ranks on the emulated CUDA device against the same on the CPU device, both in bf16: logits,
// tokens and selections.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "comm/mpi_communicator.hpp"
#include "compare.hpp"
#include "context/forward.hpp"
#include "context/generate.hpp"
#include "context/partition.hpp"
#include "cpu/cpu_device.hpp"
#include "cuda/cuda_device.hpp"
#include "cuda/nccl_communicator.hpp"
#include "deferred_device.hpp"
#include "model/model.hpp"
#include "model/safetensors.hpp"
#include "temporary_folder.hpp"
#include "tiny_model.hpp"

namespace apb {
namespace {

constexpr int new_tokens = 3;
constexpr double tolerance = 2e-2;  // of bf16

/// Remembers the scores that were selected by.
class ScoreRecorder : public DeferredDevice {
 public:
  using DeferredDevice::DeferredDevice;

  void select(ConstView scores, int pool_window, int excluded, View positions) override {
    Scores recorded{.kv_heads = static_cast<std::size_t>(scores.columns)};
    recorded.values.resize(static_cast<std::size_t>(scores.rows * scores.columns));
    synchronize();
    const View host{reinterpret_cast<std::byte*>(recorded.values.data()),
                    DataType::f32,
                    Space::host,
                    scores.rows,
                    scores.columns,
                    scores.columns};
    download(scores, host);
    synchronize();
    recorded.pool(pool_window);
    recorded_.push_back(std::move(recorded));
    DeferredDevice::select(scores, pool_window, excluded, positions);
  }

  /// Of one block, [tokens, kv_heads].
  struct Scores {
    std::size_t kv_heads = 0;
    std::vector<float> values{};

    void pool(int window);
    float at(std::size_t token, std::size_t head) const { return values[token * kv_heads + head]; }
  };
  /// In the order in which they were selected by.
  std::vector<Scores> take() { return std::exchange(recorded_, {}); }

 private:
  std::vector<Scores> recorded_;
};

void ScoreRecorder::Scores::pool(int window) {
  const auto reach = static_cast<std::size_t>(window / 2);
  const std::size_t tokens = values.size() / kv_heads;
  const std::vector<float> before = values;
  for (std::size_t token = 0; token < tokens; ++token) {
    for (std::size_t head = 0; head < kv_heads; ++head) {
      for (std::size_t other = token - std::min(token, reach); other < std::min(tokens, token + reach + 1); ++other) {
        values[token * kv_heads + head] = std::max(values[token * kv_heads + head], before[other * kv_heads + head]);
      }
    }
  }
}

/// |actual - expected| / |expected|, of the vectors' lengths: the largest error alone varies twofold from model to
/// model.
double distance(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0, length = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual.at(i)) - static_cast<double>(expected[i]), 2);
    length += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / length);
}

/// What a device made of a document.
struct Outcome {
  Partition partition;
  Answer answer;
  std::vector<std::int32_t> selection;  // [layers, own blocks, kv_heads, p]
};

class EmulatedMethodTest : public testing::Test {
 protected:
  void SetUp() override {
    std::uint64_t seed = std::random_device{}();
    host_.broadcast(std::as_writable_bytes(std::span(&seed, 1)), 0);
    RecordProperty("seed", std::to_string(seed));
    trace_.emplace(__FILE__, __LINE__, seed);
    random_.seed(seed);
    tiny_ = random_tiny_model(seed, tiny_gpu_shape(2));
    write_model_folder(tiny_, folder_.path() / "model");
    write_retaining_heads(tiny_, folder_.path() / "heads.safetensors");
    cpu_model_ = load(cpu_);
    cuda_model_ = load(cuda_);
  }

  Model load(Device& device) {
    const ModelConfig config = load_config(folder_.path() / "model");
    Model model = load_model(device, config, Checkpoint::open(folder_.path() / "model"), host_.rank() == 0);
    model.retaining_heads =
        load_retaining_heads(device, config, Checkpoint::open_file(folder_.path() / "heads.safetensors"));
    model.config.eos_tokens.clear();  // as many tokens as asked for
    return model;
  }

  std::vector<std::int32_t> random_tokens(int count) {
    std::uniform_int_distribution<std::int32_t> token(0, tiny_.vocabulary - 1);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    for (auto& value : tokens) value = token(random_);
    return tokens;
  }

  Outcome run(Device& device, Communicator& communicator, const Model& model, const MethodOptions& options) {
    Outcome outcome;
    outcome.partition = make_partition(
        {static_cast<std::int64_t>(context_.size()), static_cast<std::int64_t>(query_.size()), 3, new_tokens, 0},
        options, communicator.size(), device.tile());
    Forward forward({.device = device,
                     .communicator = communicator,
                     .model = model,
                     .partition = outcome.partition,
                     .options = options,
                     .document = 77,
                     .keep_selection = true});
    outcome.answer = generate(device, communicator, model, forward, context_, query_, new_tokens, true);
    if (outcome.partition.method == Method::apb) outcome.selection = forward.selection();
    return outcome;
  }

  /// Positions that one device took and the other left have scores near the lowest that the CPU took.
  void compare_selection(const Outcome& cpu, const Outcome& cuda, const std::vector<ScoreRecorder::Scores>& scores) {
    const Partition& partition = cpu.partition;
    const auto passing = static_cast<std::size_t>(partition.passing_length);
    ASSERT_EQ(cuda.selection.size(), cpu.selection.size());
    std::size_t next = 0;
    auto scored = scores.begin();
    for (int layer = 0; layer < tiny_.layers; ++layer) {
      for (const int number : partition.blocks_of(host_.rank())) {
        const Block& block = partition.blocks[static_cast<std::size_t>(number)];
        const bool selected = layer + 1 < tiny_.layers && block.passing > 0;
        for (std::size_t head = 0; head < static_cast<std::size_t>(tiny_.kv_heads); ++head, next += passing) {
          const std::vector<std::int32_t> ours(&cuda.selection[next], &cuda.selection[next] + passing);
          const std::vector<std::int32_t> theirs(&cpu.selection[next], &cpu.selection[next] + passing);
          if (selected) {
            compare_selected(ours, theirs, block, *scored, head);
          } else {
            EXPECT_EQ(ours, theirs);
          }
        }
        if (selected) ++scored;
      }
    }
    EXPECT_EQ(scored, scores.end());
  }

  static void compare_selected(const std::vector<std::int32_t>& ours, const std::vector<std::int32_t>& theirs,
                               const Block& block, const ScoreRecorder::Scores& scores, std::size_t head) {
    const auto score = [&](std::int32_t position) {
      return static_cast<double>(scores.at(static_cast<std::size_t>(position - block.begin), head));
    };
    double largest = 0;
    for (std::int64_t position = block.begin; position < block.end; ++position) {
      largest = std::max(largest, std::abs(score(static_cast<std::int32_t>(position))));
    }
    double threshold = std::numeric_limits<double>::infinity();
    std::vector<std::int32_t> taken;
    for (const std::int32_t position : theirs) {
      if (position < 0) continue;
      taken.push_back(position);
      threshold = std::min(threshold, score(position));
    }
    std::vector<std::int32_t> differing;
    std::set_symmetric_difference(ours.begin(), ours.begin() + static_cast<std::ptrdiff_t>(taken.size()), taken.begin(),
                                  taken.end(), std::back_inserter(differing));
    for (const std::int32_t position : differing) {
      ASSERT_TRUE(position >= block.begin && position < block.end) << position;
      EXPECT_TRUE(std::abs(score(position) - threshold) <= tolerance * largest)
          << "position " << position << " scores " << score(position) << ", the threshold is " << threshold;
    }
  }

  void check(const MethodOptions& options, int context, int query) {
    SCOPED_TRACE(testing::Message() << "method " << static_cast<int>(options.method) << " context " << context
                                    << " blocks " << options.blocks.value_or(0) << " compressor "
                                    << static_cast<int>(options.compressor));
    context_ = random_tokens(context);
    query_ = random_tokens(query);
    const Outcome cpu = run(cpu_, host_, cpu_model_, options);
    const auto scores = cpu_.take();
    const Outcome cuda = run(cuda_, communicator_, cuda_model_, options);
    // Where rounding has changed a selection, different numbers follow.
    if (host_.max(cuda.selection == cpu.selection ? 0 : 1) == 0 && host_.rank() == 0) {
      compare_logits(cpu.answer, cuda.answer);
    }
    const bool exact = options.compressor == CompressorKind::random || options.compressor == CompressorKind::recent;
    if (exact) {
      EXPECT_EQ(cuda.selection, cpu.selection);
    } else if (cpu.partition.method == Method::apb) {
      compare_selection(cpu, cuda, scores);
    }
  }

  /// Up to the first token that they choose differently.
  void compare_logits(const Answer& cpu, const Answer& cuda) const {
    const auto vocabulary = static_cast<std::size_t>(tiny_.vocabulary);
    for (std::size_t token = 0; token < cpu.tokens.size(); ++token) {
      const auto row = [&](const Answer& answer) {
        const auto first = answer.logits.begin() + static_cast<std::ptrdiff_t>(token * vocabulary);
        return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(vocabulary));
      };
      const double error = distance(row(cuda), row(cpu));
      EXPECT_TRUE(error <= tolerance) << error << " at token " << token;
      if (cuda.tokens.at(token) != cpu.tokens[token]) break;
    }
  }

  TemporaryFolder folder_;
  MpiCommunicator host_{MPI_COMM_WORLD};
  std::unique_ptr<Device> cpu_direct_ = make_cpu_device({.threads = 1, .compute_type = DataType::bf16});
  ScoreRecorder cpu_{*cpu_direct_};
  cuda::CudaDevice cuda_{host_.rank()};
  cuda::NcclCommunicator communicator_{host_, cuda_, std::chrono::seconds(60)};
  TinyModel tiny_;
  Model cpu_model_;
  Model cuda_model_;
  std::mt19937_64 random_;
  std::vector<std::int32_t> context_;
  std::vector<std::int32_t> query_;
  std::optional<testing::ScopedTrace> trace_;
};

TEST_F(EmulatedMethodTest, ApbEqualsTheCpuForEveryNumberOfBlocks) {
  for (const int blocks : {1, 2, 4}) {
    for (const auto compressor : {CompressorKind::random, CompressorKind::query_similarity}) {
      check({.blocks = blocks * host_.size(), .compressor = compressor, .seed = 5}, 331, 7);
    }
  }
}

TEST_F(EmulatedMethodTest, RetainingHeadsEqualTheCpu) {
  check({.blocks = 2 * host_.size(), .compressor = CompressorKind::retaining_heads}, 259, 5);
}

TEST_F(EmulatedMethodTest, OtherMethodsEqualTheCpu) {
  for (const auto method : {Method::full, Method::ring, Method::ulysses, Method::star}) {
    if (method == Method::ulysses && tiny_.heads % host_.size() != 0) continue;
    check({.method = method}, 201, 5);
  }
}

TEST_F(EmulatedMethodTest, TwoRunsGiveTheSameBytes) {
  context_ = random_tokens(190);
  query_ = random_tokens(6);
  const MethodOptions options{.blocks = 2 * host_.size()};
  const Outcome one = run(cuda_, communicator_, cuda_model_, options);
  const Outcome two = run(cuda_, communicator_, cuda_model_, options);
  EXPECT_EQ(one.answer.tokens, two.answer.tokens);
  EXPECT_EQ(one.answer.logits, two.answer.logits);
  EXPECT_EQ(one.selection, two.selection);
}

}  // namespace
}  // namespace apb
