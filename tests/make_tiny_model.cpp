// make_tiny_model FOLDER SEED [FAMILY]: a small random model and its retaining heads, for the end-to-end tests.
#include <cstdlib>
#include <filesystem>

#include "tiny_model.hpp"

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return EXIT_FAILURE;
  const std::filesystem::path folder = argv[1];
  const auto shape = argc == 4 ? apb::tiny_families().at(argv[3]) : apb::TinyShape{};
  const auto model = apb::random_tiny_model(std::strtoull(argv[2], nullptr, 10), shape);
  apb::write_model_folder(model, folder, true);
  apb::write_retaining_heads(model, folder / "retaining_heads.bin");
  return EXIT_SUCCESS;
}
