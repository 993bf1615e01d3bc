// From token spellings back to text.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace apb {

class Decoder {
 public:
  /// Reads `decoder` of tokenizer.json: ByteLevel; or Metaspace, Replace of a string, ByteFallback, Fuse and Strip,
  /// alone or in a Sequence.
  explicit Decoder(const nlohmann::json& description);

  /// The text of the tokens, which are bytes where byte_level(), otherwise spellings.
  std::string decode(std::vector<std::string> tokens) const;

  bool byte_level() const { return byte_level_; }

 private:
  using Step = std::function<std::vector<std::string>(std::vector<std::string>)>;
  void add_step(const nlohmann::json& step, const std::string& where);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace apb
