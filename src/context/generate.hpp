// Greedy decoding: the tokens after the question, and when each was known.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "context/forward.hpp"
#include "device/device.hpp"
#include "model/model.hpp"

namespace apb {

struct Answer {
  std::vector<std::int32_t> tokens;     // the stop token included
  bool stopped = false;                 // by a stop token, else by the length
  std::vector<float> logits;            // [tokens, vocabulary] on rank 0, if kept
  double prefill_seconds = 0.0;         // until every rank knows the first token
  double first_token_seconds = 0.0;     // the same; of a further question: since it was asked
  double decode_seconds = 0.0;          // from there to the last token
  PhaseSeconds phase_seconds{};         // of the prefill on this rank; they add up to prefill_seconds
  double message_seconds = 0.0;         // of the prefill on this rank: Communicator::take_message_seconds
  PhaseSeconds decode_phase_seconds{};  // on this rank; not of further questions
};

/// Prefills and decodes at most `max_new_tokens` tokens; rank 0 takes the largest logit, the lower id on ties. The
/// clock starts here, so ranks should enter together.
Answer generate(Device& device, Communicator& communicator, const Model& model, Forward& forward,
                std::span<const std::int32_t> context, std::span<const std::int32_t> query, int max_new_tokens,
                bool keep_logits);

/// Answers a further question from the prefilled context; no time counts as prefill.
Answer generate_further(Device& device, Communicator& communicator, const Model& model, Forward& forward,
                        std::span<const std::int32_t> query, int max_new_tokens, bool keep_logits);

}  // namespace apb
