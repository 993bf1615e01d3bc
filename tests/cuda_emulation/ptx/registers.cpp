// Slots for registers: liveness over the control flow, then a linear scan.
//
// A kernel's thousands of registers would not stay in the processor's cache; a few hundred slots do. Lanes on different
// paths may share a slot, because every operation writes its active lanes alone.
#include <algorithm>
#include <bit>
#include <limits>

#include "ptx/decoder.hpp"
#include "ptx/handlers.hpp"

namespace apb::ptx {
namespace {

using Bits = std::vector<std::uint64_t>;

bool has(const Bits& bits, std::size_t i) { return ((bits[i / 64] >> (i % 64)) & 1U) != 0; }
void add(Bits& bits, std::size_t i) { bits[i / 64] |= 1ULL << (i % 64); }

/// A straight run of operations.
struct Run {
  std::size_t first = 0, end = 0;
  std::vector<std::size_t> next;
  Bits used, written, live_in, live_out;  // used: read before written here
};

bool is_branch(const Operation& operation) {
  return operation.handler == branch_to || operation.handler == branch_indexed;
}
bool ends(const Operation& operation) { return operation.handler == exit_lanes || operation.handler == trap; }

template <typename F>
void for_reads(const Operation& operation, F&& f) {
  for (std::size_t i = 0; i < operation.count; ++i) {
    if (((operation.written >> i) & 1U) == 0) f(i, operation.operand[i]);
  }
  if (operation.guard != no_slot) f(std::size_t{255}, operation.guard);
}

template <typename F>
void for_writes(const Operation& operation, F&& f) {
  for (std::size_t i = 0; i < operation.count; ++i) {
    if (((operation.written >> i) & 1U) != 0) f(i, operation.operand[i]);
  }
}

std::vector<Run> find_runs(const Program& program) {
  const auto& code = program.code;
  std::vector<bool> starts(code.size() + 1, false);
  starts[0] = true;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (is_branch(code[i]) || ends(code[i])) starts[i + 1] = true;
    if (code[i].handler == branch_to) starts[static_cast<std::size_t>(code[i].immediate)] = true;
  }
  for (const auto& table : program.jump_tables) {
    for (const auto target : table) starts[target] = true;
  }
  std::vector<Run> runs;
  std::vector<std::size_t> run_of(code.size() + 1, 0);
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (starts[i]) {
      if (!runs.empty()) runs.back().end = i;
      runs.emplace_back().first = i;
    }
    run_of[i] = runs.size() - 1;
  }
  runs.back().end = code.size();
  for (auto& run : runs) {
    const Operation& tail = code[run.end - 1];
    if (tail.handler == branch_to && static_cast<std::size_t>(tail.immediate) < code.size()) {
      run.next.push_back(run_of[static_cast<std::size_t>(tail.immediate)]);
    }
    if (tail.handler == branch_indexed) {
      for (const auto target : program.jump_tables[static_cast<std::size_t>(tail.immediate)]) {
        run.next.push_back(run_of[target]);
      }
    }
    const bool falls = (!is_branch(tail) && !ends(tail)) || tail.guard != no_slot;
    if (falls && run.end < code.size()) run.next.push_back(run_of[run.end]);
  }
  return runs;
}

void find_liveness(const Program& program, std::vector<Run>& runs, std::size_t values) {
  const std::size_t words = (values + 63) / 64;
  for (auto& run : runs) {
    run.used = run.written = run.live_in = run.live_out = Bits(words, 0);
    for (auto i = run.first; i < run.end; ++i) {
      const Operation& operation = program.code[i];
      for_reads(operation, [&](std::size_t, std::uint32_t value) {
        if (!has(run.written, value)) add(run.used, value);
      });
      if (operation.guard != no_slot) continue;  // may leave lanes unwritten
      for_writes(operation, [&](std::size_t, std::uint32_t value) { add(run.written, value); });
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
      for (std::size_t w = 0; w < words; ++w) {
        std::uint64_t out = 0;
        for (const auto next : run->next) out |= runs[next].live_in[w];
        const std::uint64_t in = run->used[w] | (out & ~run->written[w]);
        changed = changed || in != run->live_in[w];
        run->live_out[w] = out;
        run->live_in[w] = in;
      }
    }
  }
}

/// Where a value is live, in a line.
struct Span {
  std::size_t first = std::numeric_limits<std::size_t>::max(), last = 0;
  void include(std::size_t at) {
    first = std::min(first, at);
    last = std::max(last, at);
  }
};

