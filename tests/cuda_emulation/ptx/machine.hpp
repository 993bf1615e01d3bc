// Executes the PTX that nvcc emitted on the CPU, judges every access, and counts what a GPU would do.
//
//   Machine machine;
//   Module module(ptx_text, machine.memory());
//   machine.launch(module.kernel("_Z3addPf"), {8}, {128}, 0, arguments);
//   machine.counters().at("_Z3addPf").mma;
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace apb::ptx {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

/// What the judge objects to. `message` is one paragraph that names kernel, source line and threads.
enum class Fault {
  uninitialised_register,
  uninitialised_memory,
  out_of_bounds,
  misaligned,
  race,
  divergent_barrier,
  missing_lanes,  // a collective is executed without all the lanes of its mask
  deadlock,
  endless,  // more instructions than LaunchOptions::instruction_limit
  trap,     // trap, or a failed device assertion
};

/// A kernel (or a copy by the host) did what a correct one never does. After a fault in a launch, global memory holds
/// what had been written until then.
class Violation : public std::runtime_error {
 public:
  Violation(Fault fault, const std::string& message, std::string kernel = {}, std::string file = {}, int line = 0)
      : std::runtime_error(message), fault_(fault), kernel_(std::move(kernel)), file_(std::move(file)), line_(line) {}
  Fault fault() const { return fault_; }
  const std::string& kernel() const { return kernel_; }  // mangled; empty for the host
  /// The innermost line outside of the toolkit's headers; empty without -lineinfo.
  const std::string& file() const { return file_; }
  int line() const { return line_; }

 private:
  Fault fault_;
  std::string kernel_, file_;
  int line_;
};

/// The launch is one that hardware refuses; nothing has run.
class LaunchError : public std::runtime_error {
 public:
  enum class Reason { invalid_configuration, too_much_shared_memory, invalid_argument };
  LaunchError(Reason reason, const std::string& message) : std::runtime_error(message), reason_(reason) {}
  Reason reason() const { return reason_; }

 private:
  Reason reason_;
};

/// PTX that this interpreter does not know: names the instruction and the source line.
class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Allocation;  // shadow.hpp

/// Device global memory: plain host memory, with shadow state for the judge. Not thread safe.
class Memory {
 public:
  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// Memory of exactly so many bytes (> 0), aligned to 256, contents never written. Throws std::bad_alloc.
  void* allocate(std::size_t bytes);
  /// Frees what allocate returned; false if it did not return this pointer.
  bool release(void* pointer);

  /// The host (copy, memset, a library stand-in) writes these bytes: throws Violation if they leave an allocation.
  void mark_written(const void* pointer, std::size_t bytes);
  /// Throws Violation if a byte leaves the allocation or was never written.
  void check_readable(const void* pointer, std::size_t bytes) const;
  /// A device to device copy carries over which bytes were never written. Does not copy the bytes.
  void mark_copied(const void* to, const void* from, std::size_t bytes);
  /// These bytes hold nothing any more: reading them before the next write is a violation.
  void mark_unwritten(const void* pointer, std::size_t bytes);

  /// Whether the byte belongs to an allocation.
  bool contains(const void* pointer) const;
  std::size_t allocated_bytes() const { return allocated_bytes_; }

  /// For the interpreter: the allocation that holds an address, or null; and the number of the next launch, by which
  /// shadow stamps tell launches apart.
  Allocation* find(std::uint64_t address) const;
  std::uint64_t next_launch();

 private:
  Allocation& holding(const void* pointer, std::size_t bytes) const;
  std::map<std::uint64_t, std::unique_ptr<Allocation>> allocations_;  // by address
  std::size_t allocated_bytes_ = 0;
  std::uint64_t launches_ = 0;
};

struct Parameter {
  std::size_t offset, bytes;
};

struct Program;     // decoded code: program.hpp
struct ModuleText;  // parsed text: text.hpp

/// A kernel of a module. Decoded when first launched or asked about; lives as long as its module.
class Kernel {
 public:
  Kernel(std::string name, const ModuleText& text, const std::map<std::string, std::uint64_t>& globals);
  ~Kernel();
  Kernel(Kernel&&) noexcept;
  const std::string& name() const { return name_; }  // mangled
  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::size_t parameter_bytes() const;
  std::size_t static_shared_bytes() const;
  std::size_t local_bytes() const;
  /// From __launch_bounds__; 0 if not given.
  unsigned max_threads() const { return max_threads_; }

  /// Throws Unsupported if the code holds an instruction that is not known.
  const Program& program() const;

 private:
  std::string name_;
  const ModuleText* text_;
  const std::map<std::string, std::uint64_t>* globals_;
  std::vector<Parameter> parameters_;
  unsigned max_threads_ = 0;
  mutable std::unique_ptr<Program> program_;
};

struct Variable {
  void* pointer;
  std::size_t bytes;
};

/// The kernels and variables (__device__ and __constant__) of one PTX text. Variables are allocated in `memory`, which
/// must outlive the module, and initialised as the text says (to zero by default).
class Module {
 public:
  Module(std::string_view ptx, Memory& memory);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// Throws std::out_of_range if there is none of this (mangled) name.
  const Kernel& kernel(std::string_view name) const;
  Variable variable(std::string_view name) const;
  std::vector<std::string> kernel_names() const;

 private:
  Memory* memory_;
  std::unique_ptr<ModuleText> text_;
  std::map<std::string, Kernel, std::less<>> kernels_;
  std::map<std::string, Variable, std::less<>> variables_;
  std::map<std::string, std::uint64_t> addresses_;
};

/// Shared memory: what bank conflicts cost. A conflict-free access of w words a lane takes w wavefronts at most.
struct SharedAccesses {
  std::uint64_t accesses = 0;          // warp instructions
  std::uint64_t extra_wavefronts = 0;  // beyond those of a conflict-free access
};

/// Global memory: 32-byte sectors touched, and the least that would hold the (distinct) bytes, both summed over warp
/// instructions.
struct GlobalAccesses {
  std::uint64_t accesses = 0;
  std::uint64_t sectors = 0, least_sectors = 0;
  std::uint64_t bytes = 0;  // distinct bytes, summed over warp instructions
};

/// What the launches of one kernel did.
struct Counters {
  std::uint64_t launches = 0, blocks = 0;
  std::uint64_t instructions = 0;       // of warps
  std::uint64_t lane_instructions = 0;  // of threads
  std::uint64_t mma = 0;                // of warps
  std::uint64_t barriers = 0;           // bar.sync and barrier, of warps
  SharedAccesses shared_load, shared_store, shared_atomic, ldmatrix, shared_cp_async;
  GlobalAccesses global_load, global_store, global_atomic, global_cp_async;
};

struct LaunchOptions {
  std::size_t max_dynamic_shared_bytes = 48 * 1024;  // raise as cudaFuncSetAttribute does
  std::size_t max_shared_bytes = 163 * 1024;         // opt-in limit of a block, static and dynamic (sm_80)
  std::uint64_t instruction_limit = 20'000'000'000;  // warp instructions of a launch
  std::uint64_t block_order_seed = 0;                // 0: ascending, else shuffled
};

/// Runs launches one after the other, block by block.
class Machine {
 public:
  Memory& memory() { return memory_; }

  /// Runs a grid to its end. `arguments[i]` points to the value of parameter i, as for cudaLaunchKernel. Throws
  /// LaunchError, Unsupported or Violation.
  void launch(const Kernel& kernel, Dim3 grid, Dim3 block, std::size_t dynamic_shared_bytes,
              const void* const* arguments, const LaunchOptions& options = {});

  /// By mangled kernel name, since the start or the last reset.
  const std::map<std::string, Counters>& counters() const { return counters_; }
  void reset_counters() { counters_.clear(); }

 private:
  Memory memory_;
  std::map<std::string, Counters> counters_;
};

}  // namespace apb::ptx
