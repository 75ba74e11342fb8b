#include "tokenizer/text_template.h"

#include <algorithm>

#include "core/error.h"

namespace weft {

namespace {

using Kind = TemplatePiece::Kind;

/// How many special tokens stand directly round the first text: list indices of TruncateFrom count them.
struct Surroundings {
  int64_t num_before = 0;
  int64_t num_after = 0;
};

Surroundings surroundings_of_first(const TextTemplate& text_template) {
  Surroundings around;
  bool has_text = false;
  for (const TemplatePiece& piece : text_template) {
    if (piece.kind == Kind::second_text) break;
    if (piece.kind == Kind::first_text) {
      has_text = true;
    } else {
      ++(has_text ? around.num_after : around.num_before);
    }
  }
  return around;
}

struct Lengths {
  size_t first = 0;
  size_t second = 0;
};

Lengths shortened_lengths(const TextTemplate& text_template, const TextIds& texts, size_t max_length) {
  Lengths lengths{texts.first.size(), texts.second == nullptr ? 0 : texts.second->size()};
  if (max_length == 0) return lengths;
  const auto is_special = [](const TemplatePiece& piece) { return piece.kind == Kind::special_token; };
  const auto num_special = static_cast<size_t>(std::count_if(text_template.begin(), text_template.end(), is_special));
  if (num_special > max_length) {
    fail_input("a text of at most {} tokens cannot hold its {} special tokens; raise the maximal length",
               max_length,
               num_special);
  }
  while (lengths.first + lengths.second > max_length - num_special) {
    --(lengths.first >= lengths.second ? lengths.first : lengths.second);
  }
  return lengths;
}

void append_shortened(const std::vector<int32_t>& ids,
                      size_t length,
                      const TruncateFrom& from,
                      const Surroundings& around,
                      std::vector<int32_t>& out) {
  const auto kept = static_cast<int64_t>(length);
  const auto num_removed = static_cast<int64_t>(ids.size()) - kept;
  int64_t removed_begin = kept;
  if (from.side == TruncateFrom::Side::left) {
    removed_begin = 0;
  } else if (from.side == TruncateFrom::Side::index && from.index >= 0) {
    removed_begin = from.index - around.num_before;
  } else if (from.side == TruncateFrom::Side::index) {
    // From the end tokens go backwards, each the one that has come to stand at the index.
    removed_begin = kept + around.num_after + from.index + 1;
  }
  removed_begin = std::clamp<int64_t>(removed_begin, 0, kept);
  out.insert(out.end(), ids.begin(), ids.begin() + removed_begin);
  out.insert(out.end(), ids.begin() + removed_begin + num_removed, ids.end());
}

}  // namespace

TextTemplate bert_pair_template(int32_t cls, int32_t sep) {
  return {{.id = cls},
          {.kind = Kind::first_text},
          {.id = sep},
          {.kind = Kind::second_text, .segment = 1},
          {.id = sep, .segment = 1}};
}

TextTemplate roberta_pair_template(int32_t cls, int32_t sep) {
  return {{.id = cls}, {.kind = Kind::first_text}, {.id = sep}, {.id = sep}, {.kind = Kind::second_text}, {.id = sep}};
}

PairEncoding fill_template(const TextTemplate& text_template, const TextIds& texts, const EncodePairOptions& options) {
  const Lengths lengths = shortened_lengths(text_template, texts, options.max_length);
  const Surroundings around = surroundings_of_first(text_template);
  PairEncoding encoding;
  encoding.ids.reserve(lengths.first + lengths.second + text_template.size());
  for (const TemplatePiece& piece : text_template) {
    if (piece.kind == Kind::special_token) {
      encoding.ids.push_back(piece.id);
    } else {
      const bool is_first = piece.kind == Kind::first_text;
      WEFT_ASSERT(is_first || texts.second != nullptr, "a template of two texts, but one text");
      append_shortened(is_first ? texts.first : *texts.second,
                       is_first ? lengths.first : lengths.second,
                       options.truncate_from,
                       around,
                       encoding.ids);
    }
    encoding.segment_ids.resize(encoding.ids.size(), piece.segment);
  }
  return encoding;
}

}  // namespace weft
