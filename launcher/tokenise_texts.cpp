#include "launcher/tokenise_texts.h"

#include "core/log.h"
#include "parallel/communicator.h"
#include "tokenizer/tokenizer.h"

namespace weft {

std::vector<TokenisedText> tokenise_texts(const InferenceModel& loaded,
                                          const std::vector<std::string>& texts,
                                          int64_t limit) {
  std::vector<std::vector<int32_t>> lists;
  if (loaded.mesh->world().rank() == 0) {
    size_t cut = 0;
    for (const std::string& text : texts) {
      std::vector<int32_t>& ids = lists.emplace_back(loaded.tokenizer->encode(text, true));
      if (limit == 0 || static_cast<int64_t>(ids.size()) <= limit) continue;
      ++cut;
      ids = loaded.tokenizer->encode_pair(text, std::nullopt, {.max_length = static_cast<size_t>(limit)}).ids;
    }
    if (cut > 0) log::warning("{} of {} texts were cut to {} tokens", cut, texts.size(), limit);
  }
  broadcast_ids(loaded.context, loaded.mesh->world(), lists);
  std::vector<TokenisedText> tokenised;
  tokenised.reserve(lists.size());
  for (std::vector<int32_t>& ids : lists) tokenised.push_back({.ids = std::move(ids)});
  return tokenised;
}

}  // namespace weft
