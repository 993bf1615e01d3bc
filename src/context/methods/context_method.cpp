#include "context/methods/context_method.hpp"

#include "context/methods/passing.hpp"
#include "context/methods/ring.hpp"
#include "context/methods/ulysses.hpp"

namespace apb {

std::unique_ptr<ContextMethod> make_context_method(const ContextMethod::Setup& setup) {
  switch (setup.partition.method) {
    case Method::ring:
      return std::make_unique<RingMethod>(setup);
    case Method::ulysses:
      return std::make_unique<UlyssesMethod>(setup);
    case Method::apb:
    case Method::full:
    case Method::star:
      break;
  }
  return std::make_unique<PassingMethod>(setup);
}

}  // namespace apb
