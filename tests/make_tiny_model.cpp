// make_tiny_model FOLDER SEED [FAMILY [HEAD_DIM]]: a small random model and its retaining heads, for the end-to-end
// tests.
#include <cstdlib>
#include <filesystem>

#include "tiny_model.hpp"

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) return EXIT_FAILURE;
  const std::filesystem::path folder = argv[1];
  auto shape = argc > 3 ? apb::tiny_families().at(argv[3]) : apb::TinyShape{};
  if (argc > 4) shape.head_dim = std::atoi(argv[4]);
  const auto model = apb::random_tiny_model(std::strtoull(argv[2], nullptr, 10), shape);
  apb::write_model_folder(model, folder, true);
  apb::write_retaining_heads(model, folder / "retaining_heads.bin");
  return EXIT_SUCCESS;
}
