// Collectives, atomics, calls, memories, barriers, counters and CUB against plain C++.
#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

#include "device.hpp"

namespace apb::ptx {
namespace {

class LanguageTest : public testing::Test {
 protected:
  std::vector<int> numbers(std::size_t count, int end) {
    std::vector<int> result(count);
    for (auto& value : result) value = random_.below(end);
    return result;
  }

  Random random_;
  Device device_{"language"};
};

TEST_F(LanguageTest, Shuffles) {
  const auto in = numbers(32, 1 << 30);
  auto* out = device_.allocate<int>(288);
  device_.machine().memory().mark_written(out, 288 * sizeof(int));
  device_.run("shuffles", {1}, {32}, device_.upload(in), out);
  const auto got = device_.download(out, 288);
  const auto at = [&](int lane) { return in[static_cast<std::size_t>(lane)]; };
  for (int l = 0; l < 32; ++l) {
    const auto row = [&](int r) { return got[static_cast<std::size_t>(32 * r + l)]; };
    EXPECT_EQ(row(0), at((l * 7 + 3) % 32)) << l;
    EXPECT_EQ(row(1), at(l >= 5 ? l - 5 : l)) << l;
    EXPECT_EQ(row(2), at(l + 9 < 32 ? l + 9 : l)) << l;
    EXPECT_EQ(row(3), at(l ^ 11)) << l;
    EXPECT_EQ(row(4), at(l / 8 * 8 + (l + 1) % 8)) << l;
    EXPECT_EQ(row(5), at(l % 16 >= 3 ? l - 3 : l)) << l;
    EXPECT_EQ(row(6), at(l % 4 + 2 < 4 ? l + 2 : l)) << l;
    EXPECT_EQ(row(7), at(l ^ 5)) << l;
    if (l % 3 == 0) {
      EXPECT_EQ(row(8), at(3 * (l / 6))) << l;
    }
  }
}

TEST_F(LanguageTest, Votes) {
  const auto in = numbers(32, 20);
  auto* out = device_.allocate<unsigned>(320);
  device_.run("votes", {1}, {32}, device_.upload(in), out);
  const auto got = device_.download(out, 320);
  unsigned positive = 0, sum = 0, bits = 0;
  for (std::size_t k = 0; k < 32; ++k) {
    positive |= (in[k] > 0 ? 1U : 0U) << k;
    sum += static_cast<unsigned>(in[k]);
    bits ^= static_cast<unsigned>(in[k]);
  }
  for (std::size_t l = 0; l < 32; ++l) {
    unsigned same = 0;
    for (std::size_t k = 0; k < 32; ++k) same |= (in[k] % 5 == in[l] % 5 ? 1U : 0U) << k;
    EXPECT_EQ(got[l], positive);
    EXPECT_EQ(got[32 + l], static_cast<unsigned>(std::count(in.begin(), in.end(), 5) > 0));
    EXPECT_EQ(got[64 + l], 1U);
    EXPECT_EQ(got[96 + l], same);
    EXPECT_EQ(got[128 + l], 0xFFFFFFFFU);
    EXPECT_EQ(got[160 + l], 1U);
    EXPECT_EQ(got[192 + l], sum);
    EXPECT_EQ(got[224 + l], static_cast<unsigned>(*std::min_element(in.begin(), in.end())));
    EXPECT_EQ(got[256 + l], bits);
    EXPECT_EQ(got[288 + l], 0x55555555U);
  }
}

TEST_F(LanguageTest, LanesMeetAgainAfterALoop) {
  auto in = numbers(32, 100);
  for (auto& value : in) ++value;
  auto* out = device_.allocate<unsigned>(64);
  device_.run("divergent_loop", {1}, {32}, device_.upload(in), out);
  const auto got = device_.download(out, 64);
  unsigned many = 0;
  for (std::size_t l = 0; l < 32; ++l) {
    unsigned steps = 0;
    for (int v = in[l]; v != 1; v = v % 2 == 0 ? v / 2 : 3 * v + 1) ++steps;
    EXPECT_EQ(got[l], steps);
    many |= (steps > 10 ? 1U : 0U) << l;
  }
  for (std::size_t l = 0; l < 32; ++l) EXPECT_EQ(got[32 + l], many);
}

TEST_F(LanguageTest, Atomics) {
  const auto in = numbers(192, 1000);
  std::vector<int> start(17, 0);
  start[9] = 5000;
  start[10] = -1;
  start[16] = 1;
  int* out = device_.upload(start);
  auto* sums = device_.upload(std::vector<float>{0.0F});
  auto* wide = device_.upload(std::vector<unsigned long long>{0});
  device_.run("atomics", {3}, {64}, device_.upload(in), out, sums, wide);
  const auto got = device_.download(out, 17);
  for (int bin = 0; bin < 8; ++bin) {
    EXPECT_EQ(got[static_cast<std::size_t>(bin)],
              std::count_if(in.begin(), in.end(), [&](int v) { return v % 8 == bin; }));
  }
  EXPECT_EQ(got[8], *std::max_element(in.begin(), in.end()));
  EXPECT_EQ(got[9], *std::min_element(in.begin(), in.end()));
  EXPECT_EQ(got[10], std::accumulate(in.begin(), in.end(), -1, [](int a, int b) { return a & (b | 1024); }));
  EXPECT_EQ(got[11], std::accumulate(in.begin(), in.end(), 0, std::bit_or<>()));
  EXPECT_EQ(got[12], std::accumulate(in.begin(), in.end(), 0, std::bit_xor<>()));
  EXPECT_EQ(got[13], 192 % 10);
  EXPECT_EQ(got[14], 7);
  int power = 1;
  for (int i = 0; i < 192; ++i) power = power * 3 % 65537;
  EXPECT_EQ(got[16], power);
  EXPECT_EQ(device_.download(sums, 1)[0], 96.0F);
  EXPECT_EQ(device_.download(wide, 1)[0], 192 * 0x100000001ULL);
}

TEST_F(LanguageTest, Calls) {
  const auto in = numbers(64, 100);
  auto* out = device_.allocate<double>(64);
  device_.run("calls", {1}, {64}, device_.upload(in), out);
  const auto got = device_.download(out, 64);
  for (int t = 0; t < 64; ++t) {
    const int v = in[static_cast<std::size_t>(t)];
    double expected = 1;
    for (int i = 0; i < t % 4; ++i) expected *= v % 5;
    if (v % 2 == 0) expected += v * 0.5 + v + t % 3;
    EXPECT_EQ(got[static_cast<std::size_t>(t)], expected) << t;
  }
}

TEST_F(LanguageTest, Memories) {
  struct Big {
    int values[1024];
    int count;
  } big{};
  for (auto& value : big.values) value = random_.below(1 << 30);
  big.count = 1000;
  std::vector<signed char> small(64);
  for (auto& value : small) value = static_cast<signed char>(random_.below(256) - 128);
  auto* out = device_.allocate<int>(64);
  device_.run("memories", {1}, {64}, big, device_.upload(small), out);
  const auto got = device_.download(out, 64);
  for (int t = 0; t < 64; ++t) {
    const auto i = static_cast<std::size_t>(t);
    const int expected[] = {1,
                            10 * ((t & 3) + 1),
                            big.values[t * 37 % 1000],
                            (t / 3 & 7) * (t / 3 & 7),
                            small[i],
                            static_cast<unsigned char>(small[i])};
    EXPECT_EQ(got[i], expected[t % 6]) << t;
  }
  EXPECT_EQ(*static_cast<int*>(device_.module().variable("counter").pointer), 8);
}

TEST_F(LanguageTest, NamedBarriersOrderWhoTakesPart) {
  const auto in = numbers(128, 1000);
  auto* out = device_.allocate<int>(128);
  device_.run("producer", {1}, {96}, device_.upload(in), out);
  const auto got = device_.download(out, 128);
  for (std::size_t i = 0; i < 128; ++i) EXPECT_EQ(got[i], in[i / 32 * 32 + 31 - i % 32]);
}

TEST_F(LanguageTest, CopiesFillUpWithZeros) {
  std::vector<char> in(32 * 48);
  for (auto& value : in) value = static_cast<char>(random_.below(255) + 1);
  auto* out = device_.allocate<char>(in.size());
  device_.run("partial_copies", {1}, {32}, device_.upload(in), out);
  const auto expect = [&](std::size_t l, std::size_t first, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      const auto at = l * 48 + first + i;
      EXPECT_EQ(device_.download(out + at, 1)[0], i < l % (size + 1) ? in[at] : 0) << l << ' ' << i;
    }
  };
  for (std::size_t l = 0; l < 32; ++l) {
    expect(l, 0, 4);
    expect(l, 8, 8);
    expect(l, 16, 16);
  }
}

TEST_F(LanguageTest, BlocksOfPartialWarps) {
  const auto in = numbers(77, 1000);
  auto* out = device_.allocate<int>(1);
  device_.run("partial_block", {1}, {77}, device_.upload(in), out);
  EXPECT_EQ(device_.download(out, 1)[0], std::accumulate(in.begin(), in.end(), 0));
}

TEST_F(LanguageTest, BarriersThatVote) {
  const auto in = numbers(128, 10);
  auto* out = device_.allocate<int>(384);
  device_.run("barrier_votes", {1}, {128}, device_.upload(in), out);
  const auto got = device_.download(out, 384);
  for (std::size_t t = 0; t < 128; ++t) {
    EXPECT_EQ(got[t], std::count_if(in.begin(), in.end(), [](int v) { return v > 5; }));
    EXPECT_EQ(got[128 + t] != 0, std::all_of(in.begin(), in.end(), [](int v) { return v < 8; }));
    EXPECT_EQ(got[256 + t] != 0, std::any_of(in.begin(), in.end(), [](int v) { return v == 9; }));
  }
}

TEST_F(LanguageTest, WarpsMayWaitForEachOther) {
  auto* out = device_.allocate<int>(1);
  device_.run("flag", {1}, {64}, device_.upload(std::vector<int>{17}), out);
  EXPECT_EQ(device_.download(out, 1)[0], 17);
}

TEST_F(LanguageTest, Library) {
  std::vector<unsigned> in(512);
  for (auto& value : in) value = static_cast<unsigned>(random_.bits());
  auto* keys = device_.allocate<unsigned>(512);
  auto* values = device_.allocate<int>(512);
  auto* sums = device_.allocate<int>(512);
  auto* largest = device_.allocate<unsigned>(1);
  auto* histogram = device_.allocate<unsigned>(256);
  device_.run("library", {1}, {128}, device_.upload(in), keys, values, sums, largest, histogram);
  std::vector<int> order(512);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return in[static_cast<std::size_t>(a)] > in[static_cast<std::size_t>(b)]; });
  const auto got_keys = device_.download(keys, 512);
  const auto got_values = device_.download(values, 512);
  const auto got_sums = device_.download(sums, 512);
  const auto got_histogram = device_.download(histogram, 256);
  int sum = 0;
  for (std::size_t i = 0; i < 512; ++i) {
    EXPECT_EQ(got_values[i], order[i]);
    EXPECT_EQ(got_keys[i], in[static_cast<std::size_t>(order[i])]);
    EXPECT_EQ(got_sums[i], sum);
    sum += order[i];
  }
  EXPECT_EQ(device_.download(largest, 1)[0], *std::max_element(in.begin(), in.end()));
  for (unsigned bin = 0; bin < 256; ++bin) {
    EXPECT_EQ(got_histogram[bin], std::count_if(in.begin(), in.end(), [&](unsigned v) { return v % 256 == bin; }));
  }
}

