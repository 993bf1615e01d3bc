// The processor's peak of bf16 products on one core.
#pragma once

namespace apb {

/// GF/s of a loop of tile products, of bf16 vector products where there are no tiles, or of float ones.
double peak_gflops();

}  // namespace apb
