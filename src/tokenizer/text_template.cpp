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

Lengths shortened_lengths(const TextTemplate& text_template, const TemplateTexts& texts, size_t max_length) {
  Lengths lengths{texts.first.ids.size(), texts.second == nullptr ? 0 : texts.second->ids.size()};
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

/// Which of a text's `size` tokens go, so that `length` are left.
TokenSpan removed_tokens(size_t size, size_t length, const TruncateFrom& from, const Surroundings& around) {
  const auto kept = static_cast<int64_t>(length);
  int64_t removed_begin = kept;
  if (from.side == TruncateFrom::Side::left) {
    removed_begin = 0;
  } else if (from.side == TruncateFrom::Side::index && from.index >= 0) {
    removed_begin = from.index - around.num_before;
  } else if (from.side == TruncateFrom::Side::index) {
    // From the end tokens go backwards, each the one that has come to stand at the index.
    removed_begin = kept + around.num_after + from.index + 1;
  }
  const auto begin = static_cast<size_t>(std::clamp<int64_t>(removed_begin, 0, kept));
  return {begin, begin + size - length};
}

void append_shortened(const TextTokens& text, const TokenSpan& removed, int32_t number, PairEncoding& encoding) {
  for (size_t i = 0; i < text.ids.size(); ++i) {
    if (i >= removed.begin && i < removed.end) continue;
    encoding.ids.push_back(text.ids[i]);
    if (!text.spans.empty()) encoding.places.push_back({.text = number, .span = text.spans[i]});
  }
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

PairEncoding fill_template(const TextTemplate& text_template,
                           const TemplateTexts& texts,
                           const EncodePairOptions& options) {
  const Lengths lengths = shortened_lengths(text_template, texts, options.max_length);
  const Surroundings around = surroundings_of_first(text_template);
  PairEncoding encoding;
  encoding.ids.reserve(lengths.first + lengths.second + text_template.size());
  for (const TemplatePiece& piece : text_template) {
    if (piece.kind == Kind::special_token) {
      encoding.ids.push_back(piece.id);
      if (options.finds_places) encoding.places.emplace_back();
    } else {
      const bool is_first = piece.kind == Kind::first_text;
      WEFT_ASSERT(is_first || texts.second != nullptr, "a template of two texts, but one text");
      const TextTokens& text = is_first ? texts.first : *texts.second;
      const size_t length = is_first ? lengths.first : lengths.second;
      const TokenSpan removed = removed_tokens(text.ids.size(), length, options.truncate_from, around);
      append_shortened(text, removed, is_first ? 0 : 1, encoding);
    }
    encoding.segment_ids.resize(encoding.ids.size(), piece.segment);
  }
  return encoding;
}

}  // namespace weft