TEST_F(LanguageTest, CountsBankConflicts) {
  const auto extra = [&](int stride) {
    device_.machine().reset_counters();
    device_.run("strided_shared", {1}, {32}, device_.allocate<int>(32), stride);
    const auto& counters = device_.machine().counters().at("strided_shared");
    EXPECT_EQ(counters.shared_load.accesses, 1U);
    EXPECT_EQ(counters.shared_store.extra_wavefronts, counters.shared_load.extra_wavefronts);
    return counters.shared_load.extra_wavefronts;
  };
  EXPECT_EQ(extra(1), 0U);
  EXPECT_EQ(extra(33), 0U);
  EXPECT_EQ(extra(2), 1U);
  EXPECT_EQ(extra(8), 7U);
  EXPECT_EQ(extra(32), 31U);
}

TEST_F(LanguageTest, CountsSectors) {
  const auto in = numbers(32 * 40, 1000);
  const auto sectors = [&](int stride, int offset) {
    device_.machine().reset_counters();
    device_.run("strided_global", {1}, {32}, device_.upload(in), device_.allocate<int>(32), stride, offset);
    const auto& counters = device_.machine().counters().at("strided_global");
    EXPECT_EQ(counters.global_store.sectors, 4U);
    EXPECT_EQ(counters.instructions * 32, counters.lane_instructions);
    return std::pair(counters.global_load.sectors, counters.global_load.least_sectors);
  };
  EXPECT_EQ(sectors(1, 0), std::pair(4UL, 4UL));
  EXPECT_EQ(sectors(1, 1), std::pair(5UL, 4UL));
  EXPECT_EQ(sectors(0, 3), std::pair(1UL, 1UL));
  EXPECT_EQ(sectors(2, 0), std::pair(8UL, 4UL));
  EXPECT_EQ(sectors(40, 0), std::pair(32UL, 4UL));
}