std::vector<Span> find_spans(const Program& program, const std::vector<Run>& runs, std::size_t values) {
  std::vector<Span> spans(values);
  const auto include = [&](const Bits& bits, std::size_t at) {
    for (std::size_t w = 0; w < bits.size(); ++w) {
      for (auto rest = bits[w]; rest != 0; rest &= rest - 1) {
        spans[w * 64 + static_cast<std::size_t>(std::countr_zero(rest))].include(at);
      }
    }
  };
  for (const auto& run : runs) {
    include(run.live_in, run.first);
    include(run.live_out, run.end);
  }
  for (std::size_t i = 0; i < program.code.size(); ++i) {
    const auto touch = [&](std::size_t, std::uint32_t value) { spans[value].include(i); };
    for_reads(program.code[i], touch);
    for_writes(program.code[i], touch);
  }
  return spans;
}

}  // namespace

void allocate_registers(Program& program, const std::vector<Value>& values) {
  if (program.code.empty()) return;
  const std::size_t count = values.size();
  auto runs = find_runs(program);
  find_liveness(program, runs, count);
  const auto spans = find_spans(program, runs, count);

  std::vector<std::uint32_t> tracked(count, no_slot);
  for (std::size_t v = 0; v < count; ++v) {
    const auto kind = values[v].kind;
    if ((kind == Value::Kind::named || kind == Value::Kind::temporary) && has(runs[0].live_in, v)) {
      tracked[v] = static_cast<std::uint32_t>(program.tracked_registers++);
    }
  }

  std::size_t end = 0;
  const auto new_slot = [&](std::uint8_t bytes) {
    const auto slot = end;
    end += bytes == 1 ? sizeof(std::uint64_t) : std::size_t{bytes} * 32;
    return static_cast<std::uint32_t>(slot);
  };
  std::vector<std::uint32_t> slots(count, no_slot);
  std::vector<std::size_t> order;
  for (std::size_t v = 0; v < count; ++v) {
    if (spans[v].first != std::numeric_limits<std::size_t>::max()) order.push_back(v);
  }
  // Predicates, which are narrow, go last so that the others are aligned to cache lines.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if ((values[a].bytes == 1) != (values[b].bytes == 1)) return values[b].bytes == 1;
    return spans[a].first < spans[b].first;
  });
  std::map<std::uint8_t, std::vector<std::uint32_t>> free;
  std::multimap<std::size_t, std::size_t> running;  // last position -> value
  std::size_t at = 0;
  for (const auto v : order) {
    if (spans[v].first < at) {  // the predicates begin
      running.clear();
      free.clear();
    }
    at = spans[v].first;
    const auto& value = values[v];
    if (value.kind == Value::Kind::constant || value.kind == Value::Kind::special || tracked[v] != no_slot) {
      slots[v] = new_slot(value.bytes);
      if (value.kind == Value::Kind::constant) program.constants.push_back({value.constant, value.bytes, slots[v]});
      if (value.kind == Value::Kind::special) program.specials.push_back({value.special, slots[v]});
      continue;
    }
    while (!running.empty() && running.begin()->first < spans[v].first) {
      const auto done = running.begin()->second;
      free[values[done].bytes].push_back(slots[done]);
      running.erase(running.begin());
    }
    auto& candidates = free[value.bytes];
    if (candidates.empty()) {
      slots[v] = new_slot(value.bytes);
    } else {
      slots[v] = candidates.back();
      candidates.pop_back();
    }
    running.emplace(spans[v].last, v);
  }
  program.register_file_bytes = (end + 63) / 64 * 64;

  for (std::size_t i = 0; i < program.code.size(); ++i) {
    Operation& operation = program.code[i];
    std::vector<TrackedOperand> checks;
    const auto check = [&](std::size_t operand, std::uint32_t value) {
      if (tracked[value] == no_slot) return;
      checks.push_back({static_cast<std::uint8_t>(operand), tracked[value], values[value].name});
    };
    for_reads(operation, check);
    for_writes(operation, check);
    if (!checks.empty()) {
      operation.tracked = true;
      program.checks[i] = std::move(checks);
    }
    for (std::size_t k = 0; k < operation.count; ++k) operation.operand[k] = slots[operation.operand[k]];
    if (operation.guard != no_slot) operation.guard = slots[operation.guard];
  }
}

}  // namespace apb::ptx
