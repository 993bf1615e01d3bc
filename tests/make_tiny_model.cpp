// make_tiny_model FOLDER SEED: a small random model and its retaining heads, for the end-to-end tests.
#include <cstdlib>
#include <filesystem>

#include "tiny_model.hpp"

int main(int argc, char** argv) {
  if (argc != 3) return EXIT_FAILURE;
  const std::filesystem::path folder = argv[1];
  const auto model = apb::random_tiny_model(std::strtoull(argv[2], nullptr, 10));
  apb::write_model_folder(model, folder, true);
  apb::write_retaining_heads(model, folder / "retaining_heads.bin");
  return EXIT_SUCCESS;
}
