#include "launcher/tokenise_texts.h"

#include "core/log.h"
#include "parallel/communicator.h"

namespace weft {

TextOrPair split_at_tab(std::string_view line) {
  size_t tab = line.find('\t');
  if (tab == std::string_view::npos) return {.first = line, .second = std::nullopt};
  return {.first = line.substr(0, tab), .second = line.substr(tab + 1)};
}

std::vector<TokenisedText> tokenise_lines(const InferenceModel& loaded,
                                          const std::vector<std::string>& lines,
                                          int64_t limit) {
  std::vector<std::vector<int32_t>> ids, segments;
  if (loaded.mesh->world().rank() == 0) {
    size_t cut = 0;
    for (const std::string& line : lines) {
      TextOrPair texts = split_at_tab(line);
      TokenisedText text = tokenise_text(*loaded.tokenizer, texts.first, texts.second, 0);
      if (limit > 0 && std::ssize(text.ids) > limit) {
        ++cut;
        text = tokenise_text(*loaded.tokenizer, texts.first, texts.second, limit);
      }
      ids.push_back(std::move(text.ids));
      segments.push_back(std::move(text.segments));
    }
    if (cut > 0) log::warning("{} of {} texts were cut to {} tokens", cut, lines.size(), limit);
  }
  broadcast_ids(loaded.context, loaded.mesh->world(), ids);
  broadcast_ids(loaded.context, loaded.mesh->world(), segments);
  std::vector<TokenisedText> tokenised;
  tokenised.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    tokenised.push_back({.ids = std::move(ids[i]), .segments = std::move(segments[i])});
  }
  return tokenised;
}

}  // namespace weft
