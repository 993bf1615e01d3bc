// make_tiny_model FOLDER SEED [FAMILY [HEAD_DIM] | gpu LAYERS]: a small random model and its retaining heads, for the
// end-to-end tests.
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tiny_model.hpp"

namespace {

apb::TinyShape shape_of(int argc, char** argv) {
  if (argc < 4) return {};
  const std::string family = argv[3];
  if (family == "gpu" && argc > 4) return apb::tiny_gpu_shape(std::atoi(argv[4]));
  apb::TinyShape shape = apb::tiny_families().at(family);
  if (argc > 4) shape.head_dim = std::atoi(argv[4]);
  return shape;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) return EXIT_FAILURE;
  const std::filesystem::path folder = argv[1];
  const auto model = apb::random_tiny_model(std::strtoull(argv[2], nullptr, 10), shape_of(argc, argv));
  apb::write_model_folder(model, folder, true);
  apb::write_retaining_heads(model, folder / "retaining_heads.bin");
  return EXIT_SUCCESS;
}