TEST_F(LanguageTest, RefusesLaunchesAsHardwareDoes) {
  const auto reason = [&](Dim3 grid, Dim3 block, std::size_t shared, std::size_t allowed) {
    LaunchOptions options;
    options.max_dynamic_shared_bytes = allowed;
    int* none = nullptr;
    try {
      device_.launch(device_.kernel({"partial_block"}), grid, block, shared, options, none, none);
    } catch (const LaunchError& error) {
      return static_cast<int>(error.reason());
    } catch (const Violation&) {
      return -1;  // it ran: the pointers are null
    }
    return -2;
  };
  constexpr std::size_t kib = 1024;
  EXPECT_EQ(reason({1}, {1024}, 0, 48 * kib), -1);
  EXPECT_EQ(reason({1}, {1025}, 0, 48 * kib), static_cast<int>(LaunchError::Reason::invalid_configuration));
  EXPECT_EQ(reason({1}, {1, 1, 65}, 0, 48 * kib), static_cast<int>(LaunchError::Reason::invalid_configuration));
  EXPECT_EQ(reason({0}, {32}, 0, 48 * kib), static_cast<int>(LaunchError::Reason::invalid_configuration));
  EXPECT_EQ(reason({1, 65536}, {32}, 0, 48 * kib), static_cast<int>(LaunchError::Reason::invalid_configuration));
  EXPECT_EQ(reason({1}, {32}, 49 * kib, 48 * kib), static_cast<int>(LaunchError::Reason::too_much_shared_memory));
  EXPECT_EQ(reason({1}, {32}, 49 * kib, 64 * kib), -1);
  EXPECT_EQ(reason({1}, {32}, 163 * kib, 200 * kib), static_cast<int>(LaunchError::Reason::too_much_shared_memory));
}

TEST(UnsupportedTest, NamesTheInstruction) {
  Machine machine;
  const std::string text =
      ".version 8.0\n.target sm_80\n.address_size 64\n.file 1 \"a.cu\"\n.visible .entry k()\n{\n.reg .b32 %r<3>;\n"
      ".loc 1 7 3\nmystery.b32 %r1, %r2;\nret;\n}\n";
  const Module module(text, machine.memory());
  try {
    machine.launch(module.kernel("k"), {1}, {32}, 0, nullptr);
    FAIL() << "no error";
  } catch (const Unsupported& error) {
    EXPECT_STREQ(error.what(), "kernel k, a.cu:7: unknown instruction: mystery.b32 %r1, %r2");
  }
}

}  // namespace
}  // namespace apb::ptx
